"""Storages of type `dir`: which volume lies in which file, and how much room there is.

Source: pve-storage, PVE/Storage/Plugin.pm (parse_volname, path) and PVE/Storage/DirPlugin.pm.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vi_ops.lab.route import Refusal

FOLDERS = {
    "images": "images",
    "import": "import",
    "iso": "template/iso",
    "vztmpl": "template/cache",
    "backup": "dump",
    "snippets": "snippets",
    "rootdir": "private",
}
VOLUME_ID = re.compile(r"(?P<storage>[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]):(?P<volume>.+)")
IMAGE = re.compile(r"(?:[^/]+/)*(?P<vmid>\d+)/(?P<name>[^/]+\.(?P<format>raw|qcow2|vmdk|subvol))")


@dataclass(frozen=True)
class Volume:
    """One volume of a storage; `volid` is its full name, `path` its file."""

    volid: str
    path: Path
    content: str
    format: str
    vmid: int | None = None

    @property
    def name(self) -> str:
        return self.volid.partition(":")[2]


@dataclass(frozen=True)
class Storage:
    """A folder that holds images, ISO files, snippets and backups."""

    name: str
    path: Path
    content: tuple[str, ...] = ("images", "import", "iso", "vztmpl", "backup", "snippets", "rootdir")
    type: str = "dir"

    def folder(self, content: str) -> Path:
        """Where volumes of that content type lie; created when asked for."""
        folder = self.path / FOLDERS[content]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def volume(self, name: str) -> Volume:
        """The volume of that name (`100/vm-100-disk-0.qcow2`, `import/x.qcow2`); the file need not exist."""
        kind, _, file = name.partition("/")
        if kind in FOLDERS and kind != "images" and file and "/" not in file and file not in (".", ".."):
            suffix = file.rpartition(".")[2] if kind in ("import", "iso", "backup") else "raw"
            return Volume(f"{self.name}:{name}", self.path / FOLDERS[kind] / file, kind, suffix)
        match = IMAGE.fullmatch(name)
        if not match:
            raise Refusal(500, f"unable to parse directory volume name '{name}'")
        path = self.path / "images" / match["vmid"] / match["name"]
        return Volume(f"{self.name}:{name}", path, "images", match["format"], int(match["vmid"]))

    def volumes(self) -> list[Volume]:
        """Every volume that is there, by name."""
        found = []
        for content, folder in FOLDERS.items():
            pattern = "*/*" if content == "images" else "*"
            for path in sorted((self.path / folder).glob(pattern)):
                name = f"{path.parent.name}/{path.name}" if content == "images" else f"{content}/{path.name}"
                if path.is_file() and (content != "images" or IMAGE.fullmatch(name)):
                    found.append(self.volume(name))
        return found

    def free_name(self, vmid: int, suffix: str) -> str:
        """The lowest free `<vmid>/vm-<vmid>-disk-<n>.<suffix>`, whatever the suffixes of the others."""
        folder = self.path / "images" / str(vmid)
        taken = {path.stem for path in folder.glob(f"*-{vmid}-disk-*")}
        for number in range(1000):
            stem = f"vm-{vmid}-disk-{number}"
            if stem not in taken and f"base-{vmid}-disk-{number}" not in taken:
                return f"{vmid}/{stem}.{suffix}"
        raise Refusal(500, f"unable to allocate an image name for VM {vmid} in storage '{self.name}'")

    def usage(self, full: bool = False) -> dict[str, int]:
        """`total`, `used` and `avail` in bytes of the file system below; `full` as the fault wants it."""
        self.path.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(self.path)
        avail = 0 if full else disk.free
        return {"total": disk.total, "used": disk.total if full else disk.used, "avail": avail}


def split_volid(volid: str) -> tuple[str, str]:
    """`local:import/x.qcow2` as `local` and `import/x.qcow2`; 500 as Proxmox words it when it is none."""
    match = VOLUME_ID.fullmatch(volid)
    if not match:
        raise Refusal(500, f"unable to parse volume ID '{volid}'")
    return match["storage"], match["volume"]


def storages_from(entries: dict[str, Any], home: Path) -> dict[str, Storage]:
    """Storages as lab.json describes them: name to {path?, content?}; the default is one named `local`."""
    wanted = entries or {"local": {}}
    return {
        name: Storage(
            name,
            Path(entry.get("path", home / "storage" / name)),
            tuple(entry.get("content", Storage.content)),
        )
        for name, entry in wanted.items()
    }
