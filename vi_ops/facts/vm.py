"""What a VM is, as its node tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vi_ops.errors import FactError
from vi_ops.facts.answer import integer_of, mapping_of, rows_of

ConfigValue = str | int | float


@dataclass(frozen=True)
class VmFacts:
    """One VM. `running` is the config in force, `config` the one after the next power cycle (pending merged).

    `pending` lists the keys whose values wait for a power cycle. Memory is a string in Proxmox's answers;
    cores, sockets, balloon and booleans are numbers. `digest` names this state of the config.
    `started_with` has cloud-init's options that the running guest was started with and that the config has
    otherwise by now: its drive is made anew at the next start. None stands for none, or one not told.
    `uptime_s` is that of QEMU: a reboot from inside the guest does not count.
    """

    vmid: int
    node: str
    status: str
    qmpstatus: str = ""
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    running: Mapping[str, ConfigValue] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    digest: str | None = None
    started_with: Mapping[str, ConfigValue | None] = field(default_factory=dict)
    uptime_s: int = 0

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def lock(self) -> str | None:
        """What the node is doing with the VM: `create`, `backup`, `snapshot`, ...; None when it is free."""
        return str(self.config["lock"]) if self.config.get("lock") else None


def parse_vm(vmid: int, node: str, pending: object, status: object) -> VmFacts:
    """A VM from `GET .../pending` and `GET .../status/current` (or its row of the node's list)."""
    config, running, waiting = parse_pending(pending)
    digest = running.pop("digest", None)
    config.pop("digest", None)
    told = mapping_of(status)
    return VmFacts(
        vmid=vmid,
        node=node,
        status=str(told.get("status", "unknown")),
        qmpstatus=str(told.get("qmpstatus") or ""),
        config=config,
        running=running,
        pending=waiting,
        digest=None if digest is None else str(digest),
        uptime_s=integer_of(told.get("uptime")) or 0,
    )


def parse_started_with(rows: object) -> dict[str, ConfigValue | None]:
    """What `GET .../cloudinit` says of the values in the guest's drive: those that the config has otherwise.

    `{key, value, pending}` is a changed one, `{key, pending}` a new one, `{key, delete}` one taken away,
    whose old value is not told. A changed `ipconfigN`, `netN` or `name` is not in the answer at all.
    Source: qemu-server, PVE/API2/Qemu.pm, cloudinit_pending.
    """
    return {
        str(row["key"]): row.get("value")
        for row in rows_of(rows)
        if "key" in row and ("pending" in row or integer_of(row.get("delete")))
    }


def parse_pending(rows: object) -> tuple[dict[str, ConfigValue], dict[str, ConfigValue], tuple[str, ...]]:
    """Split the answer of `GET .../pending` into (config after a power cycle, config in force, waiting keys).

    Source: qemu-server, `{key, value?, pending?, delete?}`; delete is 1, or 2 for forced. Raises FactError
    for an answer that is no list.
    """
    if not isinstance(rows, list):
        raise FactError("vm-pending", f"expected a list of options, got {str(rows)[:200]!r}")
    config: dict[str, ConfigValue] = {}
    running: dict[str, ConfigValue] = {}
    waiting: list[str] = []
    for row in rows_of(rows):
        if "key" not in row:
            continue
        key, deleted = str(row["key"]), bool(row.get("delete"))
        if row.get("value") is not None:
            running[key] = row["value"]
        if "pending" in row or deleted:
            waiting.append(key)
        after = row.get("pending", row.get("value"))
        if not deleted and after is not None:
            config[key] = after
    return config, running, tuple(waiting)
