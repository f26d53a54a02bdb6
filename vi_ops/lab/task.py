"""Tasks: work that outlives the request. UPID, log file, status and the list of finished ones.

Source: pve-common, PVE/UPID.pm and PVE/RESTEnvironment.pm (fork_worker), read for the formats.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vi_ops.lab.fault import Faults
from vi_ops.lab.route import Refusal, User, parameter_error

Log = Callable[[str], None]
Worker = Callable[[Log], Awaitable[None]]

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
UPID_PATTERN = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):"
    r"(?P<pstart>[0-9A-Fa-f]{8,9}):(?P<starttime>[0-9A-Fa-f]{8}):"
    r"(?P<type>[^:\s/]+):(?P<id>[^:\s/]*):(?P<user>[^:\s/]+):"
)


@dataclass(frozen=True)
class Upid:
    """A task's name, taken apart. `user` is the full authid: `ops@pve!viops` for a token."""

    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str

    def __str__(self) -> str:
        return (
            f"UPID:{self.node}:{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}:"
            f"{self.type}:{self.id}:{self.user}:"
        )

    @classmethod
    def parse(cls, text: str) -> Upid:
        """Take a UPID apart; 400 on `upid` when it is none."""
        match = UPID_PATTERN.fullmatch(text)
        if not match:
            raise parameter_error(upid="unable to parse worker upid")
        numbers = {key: int(match[key], 16) for key in ("pid", "pstart", "starttime")}
        return cls(match["node"], **numbers, type=match["type"], id=match["id"], user=match["user"])

    def fields(self) -> dict[str, Any]:
        """The members that status and lists show; a token's name stands apart from its owner's."""
        user, _, token = self.user.partition("!")
        shown = {
            "upid": str(self),
            "node": self.node,
            "pid": self.pid,
            "pstart": self.pstart,
            "starttime": self.starttime,
            "type": self.type,
            "id": self.id,
            "user": user,
        }
        return {**shown, "tokenid": token} if token else shown


class Tasks:
    """The node's tasks. Logs lie under `folder`, named by UPID; `index` lists the finished ones."""

    def __init__(self, folder: Path, node: str, faults: Faults) -> None:
        self.folder = folder
        self.node = node
        self.faults = faults
        self.running: dict[str, asyncio.Task[None]] = {}
        self._last_tick = 0

    def start(self, user: User, kind: str, subject: str, worker: Worker) -> str:
        """Run `worker` apart from the request and give its UPID at once.

        `kind` is the task's type (`qmcreate`), `subject` its id: a vmid, a storage, or empty.
        The worker gets a function that adds a line to the task's log; a line that begins with `WARN: ` counts
        as a warning. Returning ends the task in OK (or `WARNINGS: n`), raising ends it in the error's text.
        """
        upid = self._name(user, kind, str(subject))
        self._append(upid, "")
        task = asyncio.get_running_loop().create_task(self._run(upid, worker))
        self.running[str(upid)] = task
        task.add_done_callback(lambda _: self.running.pop(str(upid), None))
        return str(upid)

    async def wait(self, upid: str) -> str:
        """Wait until the task is over and give its exitstatus."""
        if task := self.running.get(upid):
            await asyncio.wait([task])
        return self.exitstatus(Upid.parse(upid))

    async def stop(self, upid: Upid) -> None:
        """Interrupt a running task and wait until it noticed, five seconds at most."""
        if task := self.running.get(str(upid)):
            task.cancel()
            await asyncio.wait([task], timeout=5)

    def status(self, upid: Upid) -> dict[str, Any]:
        """Status as the API shows it; 400 on `upid` when there was no such task."""
        if not self.log_path(upid).exists():
            raise parameter_error(upid="no such task")
        if str(upid) in self.running:
            return {**upid.fields(), "status": "running"}
        return {**upid.fields(), "status": "stopped", "exitstatus": self.exitstatus(upid)}

    def lines(self, upid: Upid) -> list[str]:
        return self.log_path(upid).read_text().splitlines()

    def exitstatus(self, upid: Upid) -> str:
        """What the last line of the log says; a log that ends without a result was cut short."""
        try:
            last = self.lines(upid)[-1:]
        except OSError as error:
            return f"unable to get last line from task log - {error.strerror}"
        text = last[0] if last else ""
        if text == "TASK OK":
            return "OK"
        for prefix in ("TASK ERROR: ", "TASK "):
            if text.startswith(prefix):
                return text.removeprefix(prefix)
        return "unexpected status"

    def finished(self) -> list[dict[str, Any]]:
        """Every finished task, newest first, with `endtime` and `status`."""
        try:
            lines = (self.folder / "index").read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in reversed(lines):
            upid, endtime, status = line.split(" ", 2)
            entries.append({**Upid.parse(upid).fields(), "endtime": int(endtime, 16), "status": status})
        return entries

    def active(self) -> list[dict[str, Any]]:
        """Every running task, newest first."""
        return [{**Upid.parse(upid).fields(), "status": "RUNNING"} for upid in reversed(self.running)]

    def close_orphans(self) -> None:
        """Enter into the index what a killed server left: logs of tasks that never came to an end."""
        known = {entry["upid"] for entry in self.finished()}
        for log in sorted(self.folder.glob("*/UPID:*")):
            upid = Upid.parse(log.name)
            if str(upid) not in known:
                self._enter(upid, self.exitstatus(upid))

    def log_path(self, upid: Upid) -> Path:
        return self.folder / f"{upid.pstart & 0xF:X}" / str(upid)

    async def _run(self, upid: Upid, worker: Worker) -> None:
        warnings = 0

        def log(text: str) -> None:
            nonlocal warnings
            warnings += sum(line.startswith("WARN: ") for line in text.splitlines())
            self._append(upid, text)

        try:
            if slow := self.faults.take("slow-task", vmid=upid.id, path=upid.type):
                await asyncio.sleep(slow.seconds)
            await worker(log)
            if self.faults.take("task-warnings", vmid=upid.id, path=upid.type):
                log("WARN: injected by vi-ops lab fault")
            result = f"WARNINGS: {warnings}" if warnings else "OK"
        except asyncio.CancelledError:
            result = "ERROR: received interrupt"
        except Exception as error:  # whatever it was, the task's log is where it belongs
            result = f"ERROR: {one_line(error)}"
        self._append(upid, f"TASK {result}")
        self._enter(upid, result.removeprefix("ERROR: "))

    def _name(self, user: User, kind: str, subject: str) -> Upid:
        # Proxmox forks a worker for each task, so its UPIDs differ by pid; ours differ by their start tick.
        tick = max(int(time.clock_gettime(time.CLOCK_BOOTTIME) * CLOCK_TICKS), self._last_tick + 1)
        self._last_tick = tick
        return Upid(self.node, os.getpid(), tick, int(time.time()), kind, subject, user.authid)

    def _append(self, upid: Upid, text: str) -> None:
        path = self.log_path(upid)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{text}\n" if text else "")

    def _enter(self, upid: Upid, status: str) -> None:
        with (self.folder / "index").open("a") as file:
            file.write(f"{upid} {int(time.time()):08X} {status}\n")


def one_line(error: Exception) -> str:
    """An error as exitstatus: one line, parameter errors with their parameters."""
    text = str(error) or type(error).__name__
    if isinstance(error, Refusal) and error.errors:
        details = "".join(f"\n{key}: {value}" for key, value in sorted(error.errors.items()))
        text = f"{error.status} {text}{details}"
    return " ".join(text.split("\n")).strip()
