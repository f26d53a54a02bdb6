"""Faults that a person asks the lab for, to see what a tool does when a node misbehaves.

They lie in one file, so that `vi-ops lab fault` reaches a server that runs in another process.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vi_ops.errors import Refused
from vi_ops.lab.store import locked, read_json, write_json

NAMES: dict[str, str] = {
    "status-500": "a request is answered 500 and not carried out",
    "status-595": "a request is answered 595 (refused) and not carried out",
    "status-596": "a request is carried out, but answered 596 (timed out)",
    "drop-after-write": "a write is carried out, its connection cut unanswered",
    "slow-task": "a task waits (--seconds) before it begins",
    "task-warnings": "a task that went well ends in WARNINGS",
    "lock-held": "the VM is locked (backup)",
    "full-storage": "the storage (--path NAME) has no room left",
    "agent-silent": "the guest agent does not answer",
    "no-boot": "the guest starts without its disks: nothing ever boots",
    "expired-ticket": "a ticket is refused as expired",
}


@dataclass(frozen=True)
class Fault:
    """One fault. `count` and `until` (Unix time) bound it; None means unbounded."""

    name: str
    vmid: int | None = None
    path: str | None = None
    method: str | None = None
    count: int | None = None
    until: float | None = None
    seconds: float = 30.0

    def applies(self, name: str, now: float, vmid: object, path: str | None, method: str | None) -> bool:
        """Whether this fault is meant: its name, and each bound that it has."""
        return (
            self.name == name
            and (self.until is None or now < self.until)
            and (self.vmid is None or str(self.vmid) == str(vmid))
            and (self.path is None or fnmatch.fnmatchcase(path or "", self.path))
            and (self.method is None or self.method == method)
        )


class Faults:
    """The faults of one lab, read from its file at each question."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.now = now

    def all(self) -> list[Fault]:
        """Every fault that still can happen."""
        faults = [Fault(**entry) for entry in read_json(self.path, [])]
        return [f for f in faults if (f.until is None or self.now() < f.until) and f.count != 0]

    def is_on(self, name: str, vmid: object = None, path: str | None = None) -> bool:
        """Whether the fault holds now; does not use up its count."""
        return any(f.applies(name, self.now(), vmid, path, None) for f in self.all())

    def take(
        self, name: str, vmid: object = None, path: str | None = None, method: str | None = None
    ) -> Fault | None:
        """The fault if it holds now, with its count lowered by one."""
        if not self.path.exists():
            return None
        with locked(self.path):
            faults = self.all()
            for index, fault in enumerate(faults):
                if fault.applies(name, self.now(), vmid, path, method):
                    if fault.count is not None:
                        faults[index] = replace(fault, count=fault.count - 1)
                        self._write(faults)
                    return fault
        return None

    def inject(self, fault: Fault) -> None:
        """Add a fault; it holds from the next request on."""
        if fault.name not in NAMES:
            raise Refused("lab-fault-unknown", f"no fault is called {fault.name!r}", hint=", ".join(NAMES))
        with locked(self.path):
            self._write([*self.all(), fault])

    def clear(self, name: str | None = None) -> int:
        """Forget the faults of that name, or all; gives how many there were."""
        with locked(self.path):
            faults = self.all()
            kept = [f for f in faults if name is not None and f.name != name]
            self._write(kept)
        return len(faults) - len(kept)

    def _write(self, faults: list[Fault]) -> None:
        entries: list[dict[str, Any]] = [asdict(f) for f in faults if f.count != 0]
        write_json(self.path, entries)
