"""Building an image: done once, refused clearly, and what a cut-off build leaves. Programs are stand-ins."""

from __future__ import annotations

import http.server
import io
import os
import shutil
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from vi_ops.errors import LockHeld, Refused, SpecError, StepFailed, Unreachable
from vi_ops.execute import bootstrap, disk_image, image
from vi_ops.execute.bootloader import boot_sector, embedded_core
from vi_ops.execute.lock import hold_lock
from vi_ops.plan.image import plan_sources
from vi_ops.specs.image import find_image
from vi_ops.units import MIB

DEBIAN = find_image("debian-13")
STATUS = b"Package: bash\nStatus: install ok installed\nVersion: 5.2\n"
RELEASE = b"-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n"


class _Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_there = self.path.endswith("/InRelease")
        self.send_response(200 if is_there else 404)
        self.end_headers()
        self.wfile.write(RELEASE if is_there else b"")

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def mirror() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


class Ground:
    """A cache, a mirror and stand-ins for the programs; `runs` counts the bootstraps."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.runs = folder / "runs"
        self.cache = folder / "cache"
        self.system = folder / "system.tar"
        with tarfile.open(self.system, "w") as archive:
            member = tarfile.TarInfo("./var/lib/dpkg/status")
            member.size = len(STATUS)
            archive.addfile(member, io.BytesIO(STATUS))
        tar = 'for word in "$@"; do case $word in */system.tar.part*) target=$word;; esac; done\n'
        version = '[ "$1" = --version ] && exit 0\n'
        self.program("mmdebstrap", f'{version}echo run >> {self.runs}\n{tar}cp {self.system} "$target"')
        self.program(
            "qemu-img", 'for last in "$@"; do :; done; case $1 in convert) echo disk > "$last";; esac'
        )
        for name in ("sfdisk", "mcopy"):
            self.program(name, "true")
        # Neither makes a namespace: they run the program that they are given.
        self.program("unshare", 'while [ $# -gt 1 ] && [ "$1" != mmdebstrap ]; do shift; done; exec "$@"')
        self.program("setpriv", 'shift 2; exec "$@"')

    def program(self, name: str, script: str) -> None:
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    @property
    def bootstraps(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0

    def left(self) -> set[str]:
        """What lies in the image folder, locks left aside."""
        found = {str(path.relative_to(self.cache)) for path in self.cache.rglob("*") if path.is_file()}
        return {path for path in found if not path.endswith(".lock")}


@pytest.fixture
def ground(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> Ground:
    made = Ground(tmp_path)
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setenv("PATH", f"{made.programs}:/usr/bin:/bin")
    monkeypatch.setenv("VI_OPS_CACHE_DIR", str(made.cache))
    monkeypatch.setattr(bootstrap, "KEYRING", keyring)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    known = (f"{mirror}/debian", f"{mirror}/debian-security")
    monkeypatch.setattr(image, "known_archives", lambda: known)
    monkeypatch.setattr(disk_image.DiskBuild, "write", lambda self, disk, tell: disk.write_bytes(b"raw disk"))
    return made


def build(again: bool = False) -> bool:
    return image.build_image(DEBIAN, lambda line: None, again=again)[1]


def test_the_second_build_does_nothing(ground: Ground) -> None:
    assert build()
    assert ground.left() == {"images/debian-13.qcow2", "images/debian-13.json"}
    built = image.read_built("debian-13")
    assert built is not None
    assert built.packages == {"bash": "5.2"}
    assert built.epoch == 1789199741  # the date of the mirror's newest Release file
    assert not build()
    assert ground.bootstraps == 1
    assert build(again=True)
    assert ground.bootstraps == 2


def test_a_changed_recipe_builds_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    monkeypatch.setattr(image, "_shipped", lambda name: {"customize.sh": b"echo new\n"})
    assert build()


def test_a_replaced_file_counts_as_no_image(ground: Ground) -> None:
    build()
    image.image_path("debian-13").write_bytes(b"half a file")
    assert image.read_built("debian-13") is None
    assert build()


def test_a_cut_off_build_leaves_no_image_and_goes_on_where_it_was(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(disk_image.DiskBuild, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            build()
    assert not [path for path in ground.left() if path.count("/") == 1]
    assert build()
    assert ground.bootstraps == 1  # the packages were not installed a second time
    assert ground.left() == {"images/debian-13.qcow2", "images/debian-13.json"}


def test_a_bootstrap_cut_off_is_begun_anew(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    real = image.bootstrap

    def half(out: Path, *_: object) -> None:
        out.write_bytes(b"half a tar")
        raise KeyboardInterrupt

    monkeypatch.setattr(image, "bootstrap", half)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(image, "bootstrap", real)
    assert build()
    assert ground.bootstraps == 1


def test_a_failed_bootstrap_shows_its_last_lines(ground: Ground) -> None:
    ground.program("mmdebstrap", "echo 'I: downloading'; echo 'E: no package cloud-init' >&2; exit 25")
    with pytest.raises(StepFailed) as caught:
        build()
    assert caught.value.code == "image-bootstrap"
    assert "E: no package cloud-init" in caught.value.message
    assert "25" in caught.value.message


def test_missing_programs_are_named_by_package(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda program, path=None: None)
    with pytest.raises(Refused) as caught:
        build()
    assert caught.value.code == "image-tools-missing"
    assert "apt install mmdebstrap fdisk mtools qemu-utils" in str(caught.value.hint)


def test_without_root_and_namespaces_it_is_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    ground.program("unshare", "exit 1")
    with pytest.raises(Refused) as caught:
        build()
    assert caught.value.code == "image-no-namespaces"
    assert "ended with 1" in caught.value.message
    assert ground.bootstraps == 0


@pytest.mark.parametrize(
    ("user", "unshare", "mode"), [(1000, "true", "unshare"), (0, None, "unshare"), (0, "false", "root")]
)
def test_mounts_are_made_in_a_namespace_where_that_is_allowed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, user: int, unshare: str | None, mode: str
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: user)
    if unshare:
        ground.program("unshare", unshare)
    ground.program("mmdebstrap", 'echo "$1"; exit 1')
    with pytest.raises(StepFailed) as caught:
        build()
    assert f"--mode={mode}" in caught.value.message


def test_a_silent_mirror_is_unreachable(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable) as caught:
        image.build_image(DEBIAN, lambda line: None, mirror="http://127.0.0.1:9/debian")
    assert caught.value.code == "image-mirror"
    assert "127.0.0.1:9/debian/dists/trixie/InRelease" in caught.value.message


@pytest.mark.parametrize(
    "apt", ["echo http://near.example/debian/", "exit 100"], ids=["Debian", "no apt source"]
)
def test_the_mirrors_of_apt_come_before_the_one_that_mmdebstrap_carries(ground: Ground, apt: str) -> None:
    ground.program("apt-get", apt)
    ground.program(
        "mmdebstrap",
        """my $mirror    = 'http://far.example/debian';
        my $secmirror = "https://far.example/debian-security/";
        if ($ubuntu) { $mirror = 'http://other.example/ubuntu'; }
        echo "deb http://text.example/debian/ sid main" L<http://pod.example/debian>""",
    )
    far = ("http://far.example/debian", "https://far.example/debian-security")
    near = ("http://near.example/debian",) if "near" in apt else ()
    assert bootstrap.known_archives() == (*near, *far)


