"""A Proxmox task as a value: ok, with warnings, or failed with the end of its log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from vi_ops.errors import FactError
from vi_ops.facts.answer import integer_of, mapping_of, rows_of

# Shape of a UPID: pve-common, src/PVE/UPID.pm, decode. pstart may have nine digits.
_UPID: Final = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9})"
    r":(?P<starttime>[0-9A-Fa-f]{8}):(?P<type>[^:\s/]+):(?P<id>[^:\s/]*):(?P<user>[^:\s]+):"
)

# What the log endpoint answers when there is nothing to read (pve-common, PVE::Tools::dump_logfile).
_NO_LOG: Final = ("no content", "unable to open file - ")

TAIL_LINES: Final = 10

# Somebody looks on: these last as long as a window is open. Source: qemu-server, src/PVE/API2/Qemu.pm.
_CONSOLES: Final = frozenset({"spiceproxy", "vncproxy"})


@dataclass(frozen=True)
class Upid:
    """A task's name on the node, taken apart. `starttime` is seconds since the epoch, by the node's clock."""

    text: str
    node: str
    starttime: int
    type: str
    id: str
    user: str

    def __str__(self) -> str:
        return f"{self.type} {self.id}".rstrip()


@dataclass(frozen=True)
class TaskResult:
    """How a task ended. `exitstatus` is the node's own text; `tail` the last lines of the log, in order.

    `upid` is None for a call that the node carried out at once, without a task.
    """

    upid: Upid | None
    exitstatus: str
    warnings: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        # pve-common, src/PVE/UPID.pm, status_is_error
        return self.exitstatus == "OK" or self.exitstatus.startswith("WARNINGS: ")


def parse_upid(text: str) -> Upid:
    """Take a UPID apart. Raises FactError for anything else."""
    match = _UPID.fullmatch(text)
    if not match:
        raise FactError("pve-upid", f"expected a UPID, got {text[:80]!r}")
    return Upid(text, match["node"], int(match["starttime"], 16), match["type"], match["id"], match["user"])


def is_upid(answer: object) -> bool:
    """Whether an answer names a task; some calls answer null, or `OK`, when there is nothing to wait for."""
    return isinstance(answer, str) and _UPID.fullmatch(answer) is not None


def parse_log(rows: object) -> tuple[str, ...]:
    """Lines of `GET .../tasks/{upid}/log`, `[{n, t}]`, in order; empty when the node has none."""
    numbered = [row for row in rows_of(rows) if "t" in row]
    lines = tuple(str(row["t"]) for row in sorted(numbered, key=lambda row: integer_of(row.get("n")) or 0))
    if len(lines) == 1 and lines[0].startswith(_NO_LOG):
        return ()
    return lines


def parse_task(upid: Upid, status: object, log: Iterable[str]) -> TaskResult | None:
    """The result of a finished task, None while it runs.

    Takes the answers of `GET .../status` and the lines of the log. An exit status counts even where `status`
    is missing; a stopped task without one ended in a way that nobody recorded, so it is not ok.
    """
    answer = mapping_of(status)
    if answer.get("status") != "stopped" and not answer.get("exitstatus"):
        return None
    lines = tuple(log)
    exitstatus = str(answer.get("exitstatus") or "unknown").strip()
    warnings = tuple(line.removeprefix("WARN: ") for line in lines if line.startswith("WARN: "))
    return TaskResult(upid, exitstatus, warnings, lines[-TAIL_LINES:])


@dataclass(frozen=True)
class TaskKind:
    """The task that a call starts. `id` is None where the call does not determine it."""

    node: str
    type: str
    id: str | None


# (method, path with node and vmid captured, task type). Source: qemu-server, src/PVE/API2/Qemu.pm.
_VM_TASKS: Final = tuple(
    (method, re.compile(rf"/nodes/([^/]+)/qemu/(\d+){path}"), type_)
    for method, path, type_ in (
        ("DELETE", "", "qmdestroy"),
        ("POST", "/config", "qmconfig"),
        ("POST", "/clone", "qmclone"),
        ("POST", "/template", "qmtemplate"),
        ("POST", "/move_disk", "qmmove"),
        ("PUT", "/resize", "resize"),
        ("POST", "/status/start", "qmstart"),
        ("POST", "/status/stop", "qmstop"),
        ("POST", "/status/shutdown", "qmshutdown"),
        ("POST", "/status/reboot", "qmreboot"),
        ("POST", "/status/reset", "qmreset"),
        ("POST", "/status/suspend", "qmpause"),
        ("POST", "/status/resume", "qmresume"),
        ("POST", "/snapshot", "qmsnapshot"),
        ("DELETE", "/snapshot/[^/]+", "qmdelsnapshot"),
        ("POST", "/snapshot/[^/]+/rollback", "qmrollback"),
    )
)
_NODE_TASKS: Final = (
    ("POST", re.compile(r"/nodes/([^/]+)/storage/[^/]+/upload"), "imgcopy"),
    ("POST", re.compile(r"/nodes/([^/]+)/storage/[^/]+/download-url"), "download"),
    ("DELETE", re.compile(r"/nodes/([^/]+)/storage/[^/]+/content/.+"), "imgdel"),
    ("DELETE", re.compile(r"/nodes/([^/]+)/storage/[^/]+/prunebackups"), "prunebackups"),
    ("POST", re.compile(r"/nodes/([^/]+)/vzdump"), "vzdump"),
)
_CREATE: Final = re.compile(r"/nodes/([^/]+)/qemu")


def task_of_call(method: str, path: str, params: Mapping[str, Any]) -> TaskKind | None:
    """What task a writing call starts, None for calls that are carried out at once.

    Used to recognise the task of a call whose answer was lost.
    """
    if method == "POST" and (match := _CREATE.fullmatch(path)):
        return TaskKind(match[1], "qmrestore" if "archive" in params else "qmcreate", str(params.get("vmid")))
    for verb, pattern, type_ in _VM_TASKS:
        if verb == method and (match := pattern.fullmatch(path)):
            todisk = type_ == "qmpause" and bool(params.get("todisk"))
            return TaskKind(match[1], "qmsuspend" if todisk else type_, match[2])
    for verb, pattern, type_ in _NODE_TASKS:
        if verb == method and (match := pattern.fullmatch(path)):
            return TaskKind(match[1], type_, _node_task_id(type_, params))
    return None


def _node_task_id(type_: str, params: Mapping[str, Any]) -> str | None:
    if type_ == "download":
        return quote(str(params.get("filename", "")), safe="")
    return "" if type_ == "imgcopy" else None


def find_task(
    rows: object, kind: TaskKind, user: str, since: float, known: Iterable[str] = ()
) -> Upid | None:
    """The newest task of that kind that `user` started at or after `since` (the node's clock), or None.

    Takes the answer of `GET /nodes/{node}/tasks?source=all`. `user` is `user@realm`, or `user@realm!token`.
    Tasks in `known` are left out: they belong to earlier calls of the same client.
    """
    found: list[Upid] = []
    for row in rows_of(rows):
        text = row.get("upid")
        if not isinstance(text, str) or not is_upid(text) or text in set(known):
            continue
        upid = parse_upid(text)
        fits = upid.type == kind.type and kind.id in (None, upid.id) and upid.user == user
        if fits and upid.starttime >= since:
            found.append(upid)
    return max(found, key=lambda upid: upid.starttime, default=None)


def running_tasks(rows: object) -> tuple[Upid, ...]:
    """What still runs of `GET /nodes/{node}/tasks?source=active`; open consoles are left out."""
    texts = {
        str(row["upid"])
        for row in rows_of(rows)
        if is_upid(row.get("upid")) and row.get("status", "RUNNING") in {"RUNNING", "running", ""}
    }
    return tuple(upid for upid in map(parse_upid, sorted(texts)) if upid.type not in _CONSOLES)
