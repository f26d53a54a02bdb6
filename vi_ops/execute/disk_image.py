"""A bootable disk from a system in a tar file: no root, no loop device, no mount.

Everything that decides the bytes runs from the system itself (its mke2fs, its GRUB), started through its own
dynamic loader, so that the machine that builds has no say in the result.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from vi_ops.errors import StepFailed
from vi_ops.execute.bootloader import boot_sector, embedded_core
from vi_ops.execute.bootstrap import Tell
from vi_ops.plan.image import DiskLayout, Partition, Recipe, plan_layout, sfdisk_script
from vi_ops.units import MIB

_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_GRUB: Final = "usr/lib/grub"
_TAKEN: Final = (
    *(f"{_GRUB}/", "usr/lib/shim/", "usr/bin/grub-mkimage"),
    *("usr/sbin/mke2fs", "etc/mke2fs.conf", "usr/sbin/mkfs.fat"),
)
_CORE_MODULES: Final = (
    *("biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "configfile", "linux"),
    *("serial", "terminal", "test", "echo"),
)


class DiskBuild:
    """One disk in the making: `work` is a folder of its own for the parts."""

    def __init__(self, recipe: Recipe, tar: Path, work: Path, epoch: int) -> None:
        self.recipe = recipe
        self.layout = plan_layout(recipe.build.disk)
        self._tar = tar
        self._work = work
        self._tree = work / "tree"
        self._env = os.environ | {
            "SOURCE_DATE_EPOCH": str(epoch),
            "E2FSPROGS_FAKE_TIME": str(epoch),
            "MKE2FS_CONFIG": str(self._tree / "etc/mke2fs.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "TZ": "UTC",
        }

    def write(self, disk: Path, tell: Tell) -> None:
        """Write the raw disk, sparse."""
        tell("taking the tools out of the system")
        take_tools(self._tar, self._tree)
        tell("making the root file system")
        root, esp = self._root(), self._esp()
        _sparse(disk, self.layout.size_bytes)
        self._run(["sfdisk", "--quiet", str(disk)], sfdisk_script(self.layout, self.recipe))
        tell("assembling the disk")
        with disk.open("r+b") as out:
            self._embed_grub(out, self.layout)
            for part, content in ((self.layout.esp, esp), (self.layout.root, root)):
                _copy_sparse(content, out, part)
                content.unlink()

    def _root(self) -> Path:
        root = self._work / "root.ext4"
        _sparse(root, self.layout.root.size_bytes)
        extended = f"hash_seed={self.recipe.derived('hash')},assume_storage_prezeroed=1"
        options = ["-q", "-t", "ext4", "-L", "root", "-U", self.recipe.root_uuid, "-E", extended]
        self._run_own("usr/sbin/mke2fs", *options, "-d", str(self._tar), str(root))
        return root

    def _esp(self) -> Path:
        """shim and GRUB as Debian signs them, at the path that firmware tries without a boot entry."""
        esp, serial = self._work / "esp.fat", self.recipe.esp_serial.replace("-", "")
        _sparse(esp, self.layout.esp.size_bytes)
        # mformat would write a partition table into the boot sector, of which GRUB warns at every update.
        self._run_own("usr/sbin/mkfs.fat", "--invariant", "-F", "16", "-i", serial, "-n", "ESP", str(esp))
        self._run(["mmd", "-i", str(esp), "::EFI", "::EFI/BOOT", "::EFI/debian"])
        shim, grub = self._tree / "usr/lib/shim", self._tree / _GRUB / "x86_64-efi-signed"
        for source, target in (
            (shim / "shimx64.efi.signed", "BOOT/BOOTX64.EFI"),
            (shim / "mmx64.efi.signed", "BOOT/mmx64.efi"),
            (grub / "grubx64.efi.signed", "BOOT/grubx64.efi"),
            (self._stub(), "debian/grub.cfg"),
        ):
            self._run(["mcopy", "-i", str(esp), str(source), f"::EFI/{target}"])
        return esp

    def _embed_grub(self, disk: IO[bytes], layout: DiskLayout) -> None:
        core, modules = self._work / "core.img", self._tree / _GRUB / "i386-pc"
        options = ["-O", "i386-pc", "-d", str(modules), "-p", "/boot/grub", "-c", str(self._stub())]
        self._run_own("usr/bin/grub-mkimage", *options, "-o", str(core), *_CORE_MODULES)
        embedded = embedded_core(core.read_bytes(), layout.bios.start_bytes)
        assert len(embedded) <= layout.bios.size_bytes  # noqa: S101
        disk.write(boot_sector((modules / "boot.img").read_bytes(), layout.bios.start_bytes))
        disk.seek(layout.bios.start_bytes)
        disk.write(embedded)

    def _stub(self) -> Path:
        stub = self._work / "stub.cfg"
        stub.write_text(
            f"search --no-floppy --fs-uuid --set=root {self.recipe.root_uuid}\n"
            "set prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n",
            "utf-8",
        )
        return stub

    def _run_own(self, program: str, *options: str) -> None:
        libraries = self._tree / _LIBRARIES
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        self._run([*loader, str(self._tree / program), *options])

    def _run(self, argv: list[str], given: str | None = None) -> None:
        run_tool(argv, self._env, given)


def run_tool(argv: list[str], env: Mapping[str, str] | None = None, given: str | None = None) -> None:
    """Run a program to its end. Raises StepFailed with the end of what it said."""
    done = subprocess.run(argv, env=env, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n  ".join((done.stdout + done.stderr).splitlines()[-10:])
        raise StepFailed("image-tool", f"{' '.join(argv[:4])} ... ended with {done.returncode}:\n  {tail}")


def take_tools(tar: Path, tree: Path) -> None:
    """Extract the programs, libraries and boot files that the assembly uses."""
    with tarfile.open(tar) as archive:
        wanted = [member for member in archive if _is_taken(member.name.removeprefix("./"))]
        # Python 3.11.2, which Debian 12 has, knows no filters yet.
        options: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        archive.extractall(tree, wanted, **options)  # noqa: S202


def _is_taken(path: str) -> bool:
    folder, _, file = path.rpartition("/")
    return path.startswith(_TAKEN) or (folder == _LIBRARIES and ".so" in file)


def _sparse(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def _copy_sparse(source: Path, disk: IO[bytes], part: Partition) -> None:
    with source.open("rb") as content:
        at_bytes = part.start_bytes
        while block := content.read(MIB):
            if block.count(0) != len(block):
                disk.seek(at_bytes)
                disk.write(block)
            at_bytes += len(block)


def sha256_of(path: Path) -> str:
    """Fingerprint of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
