"""Talking to an agent, against one made for the purpose, which keeps old answers as a port does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vi_ops.lab import agent
from vi_ops.lab.guest_error import AgentRefused, GuestError

Answer = Callable[[str, dict[str, Any]], Any]


class Port:
    """An agent behind its port: `left_over` is what a client before us left unread."""

    def __init__(self, answer: Answer, left_over: bytes = b"", silent: bool = False) -> None:
        self.answer = answer
        self.left_over = left_over
        self.silent = silent
        self.clients = 0
        self.most_clients = 0
        self.seen: list[str] = []
        self.conversations: list[asyncio.Task[Any] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.append(asyncio.current_task())
        self.clients += 1
        self.most_clients = max(self.most_clients, self.clients)
        writer.write(self.left_over)
        while not self.silent and (line := await reader.readline()):
            request = json.loads(line.lstrip(b"\xff"))
            self.seen.append(request["execute"])
            await asyncio.sleep(0.01)
            if request["execute"] == "guest-sync-delimited":
                writer.write(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n")
            elif (body := self.answer(request["execute"], request.get("arguments", {}))) is not None:
                writer.write(json.dumps(body).encode() + b"\n")
        if self.silent:
            await reader.read()
        self.clients -= 1
        writer.close()


@asynccontextmanager
async def listening(port: Port, path: Path) -> AsyncIterator[Path]:
    server = await asyncio.start_unix_server(port.serve, path)
    try:
        yield path
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*filter(None, port.conversations)), 5)


def with_agent(tmp_path: Path, port: Port, act: Callable[[Path], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with listening(port, tmp_path / "qga") as socket:
            return await act(socket)

    return asyncio.run(run())


def test_what_it_returns(tmp_path: Path) -> None:
    port = Port(lambda command, arguments: {"return": {"command": command, **arguments}})

    answer = with_agent(tmp_path, port, lambda s: agent.ask(106, s, "guest-exec", {"path": "/bin/id"}))

    assert answer == {"command": "guest-exec", "path": "/bin/id"}
    assert port.seen == ["guest-sync-delimited", "guest-exec"]


def test_answers_meant_for_a_client_before_us_are_skipped(tmp_path: Path) -> None:
    old = b'{"return": {"pid": 7}}\n\xff{"return": 1}\n{"retu'
    port = Port(lambda _command, _arguments: {"return": {}}, left_over=old)

    assert with_agent(tmp_path, port, lambda s: agent.ask(106, s, "guest-ping")) == {}


def test_its_error_comes_whole(tmp_path: Path) -> None:
    error = {"class": "CommandNotFound", "desc": "The command guest-nope has not been found"}
    port = Port(lambda _command, _arguments: {"error": error})

    with pytest.raises(
        AgentRefused, match=r"^Agent error: The command guest-nope has not been found$"
    ) as caught:
        with_agent(tmp_path, port, lambda s: agent.ask(106, s, "guest-nope"))
    assert caught.value.error == error


@pytest.mark.parametrize("silent", [True, False])
def test_nobody_answers_in_time(tmp_path: Path, silent: bool) -> None:
    port = Port(lambda _command, _arguments: None, silent=silent)
    began = time.monotonic()

    with pytest.raises(GuestError, match=r"^VM 106 qga command 'guest-ping' failed - got timeout$"):
        with_agent(tmp_path, port, lambda s: agent.ask(106, s, "guest-ping", timeout_s=0.3))
    assert 0.2 < time.monotonic() - began < 2


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="got timeout"):
        asyncio.run(agent.ask(106, tmp_path / "absent", "guest-ping"))


def test_a_command_that_never_confirms_is_only_sent(tmp_path: Path) -> None:
    port = Port(lambda _command, _arguments: None)

    async def act(socket: Path) -> Any:
        answer = await agent.ask(106, socket, "guest-shutdown", answers=False)
        await asyncio.sleep(0.1)
        return answer

    assert with_agent(tmp_path, port, act) is None
    assert port.seen[-1] == "guest-shutdown"


def test_callers_take_turns(tmp_path: Path) -> None:
    port = Port(lambda _command, arguments: {"return": arguments["pid"]})

    async def act(socket: Path) -> Any:
        asked = (agent.ask(106, socket, "guest-exec-status", {"pid": pid}) for pid in range(5))
        return await asyncio.gather(*asked)

    assert with_agent(tmp_path, port, act) == [0, 1, 2, 3, 4]
    assert port.most_clients == 1