def test_this_machines_mmdebstrap_carries_a_mirror() -> None:
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed")
    sources = plan_sources("trixie", None, bootstrap._default_archives())
    assert [urlsplit(source.uri).path for source in sources] == ["/debian", "/debian", "/debian-security"]


def test_one_build_at_a_time(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "BUILD_DEADLINE_S", 0.0)
    folder = image.image_path("debian-13").parent
    folder.mkdir(parents=True)
    with hold_lock(folder / "debian-13.lock", "x", "x"), pytest.raises(LockHeld):
        build()


def test_an_image_without_recipe_is_fetched_instead() -> None:
    with pytest.raises(SpecError) as caught:
        image.build_image(find_image("ubuntu-24.04"), lambda line: None)
    assert caught.value.code == "image-not-built-here"
    assert "image fetch ubuntu-24.04" in str(caught.value.hint)


def test_overlays_are_equal_bytes_owned_by_root(tmp_path: Path) -> None:
    files = {"etc/hosts": b"one\n", "boot/grub/grub.cfg": b"two\n"}
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    bootstrap.pack_overlay(files, one, 1_700_000_000)
    bootstrap.pack_overlay(dict(reversed(files.items())), two, 1_700_000_000)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["boot/grub/grub.cfg", "etc/hosts"]
    assert {(member.uid, member.gid, member.mtime, member.mode) for member in members} == {
        (0, 0, 1_700_000_000, 0o644)
    }


def test_every_template_is_rendered(ground: Ground) -> None:
    recipe = image.recipe_of(DEBIAN)
    rendered = image._rendered(recipe)
    assert not [path for path in rendered if path.endswith(".j2")]
    text = b"\n".join(rendered.values()).decode()
    assert "{{" not in text
    assert text.count(recipe.root_uuid) == 3  # fstab, and twice in grub.cfg


def test_the_boot_sector_points_at_the_core_image() -> None:
    sector = boot_sector(bytes(range(256)) * 2, MIB)
    assert len(sector) == 440  # the partition table behind it stays
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert sector[0x66:0x68] == b"\x90\x90"
    core = embedded_core(bytes(1024), MIB)
    assert len(core) == 1024
    assert struct.unpack_from("<Q", core, 0x1F4) == (2049,)


def test_only_the_needed_tools_are_taken_out(tmp_path: Path) -> None:
    names = ["./usr/sbin/mke2fs", "./usr/lib/x86_64-linux-gnu/libc.so.6", "./etc/shadow", "./usr/bin/bash"]
    tar = tmp_path / "system.tar"
    with tarfile.open(tar, "w") as archive:
        for name in [*names, "./usr/lib/x86_64-linux-gnu/perl/x.so"]:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    disk_image.take_tools(tar, tmp_path / "tree")
    found = {
        os.path.relpath(file, tmp_path / "tree") for file in (tmp_path / "tree").rglob("*") if file.is_file()
    }
    assert found == {"usr/sbin/mke2fs", "usr/lib/x86_64-linux-gnu/libc.so.6"}
