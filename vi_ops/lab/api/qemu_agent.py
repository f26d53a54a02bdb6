"""The guest agent behind the API: the same checks in the same order, and the node's own oddities.

Source: qemu-server, PVE/API2/Qemu/Agent.pm and PVE/QemuServer/Agent.pm.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from vi_ops.lab import guest, vm_file
from vi_ops.lab.guest_error import AgentRefused, GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.route import Handler, Refusal, Request, parameter_error, route

_BASE: Final = "/nodes/{node}/qemu/{vmid}/agent"
_GET: Final = (
    *("get-fsinfo", "get-host-name", "get-memory-block-info", "get-memory-blocks", "get-osinfo", "get-time"),
    *("get-timezone", "get-users", "get-vcpus", "info", "network-get-interfaces"),
)
_POST: Final = (
    *("fsfreeze-freeze", "fsfreeze-status", "fsfreeze-thaw", "fstrim", "ping"),
    *("shutdown", "suspend-disk", "suspend-hybrid", "suspend-ram"),
)
_PING_S: Final = 3.0
# Source: qemu-server, PVE/QMPClient.pm (queue_execute).
_DEADLINE_S: Final = {"fsfreeze-freeze": 3600.0, "fsfreeze-thaw": 180.0, "fstrim": 600.0}
_READ_BYTES: Final = 16 * 1024**2
_CHUNK_BYTES: Final = 1024**2


async def ask(node: Node, vmid: int, command: str, arguments: Mapping[str, object] | None = None) -> Any:
    """Run one agent command after the node's checks. Raises Refusal(500) in its words, or AgentRefused."""
    stored = vm_file.load(node, vmid)
    if "agent" not in stored.values:
        raise Refusal(500, "No QEMU guest agent configured")
    if not await guest.is_running(node, vmid):
        raise Refusal(500, f"VM {vmid} is not running")
    try:
        await guest.agent(node, vmid, "guest-ping", None, _PING_S)
    except GuestError:
        raise Refusal(500, "QEMU guest agent is not running") from None
    try:
        return await guest.agent(node, vmid, f"guest-{command}", arguments, _DEADLINE_S.get(command, 5.0))
    except AgentRefused:
        raise
    except GuestError as error:
        raise Refusal(500, str(error)) from error


async def ask_strictly(node: Node, vmid: int, command: str, arguments: Mapping[str, object]) -> Any:
    """`ask`, with the agent's own refusal as a 500: `Agent error: <desc>`."""
    try:
        return await ask(node, vmid, command, arguments)
    except AgentRefused as error:
        raise Refusal(500, str(error)) from error


def _simple(command: str) -> Handler:
    async def handler(request: Request, node: Node) -> dict[str, Any]:
        try:
            return {"result": await ask(node, request.vmid, command)}
        except AgentRefused as error:  # an answer like any other, with 200: Proxmox does not look inside
            return {"result": {"error": error.error}}

    return handler


for _command in _GET:
    route("GET", f"{_BASE}/{_command}")(_simple(_command))
for _command in _POST:
    route("POST", f"{_BASE}/{_command}")(_simple(_command))


@route("GET", _BASE)
async def index(request: Request, node: Node) -> list[dict[str, str]]:
    """The names of the agent's calls."""
    named = ("exec", "exec-status", "file-read", "file-write", "set-user-password")
    return [{"name": name} for name in sorted((*_GET, *_POST, *named))]


@route("POST", _BASE)
async def command(request: Request, node: Node) -> dict[str, Any]:
    """The older way: the command's name as a parameter."""
    name = request.text("command")
    if name not in (*_GET, *_POST):
        raise parameter_error(command=f"value '{name}' does not have a value in the enumeration")
    answer: dict[str, Any] = await _simple(name)(request, node)
    return answer


@route("POST", f"{_BASE}/exec")
async def execute(request: Request, node: Node) -> dict[str, Any]:
    """Start a program in the guest; gives its pid."""
    path, *arguments = request.items("command")
    call: dict[str, object] = {"path": path, "arg": arguments, "capture-output": True}
    if "input-data" in request.params:
        call["input-data"] = base64.b64encode(request.text("input-data").encode()).decode()
    answer = await ask_strictly(node, request.vmid, "exec", call)
    return {"pid": answer["pid"]}


@route("GET", f"{_BASE}/exec-status")
async def execute_status(request: Request, node: Node) -> dict[str, Any]:
    """What became of a program. The agent forgets one that it has reported as over."""
    answer: dict[str, Any] = dict(
        await ask_strictly(node, request.vmid, "exec-status", {"pid": request.number("pid")})
    )
    for key in ("out-data", "err-data"):
        if key in answer:
            answer[key] = _as_latin1(answer[key])
    return answer


@route("GET", f"{_BASE}/file-read")
async def file_read(request: Request, node: Node) -> dict[str, Any]:
    """A file of the guest, 16 MiB at most."""
    limit = request.number("count", _READ_BYTES)
    decode = request.flag("decode", default=True)
    handle = await ask_strictly(node, request.vmid, "file-open", {"path": request.text("file"), "mode": "r"})
    try:
        if offset := request.number("offset"):
            seek = {"handle": handle, "offset": offset, "whence": "set"}
            await ask_strictly(node, request.vmid, "file-seek", seek)
        chunks, count, is_at_end = await _read(node, request.vmid, handle, limit)
    finally:
        await ask_strictly(node, request.vmid, "file-close", {"handle": handle})
    # Without decoding, the base64 of each chunk stands for itself: padding may lie in the middle.
    content = "".join(_as_latin1(chunk) if decode else chunk for chunk in chunks)
    return {"content": content, "bytes-read": count} | ({} if is_at_end else {"truncated": 1})


async def _read(node: Node, vmid: int, handle: int, limit: int) -> tuple[list[str], int, bool]:
    chunks: list[str] = []
    count, is_at_end = 0, False
    while count < limit and not is_at_end:
        call = {"handle": handle, "count": min(_CHUNK_BYTES, limit - count)}
        part = await ask_strictly(node, vmid, "file-read", call)
        chunks.append(part["buf-b64"])
        count += part["count"]
        is_at_end = part["eof"]
    return chunks, count, is_at_end


@route("POST", f"{_BASE}/file-write")
async def file_write(request: Request, node: Node) -> None:
    """Replace a file of the guest. With `encode=0` the content is base64 already."""
    text = request.text("content")
    if request.flag("encode", default=True):
        try:
            text = base64.b64encode(text.encode("latin-1")).decode()
        except UnicodeEncodeError:
            raise Refusal(500, "Wide character in subroutine entry") from None
    handle = await ask_strictly(node, request.vmid, "file-open", {"path": request.text("file"), "mode": "wb"})
    try:
        await ask_strictly(node, request.vmid, "file-write", {"handle": handle, "buf-b64": text})
    finally:
        await ask_strictly(node, request.vmid, "file-close", {"handle": handle})


@route("POST", f"{_BASE}/set-user-password")
async def set_user_password(request: Request, node: Node) -> dict[str, Any]:
    """Give a user of the guest another password."""
    call = {
        "username": request.text("username"),
        "password": base64.b64encode(request.text("password").encode()).decode(),
        "crypted": request.flag("crypted"),
    }
    return {"result": await ask_strictly(node, request.vmid, "set-user-password", call)}


def _as_latin1(encoded: str) -> str:
    """Bytes as the node passes them on: each becomes the character of its number, whatever it meant."""
    return base64.b64decode(encoded).decode("latin-1")
