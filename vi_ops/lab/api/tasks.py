"""/nodes/{node}/tasks: what ran, how it ended, and what it said."""

from __future__ import annotations

import re
from typing import Any

from vi_ops.lab.acl import forbidden
from vi_ops.lab.node import Node
from vi_ops.lab.route import Page, Request, User, route
from vi_ops.lab.task import Upid

DEFAULT_LIMIT = 50


@route("GET", "/nodes/{node}/tasks")
async def list_tasks(request: Request, node: Node) -> Page:
    """The node's tasks, newest first: the caller's own, or all with Sys.Audit; by default only finished."""
    source = request.text("source", "archive")
    active = node.tasks.active() if source in ("active", "all") else []
    entries = active + (node.tasks.finished() if source in ("archive", "all") else [])
    sees_all = node.acl.may(request.user, f"/nodes/{node.name}", "Sys.Audit")
    entries = [e for e in entries if sees_all or e["user"] == request.user.userid]
    entries = [e for e in entries if _is_wanted(e, request)]
    start = request.number("start")
    limit = request.number("limit", DEFAULT_LIMIT)
    return Page(entries[start : start + limit] if limit else entries[start:], len(entries))


@route("GET", "/nodes/{node}/tasks/{upid}")
async def list_task_parts(request: Request, node: Node) -> list[dict[str, str]]:
    """What a task has below it."""
    return [{"name": "log"}, {"name": "status"}]


@route("GET", "/nodes/{node}/tasks/{upid}/status")
async def get_task_status(request: Request, node: Node) -> dict[str, Any]:
    """Whether the task runs, and how it ended."""
    upid = Upid.parse(request.path["upid"])
    status = node.tasks.status(upid)
    _require_sight(request.user, upid, node)
    return status


@route("GET", "/nodes/{node}/tasks/{upid}/log")
async def get_task_log(request: Request, node: Node) -> Page:
    """Lines of the log, 50 unless `limit` says else; 0 means all."""
    upid = Upid.parse(request.path["upid"])
    _require_sight(request.user, upid, node)
    try:
        lines = node.tasks.lines(upid) or ["no content"]
    except OSError as error:
        lines = [f"unable to open file - {error.strerror}"]
    start, limit = request.number("start"), request.number("limit", DEFAULT_LIMIT)
    shown = lines[start : start + limit] if limit else lines[start:]
    return Page([{"n": start + n, "t": text} for n, text in enumerate(shown, 1)], len(lines))


@route("DELETE", "/nodes/{node}/tasks/{upid}")
async def stop_task(request: Request, node: Node) -> None:
    """Interrupt a task: one's own, or anybody's with Sys.Modify."""
    upid = Upid.parse(request.path["upid"])
    node.tasks.status(upid)
    if not _is_own(request.user, upid):
        node.acl.require(request.user, f"/nodes/{node.name}", "Sys.Modify")
    await node.tasks.stop(upid)


def _is_own(user: User, upid: Upid) -> bool:
    """A user owns what its tokens started, a token only what it started itself."""
    return upid.user == user.authid or upid.user.partition("!")[0] == user.authid


def _require_sight(user: User, upid: Upid, node: Node) -> None:
    if not _is_own(user, upid) and not node.acl.may(user, f"/nodes/{node.name}", "Sys.Audit"):
        raise forbidden(f"/nodes/{node.name}, Sys.Audit")


def _is_wanted(entry: dict[str, Any], request: Request) -> bool:
    params = request.params
    status = status_kind(entry["status"])
    wanted = re.split(r"[,;\s]+", request.text("statusfilter")) if "statusfilter" in params else []
    return (
        ("vmid" not in params or entry["id"] == request.text("vmid"))
        and request.text("typefilter", entry["type"]) == entry["type"]
        and request.text("userfilter").lower() in entry["user"].lower()
        and request.number("since", entry["starttime"]) <= entry["starttime"]
        and request.number("until", entry["starttime"]) >= entry["starttime"]
        and not (request.flag("errors") and status == "ok")
        and (not wanted or status in wanted)
    )


def status_kind(status: str) -> str:
    """`ok`, `warning`, `unknown` or `error`, as `statusfilter` names them."""
    known = {"OK": "ok", "unexpected status": "unknown", "RUNNING": "running"}
    return known.get(status, "warning" if re.fullmatch(r"WARNINGS: \d+", status) else "error")
