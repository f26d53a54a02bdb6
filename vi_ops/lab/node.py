"""The lab's node: everything a handler may touch, in one value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from vi_ops.lab.acl import Acl
from vi_ops.lab.auth import Login
from vi_ops.lab.fault import Faults
from vi_ops.lab.mapping import Mappings
from vi_ops.lab.route import Refusal
from vi_ops.lab.storage import Storage, Volume, split_volid, storages_from
from vi_ops.lab.store import read_json
from vi_ops.lab.task import Tasks


@dataclass(frozen=True)
class Host:
    """The figures that the node reports as its own; `lab.json` may set them, the default is this machine."""

    cpus: int
    sockets: int
    memory_bytes: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Host:
        return cls(
            int(entry.get("cpus", os.cpu_count() or 1)),
            int(entry.get("sockets", 1)),
            int(entry.get("memory_bytes", psutil.virtual_memory().total)),
        )


@dataclass
class Node:
    """One lab node. `home` is the lab's folder; `release` is 8.4 or 9.2."""

    home: Path
    release: str
    name: str = "pve1"
    settings: dict[str, Any] = field(init=False)
    host: Host = field(init=False)
    faults: Faults = field(init=False)
    tasks: Tasks = field(init=False)
    acl: Acl = field(init=False)
    login: Login = field(init=False)
    storages: dict[str, Storage] = field(init=False)

    def __post_init__(self) -> None:
        for folder in (self.config_dir, self.run_dir, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.settings = read_json(self.home / "lab.json", {})
        self.host = Host.of(self.settings.get("host", {}))
        self.faults = Faults(self.home / "faults.json")
        self.tasks = Tasks(self.log_dir / "tasks", self.name, self.faults)
        self.acl = Acl(self.etc_dir / "access.json", self.release)
        self.login = Login(self.home / "private" / "ticket.key", self.acl)
        self.storages = storages_from(self.settings.get("storage", {}), self.home)
        for content in self.storages["local"].content:
            self.storages["local"].folder(content)

    @property
    def mappings(self) -> Mappings:
        """PCI, USB and directory mappings."""
        return Mappings(self.etc_dir / "mapping.json")

    @property
    def devices(self) -> dict[str, list[dict[str, Any]]]:
        """The host's `pci` and `usb` devices, as lab.json lists them: shaped as in hardware/pci and usb."""
        return {kind: self.settings.get(kind, []) for kind in ("pci", "usb")}

    @property
    def version(self) -> str:
        """The pve-manager version that this release shows."""
        return {"8.4": "8.4.21", "9.2": "9.2.4"}[self.release]

    @property
    def major(self) -> int:
        """8 or 9."""
        return int(self.release.split(".")[0])

    @property
    def etc_dir(self) -> Path:
        return self.home / "etc" / "pve"

    @property
    def config_dir(self) -> Path:
        """Where `<vmid>.conf` lie."""
        return self.etc_dir / "nodes" / self.name / "qemu-server"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files of guests."""
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    @property
    def bridges(self) -> dict[str, dict[str, Any]]:
        """Bridge name to its settings; `cidr` is the node's own address on it."""
        bridges: dict[str, dict[str, Any]] = self.settings.get(
            "bridges", {"vmbr0": {"cidr": "192.168.1.1/24"}}
        )
        return bridges

    @property
    def ssh_port_base(self) -> int:
        """A guest's SSH is forwarded from 127.0.0.1, this port plus its vmid."""
        return int(self.settings.get("ssh_port_base", 22000))

    def storage(self, name: str) -> Storage:
        """The storage of that name; 500 when there is none."""
        if name not in self.storages:
            raise Refusal(500, f"storage '{name}' does not exist")
        return self.storages[name]

    def is_full(self, storage: str) -> bool:
        """Whether a fault says that this storage has no room left."""
        return self.faults.is_on("full-storage", path=storage)

    def volume(self, volid: str) -> Volume:
        """The volume of that id, with its path; the file need not exist."""
        storage, name = split_volid(volid)
        return self.storage(storage).volume(name)

    def vmids(self) -> list[int]:
        """The vmids that are taken, ascending."""
        return sorted(int(path.stem) for path in self.config_dir.glob("*.conf"))
