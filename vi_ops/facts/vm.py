"""What a VM is, as its node tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ConfigValue = str | int | float


@dataclass(frozen=True)
class VmFacts:
    """One VM. `running` is the config in force, `config` the one after the next power cycle (pending merged).

    `pending` lists the keys whose values wait for a power cycle. Memory is a string in Proxmox's answers;
    cores, sockets, balloon and booleans are numbers. `digest` names this state of the config.
    """

    vmid: int
    node: str
    status: str
    qmpstatus: str = ""
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    running: Mapping[str, ConfigValue] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def lock(self) -> str | None:
        """What the node is doing with the VM: `create`, `backup`, `snapshot`, ...; None when it is free."""
        return str(self.config["lock"]) if self.config.get("lock") else None


def parse_pending(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, ConfigValue], dict[str, ConfigValue], tuple[str, ...]]:
    """Split the answer of `GET .../pending` into (config after a power cycle, config in force, waiting keys).

    Source: qemu-server, `{key, value?, pending?, delete?}`; delete is 1, or 2 for forced.
    """
    config: dict[str, ConfigValue] = {}
    running: dict[str, ConfigValue] = {}
    waiting: list[str] = []
    for row in rows:
        key = str(row["key"])
        if "value" in row:
            running[key] = row["value"]
        if "pending" in row or row.get("delete"):
            waiting.append(key)
        if not row.get("delete") and ("pending" in row or "value" in row):
            config[key] = row.get("pending", row.get("value"))
    return config, running, tuple(waiting)
