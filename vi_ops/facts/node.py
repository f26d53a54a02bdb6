"""What a node is, as its API tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StorageFacts:
    """One storage. Sizes in bytes; `content` are the words of Proxmox: images, import, iso, backup."""

    name: str
    type: str
    content: frozenset[str]
    is_active: bool
    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class GuestSummary:
    """One row of `GET /nodes/{node}/qemu`."""

    vmid: int
    name: str
    status: str
    memory_max_bytes: int
    is_template: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeFacts:
    """One node at one moment. `permissions` is the effective tree of `GET /access/permissions`.

    `images` maps a storage name to the volids with content `import` and `iso` that it holds.
    """

    name: str
    release: str
    version: str
    cpus: int
    memory_total_bytes: int
    memory_used_bytes: int
    storages: Mapping[str, StorageFacts] = field(default_factory=dict)
    bridges: frozenset[str] = frozenset()
    guests: Mapping[int, GuestSummary] = field(default_factory=dict)
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    permissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    physical: bool = True

    @property
    def major(self) -> int:
        return int(self.release.split(".", 1)[0])
