"""The resolved vars of one inventory host, and where each of them was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from vi_ops.specs.check import KeyPath

Kind = Literal["node", "vm"]
_SECRET: Final = frozenset({"secret", "password_hash"})

SSH_VARS: Final = {
    "host": "ansible_host",
    "port": "ansible_port",
    "user": "ansible_user",
    "key_file": "ansible_ssh_private_key_file",
}
FROM_ANSIBLE: Final = {"host": "the inventory name", "ssh": "ansible_host, ansible_port and ansible_user"}


@dataclass(frozen=True)
class Place:
    """Where a value was written. `file` is relative to the inventory folder where it lies inside."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class HostVars:
    """The resolved vars of one inventory host.

    `places` says where each path was written (a path not in it lies where its parent does); values below a
    path in `hidden` came from a vault and are never shown.
    """

    name: str
    kind: Kind
    values: Mapping[str, Any]
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    hidden: frozenset[KeyPath] = frozenset()

    def place(self, path: KeyPath) -> Place:
        """Where a path, or the nearest of its parents, was written."""
        for end in range(len(path), -1, -1):
            if found := self.places.get(path[:end]):
                return found
        return Place(f"host_vars/{self.name}.yml")

    def is_hidden(self, path: KeyPath) -> bool:
        return any(path[:end] in self.hidden for end in range(len(path) + 1)) or not _SECRET.isdisjoint(path)
