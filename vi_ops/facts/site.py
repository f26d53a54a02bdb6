"""What a node tells of a whole site: enough to describe it in an inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vi_ops.facts.node import StorageFacts
from vi_ops.facts.vm import ConfigValue


@dataclass(frozen=True)
class SiteFacts:
    """One node and its VMs. `guests` maps each vmid to its config after the next power cycle.

    `unreadable` are vmids whose config the login may not see.
    """

    node: str
    memory_total_bytes: int
    sockets: int | None = None
    storages: tuple[StorageFacts, ...] = ()
    guests: Mapping[int, Mapping[str, ConfigValue]] = field(default_factory=dict)
    unreadable: tuple[int, ...] = ()
