"""The guest agent through the node: what it mangles, forgets and wraps into good answers."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import Answer, FakePve, node_spec, serve_fake
from vi_ops.errors import FactError, StepFailed
from vi_ops.execute.agent import FILE_WRITE_BYTES, Agent
from vi_ops.execute.pve import connect

PATH = "/nodes/pve1/qemu/106/agent"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        yield node


@pytest.fixture
def agent(fake: FakePve) -> Iterator[Agent]:
    with connect(node_spec(fake, ca_file=str(fake.home / "node.pem")), state_dir=fake.home) as api:
        yield Agent(api, 106)


def latin(text: str) -> str:
    """What the node makes of UTF-8 output."""
    return text.encode().decode("latin-1")


def test_an_agent_that_answers(fake: FakePve, agent: Agent) -> None:
    fake.on("POST", f"{PATH}/ping", {"result": {}})
    assert agent.is_answering()


def test_a_silent_agent_is_an_answer_and_a_stopped_vm_an_error(fake: FakePve, agent: Agent) -> None:
    fake.fail("POST", f"{PATH}/ping", Answer(500, message="QEMU guest agent is not running\n"))
    assert not agent.is_answering()
    fake.fail("POST", f"{PATH}/ping", Answer(500, message="VM 106 is not running\n"))
    with pytest.raises(StepFailed) as caught:
        agent.is_answering()
    assert caught.value.code == "pve-not-running"


def test_an_error_inside_a_good_answer_is_an_error(fake: FakePve, agent: Agent) -> None:
    fake.on("GET", f"{PATH}/get-users", {"result": {"error": {"class": "X", "desc": "no such command"}}})
    with pytest.raises(StepFailed, match="get-users: no such command"):
        agent.call("get-users")


def test_a_program_is_run_to_its_end_and_its_output_decoded(fake: FakePve, agent: Agent) -> None:
    fake.on("POST", f"{PATH}/exec", {"pid": 7})
    answers: list[Any] = [
        {"exited": 0},
        {"exited": 1, "exitcode": 3, "out-data": latin("größe ✓\n"), "err-data": "x", "out-truncated": 1},
    ]
    fake.on("GET", f"{PATH}/exec-status", lambda _: answers.pop(0))
    ended = agent.run(["/bin/echo", "a b"], deadline_s=5, stdin=b"in")
    assert (ended.code, ended.out, ended.err, ended.signal) == (3, "größe ✓\n", "x", None)
    assert ended.is_truncated
    (started,) = fake.calls("POST")
    assert started.params == {"command": ["/bin/echo", "a b"], "input-data": "in"}


def test_a_result_that_the_agent_told_to_nobody_is_said_to_be_lost(fake: FakePve, agent: Agent) -> None:
    fake.on("POST", f"{PATH}/exec", {"pid": 7})
    fake.on("GET", f"{PATH}/exec-status", Answer(500, message="Agent error: PID 7 does not exist\n"))
    fake.fail("GET", f"{PATH}/exec-status", Answer(drop="before"))
    with pytest.raises(StepFailed) as caught:
        agent.run(["/bin/true"], deadline_s=5)
    assert caught.value.code == "pve-agent-lost"
    assert len(fake.calls("GET")) == 2


def test_a_program_that_does_not_end_has_a_deadline(fake: FakePve, agent: Agent) -> None:
    fake.on("POST", f"{PATH}/exec", {"pid": 7})
    fake.on("GET", f"{PATH}/exec-status", {"exited": 0})
    with pytest.raises(StepFailed) as caught:
        agent.run(["/bin/sleep"], deadline_s=0.3)
    assert caught.value.code == "pve-agent-deadline"


def test_a_program_is_never_started_twice(fake: FakePve, agent: Agent) -> None:
    fake.fail("POST", f"{PATH}/exec", Answer(596))
    with pytest.raises(StepFailed) as caught:
        agent.run(["/bin/true"], deadline_s=1)
    assert caught.value.code == "pve-lost-answer"
    assert len(fake.calls("POST")) == 1


def test_at_most_two_agent_calls_are_under_way_at_a_node(fake: FakePve, agent: Agent) -> None:
    under_way, most = 0, 0

    def slow(_seen: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.05)
        under_way -= 1
        return {"result": []}

    fake.on("GET", f"{PATH}/network-get-interfaces", slow)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: agent.interfaces(), range(12)))
    assert most == 2


def test_a_file_is_read_byte_for_byte(fake: FakePve, agent: Agent) -> None:
    every_byte = bytes(range(256))
    fake.on("GET", f"{PATH}/file-read", {"content": every_byte.decode("latin-1"), "bytes-read": 256})
    assert agent.read_file("/x") == every_byte


def test_a_file_that_was_cut_is_an_error(fake: FakePve, agent: Agent) -> None:
    fake.on("GET", f"{PATH}/file-read", {"content": "x", "truncated": 1})
    with pytest.raises(FactError, match="16 MiB"):
        agent.read_file("/x")


def test_a_file_is_written_as_our_own_base64(fake: FakePve, agent: Agent) -> None:
    fake.on("POST", f"{PATH}/file-write", None)
    content = "größe ✓".encode() * 10
    agent.write_file("/x", content)
    (seen,) = fake.calls("POST")
    assert seen.params["encode"] == "0"
    assert base64.b64decode(seen.params["content"]) == content
    with pytest.raises(StepFailed) as caught:
        agent.write_file("/x", b"x" * (FILE_WRITE_BYTES + 1))
    assert caught.value.code == "pve-agent-size"
