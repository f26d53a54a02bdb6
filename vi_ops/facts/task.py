"""A Proxmox task as a value: ok, with warnings, or failed with the end of its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vi_ops.errors import FactError

# Shape of a UPID: pve-common, src/PVE/UPID.pm, decode. pstart may have nine digits.
_UPID = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9})"
    r":(?P<starttime>[0-9A-Fa-f]{8}):(?P<type>[^:\s/]+):(?P<id>[^:\s/]*):(?P<user>[^:\s]+):"
)


@dataclass(frozen=True)
class Upid:
    """A task's name on the node, taken apart. `starttime` is seconds since the epoch."""

    text: str
    node: str
    starttime: int
    type: str
    id: str
    user: str


@dataclass(frozen=True)
class TaskResult:
    """How a task ended. `exitstatus` is the node's own text; `tail` the last lines of the log, in order."""

    upid: Upid
    exitstatus: str
    warnings: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        return self.exitstatus == "OK" or self.exitstatus.startswith("WARNINGS: ")


def parse_upid(text: str) -> Upid:
    """Take a UPID apart. Raises FactError for anything else."""
    match = _UPID.fullmatch(text)
    if not match:
        raise FactError("pve-upid", f"expected a UPID, got {text[:80]!r}")
    return Upid(text, match["node"], int(match["starttime"], 16), match["type"], match["id"], match["user"])
