"""One command to the agent inside a guest. Its port takes one client and keeps old answers: so sync, ask."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vi_ops.lab.guest_error import AgentRefused, GuestError

_turn: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
# The agent answers in one line; file reads are the longest, 48 MiB in base64 (qemu-ga, guest-file-read).
_LINE_BYTES: Final = 80 * 1024 * 1024
_SENTINEL: Final = b"\xff"


async def ask(
    vmid: int,
    socket: Path,
    command: str,
    arguments: Mapping[str, object] | None = None,
    timeout_s: float = 5.0,
    *,
    answers: bool = True,
    peer: str = "qga",
) -> Any:
    """Run an agent command and give what it returns; waiting for one's turn counts against the deadline.

    `answers` is false for the commands that never confirm (guest-shutdown): then only sending is awaited.
    `peer` is what errors call the other side: release 8 says qmp, release 9 qga.
    Raises AgentRefused with the agent's own error, GuestError when nobody answers.
    Source: QEMU, docs/interop/qemu-ga-ref, guest-sync-delimited.
    """
    try:
        async with asyncio.timeout(timeout_s), _turn[socket]:
            return await _converse(socket, command, arguments, answers)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise GuestError(f"VM {vmid} {peer} command '{command}' failed - got timeout") from error


async def _converse(socket: Path, command: str, arguments: Mapping[str, object] | None, answers: bool) -> Any:
    reader, writer = await asyncio.open_unix_connection(socket, limit=_LINE_BYTES)
    try:
        await _sync(reader, writer)
        await _send(writer, command, arguments)
        if not answers:
            return None
        answer = json.loads(await reader.readuntil(b"\n"))
    finally:
        writer.close()
    if "error" in answer:
        raise AgentRefused(answer["error"])
    return answer.get("return")


async def _sync(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Flush half a command of a client before us, and skip answers meant for it."""
    token = secrets.randbelow(2**31)
    writer.write(_SENTINEL)
    await _send(writer, "guest-sync-delimited", {"id": token})
    while True:
        await reader.readuntil(_SENTINEL)
        if json.loads(await reader.readuntil(b"\n")).get("return") == token:
            return


async def _send(writer: asyncio.StreamWriter, command: str, arguments: Mapping[str, object] | None) -> None:
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = dict(arguments)
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()
