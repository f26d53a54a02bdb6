"""Volumes on a directory storage, with the real qemu-img."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vi_ops.lab import cloudinit, volume
from vi_ops.lab.fault import Fault
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.units import MIB

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "lab", "9.2")


def info(path: Path) -> dict[str, Any]:
    text = subprocess.run(
        ["qemu-img", "info", "--output=json", path], check=True, capture_output=True, text=True
    ).stdout
    answer: dict[str, Any] = json.loads(text)
    return answer


def image(node: Node, name: str, *options: str, fmt: str = "qcow2") -> str:
    path = node.storage("local").folder("import") / name
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, path, "8M"], check=True)
    subprocess.run(["qemu-io", "-f", fmt, "-c", "write -P 7 1M 64k", path], check=True, capture_output=True)
    return f"local:import/{name}"


def reads(path: Path, fmt: str, pattern: int) -> bool:
    command = f"read -P {pattern} 1M 64k"
    answer = subprocess.run(["qemu-io", "-f", fmt, "-c", command, path], capture_output=True, text=True)
    return answer.returncode == 0 and "verification failed" not in answer.stdout


def test_names_take_the_lowest_free_number_whatever_the_format(node: Node) -> None:
    async def run() -> list[str]:
        first = await volume.allocate(node, "local", 106, MIB, volume_format="raw")
        second = await volume.allocate(node, "local", 106, MIB)
        third = await volume.allocate(node, "local", 106, MIB)
        await volume.free(node, second)
        return [first, second, third, await volume.allocate(node, "local", 106, MIB, volume_format="raw")]

    assert asyncio.run(run()) == [
        "local:106/vm-106-disk-0.raw",
        "local:106/vm-106-disk-1.qcow2",
        "local:106/vm-106-disk-2.qcow2",
        "local:106/vm-106-disk-1.raw",
    ]
    assert volume.volumes(node, 106) == [
        "local:106/vm-106-disk-0.raw",
        "local:106/vm-106-disk-1.raw",
        "local:106/vm-106-disk-2.qcow2",
    ]


def test_a_volume_is_thin_and_private_and_its_making_is_logged(node: Node) -> None:
    log: list[str] = []
    volid = asyncio.run(volume.allocate(node, "local", 106, 64 * MIB, volume_format="raw", log=log.append))
    path = volume.path(node, volid)

    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 <= 4096
    assert path.stat().st_mode & 0o777 == 0o600
    assert log == [f"Formatting '{path}', fmt=raw size={64 * MIB} preallocation=off"]


@pytest.mark.parametrize(("name", "fmt"), [("a.qcow2", "qcow2"), ("a.raw", "raw")])
@pytest.mark.parametrize("wanted", [None, "qcow2", "raw"])
def test_an_import_is_a_copy_of_its_own(node: Node, name: str, fmt: str, wanted: str | None) -> None:
    source = image(node, name, fmt=fmt)

    volid, size_bytes = asyncio.run(volume.import_from(node, source, "local", 106, volume_format=wanted))
    volume.path(node, source).write_bytes(b"gone")

    assert volid == f"local:106/vm-106-disk-0.{wanted or fmt}"
    assert size_bytes == 8 * MIB
    assert "backing-filename" not in info(volume.path(node, volid))
    assert reads(volume.path(node, volid), wanted or fmt, 7)


def test_an_import_of_an_absent_image_leaves_nothing(node: Node) -> None:
    with pytest.raises(GuestError, match=r"^failed to stat '.*/import/nope\.qcow2'$"):
        asyncio.run(volume.import_from(node, "local:import/nope.qcow2", "local", 106))
    assert volume.volumes(node, 106) == []


def test_an_image_that_rests_on_another_file_is_refused(node: Node) -> None:
    image(node, "base.qcow2")
    source = image(node, "top.qcow2", "-b", "base.qcow2", "-F", "qcow2")

    with pytest.raises(GuestError, match="has a backing file"):
        asyncio.run(volume.import_from(node, source, "local", 106))
    assert volume.volumes(node, 106) == []


def test_a_broken_image_leaves_nothing(node: Node) -> None:
    path = node.storage("local").folder("import") / "bad.qcow2"
    path.write_bytes(b"QFI\xfb\0\0\0\x09")

    with pytest.raises(GuestError, match="qemu-img info"):
        asyncio.run(volume.import_from(node, "local:import/bad.qcow2", "local", 106))
    assert volume.volumes(node, 106) == []


@pytest.mark.parametrize("volume_format", ["raw", "qcow2"])
def test_a_volume_whose_making_fails_is_not_there(node: Node, volume_format: str) -> None:
    with pytest.raises(GuestError, match="qemu-img create"):
        asyncio.run(volume.allocate(node, "local", 106, -1, volume_format=volume_format))
    assert volume.volumes(node, 106) == []


def test_disks_grow_and_never_shrink(node: Node) -> None:
    async def run(size_bytes: int) -> int:
        await volume.resize(node, "local:106/vm-106-disk-0.qcow2", size_bytes)
        return await volume.size(node, "local:106/vm-106-disk-0.qcow2")

    asyncio.run(volume.allocate(node, "local", 106, 8 * MIB))
    assert asyncio.run(run(8 * MIB)) == 8 * MIB
    assert asyncio.run(run(16 * MIB)) == 16 * MIB
    with pytest.raises(GuestError, match=r"^shrinking disks is not supported$"):
        asyncio.run(run(8 * MIB))
    assert asyncio.run(volume.size(node, "local:106/vm-106-disk-0.qcow2")) == 16 * MIB


def test_a_template_s_volume_is_read_only_and_stays_while_a_clone_rests_on_it(node: Node) -> None:
    async def run() -> tuple[str, str, str]:
        origin, _ = await volume.import_from(node, image(node, "a.qcow2"), "local", 100)
        base = await volume.template(node, origin)
        linked, size_bytes = await volume.clone(node, base, "local", 101, full=False)
        full, _ = await volume.clone(node, base, "local", 102)
        assert size_bytes == 8 * MIB
        with pytest.raises(GuestError, match="still in use by linked clone"):
            await volume.free(node, base)
        return base, linked, full

    base, linked, full = asyncio.run(run())

    assert base == "local:100/base-100-disk-0.qcow2"
    assert linked == "local:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2"
    assert volume.path(node, base).stat().st_mode & 0o222 == 0
    assert reads(volume.path(node, linked), "qcow2", 7)
    assert "backing-filename" not in info(volume.path(node, full))
    asyncio.run(volume.free(node, linked))
    asyncio.run(volume.free(node, base))
    assert not volume.path(node, base).parent.exists()


def test_freeing_what_is_gone_is_only_said(node: Node) -> None:
    log: list[str] = []
    asyncio.run(volume.free(node, "local:106/vm-106-disk-0.raw", log.append))

    assert log == [f"disk image '{volume.path(node, 'local:106/vm-106-disk-0.raw')}' does not exist"]


def test_a_full_storage_refuses(node: Node) -> None:
    node.faults.inject(Fault("full-storage", vmid=106, count=1))

    with pytest.raises(GuestError, match="No space left on device"):
        asyncio.run(volume.allocate(node, "local", 106, MIB))
    assert volume.volumes(node, 106) == []
    assert asyncio.run(volume.allocate(node, "local", 106, MIB))


@pytest.mark.skipif(not volume.FIRMWARE.exists(), reason="OVMF is not installed")
@pytest.mark.parametrize(("enrolled", "source"), [(False, "OVMF_VARS_4M.fd"), (True, "OVMF_VARS_4M.ms.fd")])
def test_firmware_variables(node: Node, enrolled: bool, source: str) -> None:
    volid, size_bytes = asyncio.run(volume.allocate_efidisk(node, "local", 106, enrolled=enrolled))

    assert size_bytes == 540672
    assert volume.path(node, volid).read_bytes() == (volume.FIRMWARE / source).read_bytes()


@pytest.mark.skipif(
    shutil.which("xorriso") is None, reason="xorriso is not installed, which reads an ISO back"
)
@pytest.mark.parametrize("volume_format", ["qcow2", "raw"])
def test_the_cloudinit_volume_is_a_4_mib_iso_named_cidata(
    node: Node, tmp_path: Path, volume_format: str
) -> None:
    log: list[str] = []
    volid = asyncio.run(volume.allocate_cloudinit(node, "local", 106, volume_format=volume_format))
    config = {"ide2": f"{volid},media=cdrom", "name": "video", "cipassword": "$6$x$y"}

    path = asyncio.run(cloudinit.build_iso(node, 106, config, log.append))

    assert path == volume.path(node, volid)
    assert info(path)["virtual-size"] == 4 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert log == ["generating cloud-init ISO"]
    iso, out = tmp_path / "seed.iso", tmp_path / "files"
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, iso], check=True)
    assert iso.read_bytes()[32808:32814] == b"cidata"
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", out], check=True, capture_output=True
    )
    assert (out / "user-data").read_text() == cloudinit.user_data(config, 106)
    assert {file.name for file in out.iterdir()} == {
        "user-data",
        "meta-data",
        "network-config",
        "vendor-data",
    }


def test_snippets_replace_and_an_absent_one_is_named(node: Node) -> None:
    folder = node.storage("local").folder("snippets")
    (folder / "user.yaml").write_text("#cloud-config\n")
    config = {"name": "video", "cicustom": "user=local:snippets/user.yaml,vendor=local:snippets/user.yaml"}

    files = cloudinit.seed(node, 106, config)

    assert files["user-data"] == files["vendor-data"] == "#cloud-config\n"
    assert files["meta-data"] == cloudinit.meta_data("#cloud-config\n", files["network-config"])
    with pytest.raises(GuestError, match=r"^volume 'local:snippets/u\.yaml' does not exist$"):
        cloudinit.seed(node, 106, {"cicustom": "user=local:snippets/u.yaml"})
    with pytest.raises(GuestError, match="is not in the snippets directory"):
        cloudinit.seed(node, 106, {"cicustom": "user=local:import/u.qcow2"})


def test_snippets_have_room_on_the_drive(node: Node) -> None:
    folder = node.storage("local").folder("snippets")
    for name in ("user", "network", "meta", "vendor"):
        (folder / name).write_text("x" * MIB)
    words = ",".join(f"{name}=local:snippets/{name}" for name in ("user", "network", "meta", "vendor"))

    with pytest.raises(GuestError, match=r"^Cloud-Init sum of snippets too big \(> 3 MiB\)$"):
        cloudinit.seed(node, 106, {"cicustom": words})
