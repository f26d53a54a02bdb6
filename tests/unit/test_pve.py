"""The client against a node that loses answers, stalls and refuses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import SECRET, TOKEN, Answer, FakePve, Seen, node_spec, serve_fake
from vi_ops.errors import FactError, LockHeld, Refused, StepFailed, Unreachable
from vi_ops.execute import pve as client
from vi_ops.execute import pve_lost
from vi_ops.execute.pve import Pve, connect
from vi_ops.execute.trust import shown_fingerprint
from vi_ops.plan.step import PveCall

START = PveCall("POST", "/nodes/pve1/qemu/106/status/start")
CONFIG = PveCall("PUT", "/nodes/pve1/qemu/106/config", {"memory": 2048})


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        yield node


@pytest.fixture
def pve(fake: FakePve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pve]:
    monkeypatch.setattr(pve_lost, "SETTLE_S", 0.5)
    monkeypatch.setattr(pve_lost, "SETTLE_SLOW_S", 0.8)
    monkeypatch.setattr(pve_lost, "LATE_TASK_S", 0.1)
    with connect(node_spec(fake, ca_file=str(fake.home / "node.pem")), state_dir=fake.home / "state") as api:
        yield api


def test_a_worker_that_died_before_it_began_is_started_again(fake: FakePve, pve: Pve) -> None:
    fake.on("POST", START.path, lambda _: fake.start_task("qmstart", "106"))
    fake.fail("POST", START.path, Answer(500, reason="got no worker upid - start worker failed"))
    assert pve.run(START, 5).is_ok
    assert len(fake.tasks) == 1


def test_get_gives_the_data(fake: FakePve, pve: Pve) -> None:
    fake.on("GET", "/version", {"release": "9.2"})
    assert pve.get("/version") == {"release": "9.2"}


def test_booleans_lists_and_none_arrive_as_the_node_reads_them(fake: FakePve, pve: Pve) -> None:
    fake.on("POST", "/nodes/pve1/qemu", None)
    params = {"onboot": True, "numa": False, "command": ("a", "b c"), "tags": "x;y=z"}
    pve.write(PveCall("POST", "/nodes/pve1/qemu", {**params, "sshkeys": "ssh-ed25519 AA+/= me@x\n"}))
    (seen,) = fake.calls("POST")
    assert seen.params == {
        "onboot": "1",
        "numa": "0",
        "command": ["a", "b c"],
        "tags": "x;y=z",
        "sshkeys": "ssh-ed25519%20AA%2B%2F%3D%20me%40x%0A",
    }
    assert b";" not in seen.body


def test_delete_sends_its_parameters_in_the_query_and_no_body(fake: FakePve, pve: Pve) -> None:
    fake.on("DELETE", "/nodes/pve1/qemu/106", None)
    pve.write(PveCall("DELETE", "/nodes/pve1/qemu/106", {"purge": True}))
    (seen,) = fake.calls("DELETE")
    assert seen.params == {"purge": "1"}
    assert seen.body == b""


@pytest.mark.parametrize("fault", [Answer(drop="before"), Answer(596, raw=b""), Answer(595), Answer(503)])
def test_a_read_is_tried_again(fake: FakePve, pve: Pve, fault: Answer) -> None:
    fake.on("GET", "/version", {"release": "9.2"})
    fake.fail("GET", "/version", fault, fault)
    assert pve.get("/version") == {"release": "9.2"}
    assert len(fake.calls("GET")) == 3


def test_a_read_is_given_up_after_a_few_tries(fake: FakePve, pve: Pve) -> None:
    fake.fail("GET", "/version", *[Answer(596, reason="Connection timed out", raw=b"")] * 9)
    with pytest.raises(Unreachable, match=r"GET /version.*596 Connection timed out") as caught:
        pve.get("/version")
    assert caught.value.code == "pve-unreachable"
    assert len(fake.calls("GET")) == client.GET_ATTEMPTS


def test_an_idle_connection_is_replaced_before_the_server_closes_it(
    fake: FakePve, pve: Pve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vi_ops.execute.pve_session.IDLE_LIMIT_S", 0.2)
    fake.on("GET", "/version", {})
    for pause_s in (0, 0, 0.3):
        time.sleep(pause_s)
        pve.get("/version")
    assert [seen.connection for seen in fake.seen] == [1, 1, 2]


def test_a_write_is_never_sent_twice(fake: FakePve, pve: Pve) -> None:
    fake.fail("PUT", CONFIG.path, Answer(drop="before"))
    with pytest.raises(StepFailed) as caught:
        pve.write(CONFIG)
    assert caught.value.code == "pve-lost-answer"
    assert len(fake.calls("PUT")) == 1


def test_a_write_that_found_no_daemon_is_sent_again(fake: FakePve, pve: Pve) -> None:
    fake.on("PUT", CONFIG.path, None)
    fake.fail("PUT", CONFIG.path, Answer(595, reason="Connection refused", raw=b""))
    assert pve.write(CONFIG) is None
    assert len(fake.calls("PUT")) == 2


@pytest.mark.parametrize("ahead_s", [0, 3600, -86400])
def test_a_lost_answer_is_found_by_its_task(fake: FakePve, pve: Pve, ahead_s: float) -> None:
    fake.clock_ahead_s = ahead_s
    fake.on("GET", "/version", {})
    fake.on("POST", START.path, lambda _: fake.start_task("qmstart", "106"))
    fake.fail("POST", START.path, Answer(drop="after"))
    result = pve.run(START, deadline_s=5)
    assert result.is_ok
    assert result.upid is not None
    assert result.upid.type == "qmstart"
    assert len(fake.calls("POST")) == 1


def test_a_task_of_somebody_else_or_of_an_earlier_call_is_not_taken_for_the_lost_one(
    fake: FakePve, pve: Pve
) -> None:
    fake.on("POST", START.path, lambda _: fake.start_task("qmstart", "106"))
    pve.write(START)
    fake.start_task("qmstart", "106", user="root@pam")
    fake.start_task("qmstart", "107")
    fake.start_task("qmstop", "106")
    fake.fail("POST", START.path, Answer(drop="before"))
    with pytest.raises(StepFailed) as caught:
        pve.write(START)
    assert caught.value.code == "pve-lost-answer"


def test_an_older_task_is_not_taken_for_the_very_first_call(fake: FakePve, pve: Pve) -> None:
    fake.on("GET", "/version", {})
    fake.clock_ahead_s = -3600
    fake.start_task("qmstart", "106")
    fake.clock_ahead_s = 0
    fake.fail("POST", START.path, Answer(drop="before"))
    with pytest.raises(StepFailed) as caught:
        pve.write(START)
    assert caught.value.code == "pve-lost-answer"
    fake.on("POST", START.path, lambda _: fake.start_task("qmstart", "106"))
    fake.fail("POST", START.path, Answer(drop="after"))
    assert pve.run(START, 5).upid is not None


def test_a_lost_answer_is_found_by_its_effect(fake: FakePve, pve: Pve) -> None:
    config = {"memory": "512"}
    fake.on("PUT", CONFIG.path, lambda seen: config.update(memory=seen.params["memory"]))
    fake.fail("PUT", CONFIG.path, Answer(596, drop="after"))
    assert pve.write(CONFIG, landed=lambda: config["memory"] == "2048") is None
    assert len(fake.calls("PUT")) == 1


def test_a_write_that_did_not_land_is_an_error_that_says_so(fake: FakePve, pve: Pve) -> None:
    fake.fail("PUT", CONFIG.path, Answer(596, reason="Connection timed out", raw=b""))
    with pytest.raises(StepFailed, match=r"596 Connection timed out.*no sign of it") as caught:
        pve.write(CONFIG, landed=lambda: False)
    assert caught.value.code == "pve-lost-answer"


def test_waiting_gives_the_result_with_warnings_and_the_end_of_the_log(fake: FakePve, pve: Pve) -> None:
    upid = fake.start_task("qmstart", "106", log=("generating", "WARN: no efidisk"), exitstatus="WARNINGS: 1")
    result = pve.wait(upid, deadline_s=5)
    assert result.is_ok
    assert result.warnings == ("no efidisk",)
    assert result.tail[0] == "generating"


def test_waiting_tells_each_line_once(fake: FakePve, pve: Pve) -> None:
    upid = fake.start_task("qmcreate", "106", log=("one",), exitstatus=None)
    polls = iter(range(10))

    def status(_seen: Any) -> Any:
        if next(polls) == 2:
            fake.logs[upid] += ["two", "three"]
        elif len(fake.calls("GET", f"/nodes/pve1/tasks/{upid}/status")) == 5:
            fake.end_task(upid, "OK")
        return fake.tasks[upid]

    fake.on("GET", f"/nodes/pve1/tasks/{upid}/status", status)
    told: list[str] = []
    assert pve.wait(upid, deadline_s=5, tell=told.append).is_ok
    assert told == ["one", "two", "three", "TASK OK"]


def test_waiting_survives_an_outage_of_the_api(
    fake: FakePve, pve: Pve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GET_ATTEMPTS", 1)
    upid = fake.start_task("qmstart", "106")
    fake.fail("GET", f"/nodes/pve1/tasks/{upid}/status", Answer(drop="before"), Answer(503), Answer(596))
    assert pve.wait(upid, deadline_s=5).is_ok


def test_a_task_that_outlives_its_deadline_says_how_to_look(fake: FakePve, pve: Pve) -> None:
    upid = fake.start_task("qmstart", "106", log=("binding devices",), exitstatus=None)
    with pytest.raises(StepFailed, match="binding devices") as caught:
        pve.wait(upid, deadline_s=0.3)
    assert caught.value.code == "pve-task-deadline"
    assert upid in caught.value.message


def test_a_failed_task_raises_with_its_words_log_and_upid(fake: FakePve, pve: Pve) -> None:
    words = "PCI device mapping not found for 'nope'"
    log = tuple(f"line {number}" for number in range(50))
    fake.on("POST", START.path, lambda _: fake.start_task("qmstart", "106", log=log, exitstatus=words))
    with pytest.raises(StepFailed, match=words) as caught:
        pve.run(START, deadline_s=5)
    assert caught.value.code == "pve-task-failed"
    assert "line 49" in caught.value.message
    assert "line 9\n" not in caught.value.message
    assert "UPID:pve1:" in caught.value.message
    assert "mapping" in str(caught.value.hint)


def test_a_call_without_a_task_is_done_at_once(fake: FakePve, pve: Pve) -> None:
    fake.on("PUT", CONFIG.path, None)
    result = pve.run(CONFIG, deadline_s=5)
    assert result.is_ok
    assert result.upid is None


@pytest.mark.parametrize(
    ("answer", "kind", "code", "words"),
    [
        (Answer(401, reason="Authentication failed!", raw=b""), Unreachable, "pve-login", TOKEN),
        (
            Answer(403, reason="Permission check failed (/vms/106, VM.Audit|VM.PowerMgmt)"),
            Refused,
            "pve-permission",
            "VM.Audit or VM.PowerMgmt on /vms/106",
        ),
        (Answer(403, reason="Permission check failed (user != root@pam)"), Refused, "pve-root-only", "root"),
        (Answer(500, reason="only root can set 'args' config"), Refused, "pve-root-only", "args"),
        (Answer(500, message="VM is locked (backup)\n"), LockHeld, "pve-locked", "backup"),
        (
            Answer(500, reason="cfs-lock 'storage-local' error: got lock request timeout"),
            LockHeld,
            "pve-locked",
            "storage-local",
        ),
        (
            Answer(500, reason="checksum mismatch (file change by other user?)"),
            StepFailed,
            "pve-changed",
            "file change",
        ),
        (
            Answer(400, reason="Parameter verification failed.", errors={"cores": "must be 1"}),
            StepFailed,
            "pve-parameter",
            "cores: must be 1",
        ),
        (
            Answer(500, reason="können nicht".encode().decode("latin-1")),
            StepFailed,
            "pve-failed",
            "können nicht",
        ),
        (Answer(500, raw=b"<html>"), StepFailed, "pve-failed", "500 Internal Server Error"),
        (Answer(500, raw=b"[]"), StepFailed, "pve-failed", "500"),
        (Answer(501, reason="Method 'PUT /x' not implemented"), StepFailed, "pve-no-such-call", "/x"),
        (Answer(200, raw=b"<html>hello"), FactError, "pve-answer", "<html>hello"),
        (Answer(301, headers={"Location": "https://elsewhere/"}), Unreachable, "pve-redirect", "elsewhere"),
    ],
)
def test_a_refusal_has_a_code_and_the_nodes_own_words(
    fake: FakePve, pve: Pve, answer: Answer, kind: type[Exception], code: str, words: str
) -> None:
    fake.fail("PUT", CONFIG.path, answer)
    with pytest.raises(kind) as caught:
        pve.write(CONFIG)
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert words in str(caught.value)
    assert code in {"pve-answer", "pve-redirect"} or f"PUT {CONFIG.path}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_refusal_does_not_repeat_a_secret(fake: FakePve, pve: Pve) -> None:
    call = PveCall("PUT", CONFIG.path, {"cipassword": "hunter22"}, secret=frozenset({"cipassword"}))
    fake.fail("PUT", CONFIG.path, Answer(400, reason="bad", errors={"cipassword": "got hunter22"}))
    with pytest.raises(StepFailed, match=r"got \*\*\*"):
        pve.write(call)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"data": null}'])
def test_an_empty_answer_is_no_data(fake: FakePve, pve: Pve, raw: bytes) -> None:
    fake.fail("GET", "/version", Answer(raw=raw))
    assert pve.get("/version") is None


def test_nobody_there(pve: Pve, fake: FakePve, tmp_path: Path) -> None:
    spec = node_spec(fake, ca_file=str(tmp_path / "node.pem"), url="https://127.0.0.1:1")
    with connect(spec, state_dir=tmp_path) as api, pytest.raises(Unreachable, match="refused") as caught:
        api.write(START)
    assert caught.value.code == "pve-unreachable"


def test_a_write_to_a_port_that_speaks_no_tls_was_not_sent(fake: FakePve, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=_say_http, args=(plain,), daemon=True).start()
        url = f"https://127.0.0.1:{plain.getsockname()[1]}"
        spec = node_spec(fake, ca_file=str(tmp_path / "node.pem"), url=url)
        with connect(spec, state_dir=tmp_path) as api, pytest.raises(Unreachable) as caught:
            api.write(START)
    assert caught.value.code == "pve-unreachable"


def _say_http(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        peer.sendall(b"HTTP/1.1 400 no\r\n\r\n")
        peer.recv(1000)


def test_an_answer_that_breaks_off_is_asked_for_again(fake: FakePve, pve: Pve) -> None:
    fake.on("GET", "/version", {"release": "9.2"})
    fake.fail("GET", "/version", Answer(raw=b'{"data":', headers={"Content-Length": "100"}))
    assert pve.get("/version") == {"release": "9.2"}
    assert len(fake.calls("GET")) == 2


def test_a_slow_answer_has_a_deadline(fake: FakePve, pve: Pve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vi_ops.execute.pve_session.READ_DEADLINE_S", 0.3)
    monkeypatch.setattr(client, "GET_ATTEMPTS", 2)
    fake.fail("GET", "/version", *[Answer(delay_s=1.0)] * 2)
    with pytest.raises(Unreachable, match="timed out"):
        pve.get("/version")


def test_a_ticket_is_fetched_used_and_replaced_when_it_expires(fake: FakePve) -> None:
    fake.on("GET", "/version", {"release": "9.2"})
    carried_out: list[Seen] = []
    fake.handlers["PUT", CONFIG.path] = carried_out.append
    spec = node_spec(fake, user="root@pam", ca_file=str(fake.home / "node.pem"))
    with connect(spec, state_dir=fake.home) as api:
        api.get("/version")
        api.write(CONFIG)
        assert len(fake.calls("POST", "/access/ticket")) == 1
        fake.tickets.clear()
        api.write(CONFIG)
    assert len(fake.calls("POST", "/access/ticket")) == 2
    # How often it was refused first depends on when the refusing connection is seen to be closed.
    assert len(carried_out) == 2


@pytest.mark.parametrize("fault", [Answer(596, raw=b""), Answer(drop="before")])
def test_a_lost_login_is_no_lost_write(fake: FakePve, fault: Answer) -> None:
    fake.on("PUT", CONFIG.path, None)
    fake.fail("POST", "/access/ticket", fault)
    spec = node_spec(fake, user="root@pam", ca_file=str(fake.home / "node.pem"))
    with connect(spec, state_dir=fake.home) as api:
        api.write(CONFIG)
    assert len(fake.calls("PUT")) == 1


def test_a_wrong_password_is_tried_once(fake: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "wrong")
    spec = node_spec(fake, user="root@pam", secret={"env": "PASSWORD"}, ca_file=str(fake.home / "node.pem"))
    with (
        connect(spec, state_dir=fake.home) as api,
        pytest.raises(Unreachable, match="authentication failure"),
    ):
        api.get("/version")
    assert len(fake.seen) == 1


def test_a_netrc_or_proxy_of_the_user_changes_nothing(
    fake: FakePve, pve: Pve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    fake.on("GET", "/version", {"release": "9.2"})
    assert pve.get("/version") == {"release": "9.2"}


def test_a_pinned_fingerprint_is_checked_before_the_token_is_sent(fake: FakePve) -> None:
    fake.on("GET", "/version", {})
    with connect(node_spec(fake, fingerprint=shown_fingerprint(fake.url)), state_dir=fake.home) as api:
        api.get("/version")
    other = ":".join(["AB"] * 32)
    with (
        connect(node_spec(fake, fingerprint=other), state_dir=fake.home) as api,
        pytest.raises(Unreachable) as caught,
    ):
        api.get("/version")
    assert caught.value.code == "tls-changed"
    assert len(fake.seen) == 1
