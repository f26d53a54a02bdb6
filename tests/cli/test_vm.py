"""`plan`, `provision`, `status`, `ssh`, `destroy` over a lab whose guests are fakes: words and exit codes."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.scene import Scene
from tests.support.scene import scene as make_scene
from vi_ops.cli import crew, words
from vi_ops.cli.main import app
from vi_ops.errors import LockHeld, Refused, StepFailed, Unreachable, ViOpsError
from vi_ops.execute import provision
from vi_ops.execute.journal import open_journal
from vi_ops.execute.lock import hold_lock
from vi_ops.execute.pve import Pve
from vi_ops.execute.state import site_state
from vi_ops.lab import daemon
from vi_ops.lab.fault import Fault
from vi_ops.plan import ready

pytestmark = pytest.mark.slow


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with make_scene(tmp_path, getattr(request, "param", "9.2")) as made:
        yield made


def run(*argv: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, argv, input=stdin)


def fails(kind: type[ViOpsError], *argv: str) -> ViOpsError:
    error = run(*argv).exception
    assert isinstance(error, kind), error
    return error


@pytest.mark.parametrize("scene", ["8.4", "9.2"], indirect=True)
def test_provision_plan_and_status_of_one_vm(scene: Scene) -> None:
    assert run("plan", "vm106", "--detect").exit_code == 8
    assert scene.writes() == []
    first = run("provision", "vm106")
    assert first.exit_code == 0, first.output
    assert "vm106: ready (3 changes and the base playbook, " in first.stdout
    assert f"smith@127.0.0.1:{scene.ssh.port}" in first.stdout
    made = len(scene.writes())
    second = run("provision", "vm106", "--json")
    assert json.loads(second.stdout)["writes"] == 0
    assert len(scene.writes()) == made == 3
    assert run("plan", "vm106", "--detect").exit_code == 0
    status = json.loads(run("status", "vm106", "--json").stdout)
    assert (status["state"], status["last_run"]["outcome"]) == ("running", "ok")
    assert status["host_key_pinned"]
    assert "absent" in run("status").stdout


def test_the_token_and_nothing_secret_is_told(scene: Scene) -> None:
    ran = run("provision", "vm106", "--json")
    assert scene.lab.lab.token not in ran.output


def test_several_at_once_share_the_screen(scene: Scene) -> None:
    ran = run("provision", "--all")
    assert ran.exit_code == 0, ran.output
    for host in ("vm106", "vm101"):
        assert f"{host}: ready" in ran.stdout
        assert f"ok {host}: Ensure VM" in ran.stderr


def test_one_that_fails_does_not_stop_the_other(scene: Scene) -> None:
    scene.edit("vm101", "size: 2 GiB", "size: 900 TiB")
    ran = run("provision", "vm106", "vm101")
    assert ran.exit_code == 6, ran.output
    assert "vm106: ready" in ran.stdout
    assert "error [storage-full] vm101" in ran.stderr


def test_a_failed_task_names_the_step_and_what_was_done(scene: Scene) -> None:
    scene.lab.lab.node.faults.inject(_fault("status-500", method="POST", path="*/status/start"))
    error = fails(StepFailed, "provision", "vm106")
    for part in ("step 3 of 12 of vm106: Ensure VM 106 runs", "done before: Ensure VM 106 (vm106) exists"):
        assert part in error.message
    resumed = run("provision", "vm106")
    assert resumed.exit_code == 0, resumed.output
    assert scene.writes().count("POST /nodes/pve1/qemu") == 1


def test_a_guest_that_never_comes_up_fails_in_time_and_is_waited_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tuple(stage._replace(deadline_s=0.5) for stage in ready.STAGES)
    monkeypatch.setattr(ready, "STAGES", short)
    scene.lab.lab.node.faults.inject(_fault("agent-silent", vmid=106, count=None))
    error = fails(StepFailed, "provision", "vm106")
    assert error.code == "ready-firmware"
    assert "stage firmware: not reached" in error.message
    scene.lab.lab.node.faults.clear()
    monkeypatch.setattr(ready, "STAGES", tuple(stage._replace(deadline_s=20) for stage in short))
    assert run("plan", "vm106", "--detect").exit_code == 8
    resumed = run("provision", "vm106")
    assert resumed.exit_code == 0, resumed.output
    assert "an earlier run ended before the guest was ready" in " ".join(resumed.stderr.split())
    assert scene.writes().count("POST /nodes/pve1/qemu/106/status/start") == 1


def test_another_run_is_named(scene: Scene) -> None:
    with hold_lock(site_state(scene.site).lock("vm106"), "vm106", "provision vm106"):
        error = fails(LockHeld, "provision", "vm106")
        assert "vi-ops provision vm106" in error.message
        with open_journal(scene.state.journal) as journal:  # that run has begun to make it
            (create,) = journal.plan_steps(journal.begin_run("provision vm106", "vm106"), ["vm106/create"])
            journal.begin_step(create)
        planned = run("plan", "vm106")
        assert planned.exit_code == 0
        shown = " ".join(planned.stdout.split())
        assert "[vm-under-way] vm106 is being worked on: `vi-ops provision vm106` (pid" in shown
        assert "provision: under way since" in " ".join(run("status", "vm106").stdout.split())
        fails(LockHeld, "destroy", "vm106", "--yes-destroy", "vm106")


def test_a_change_during_the_question_stops_the_destruction(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("provision", "vm106").exit_code == 0

    def ask_and_change(host: str, given: str | None, console: Any) -> Any:
        def ask(plan: Any) -> str:
            assert scene.lab.put(106, description="somebody was here").status == 200
            return "vm106"

        return ask

    monkeypatch.setattr(words, "ask_name", ask_and_change)
    error = fails(Refused, "destroy", "vm106")
    assert error.code == "destroy-changed"
    assert 106 in scene.lab.lab.node.vmids()


def test_destroy_asks_for_the_name_and_takes_the_pin_along(scene: Scene) -> None:
    assert run("provision", "vm106").exit_code == 0
    state = site_state(scene.site)
    assert state.known_hosts.read_text()
    assert fails(Refused, "destroy", "vm106").code == "destroy-unconfirmed"
    assert fails(Refused, "destroy", "vm106", "--yes-destroy", "vm101").code == "destroy-name"
    ran = run("destroy", "vm106", "--yes-destroy", "vm106")
    assert ran.exit_code == 0, ran.output
    assert "scsi0" in ran.stderr
    assert state.known_hosts.read_text() == ""
    assert "does not exist" in run("destroy", "vm106", "--yes-destroy", "vm106").stdout


def test_what_was_written_is_looked_at_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("provision", "vm106").exit_code == 0
    scene.edit("vm106", "name: vm106", "name: vm106\n  description: mine")
    look = provision.look_and_plan
    looks = []

    def look_after_somebody_else(*given: Any) -> Any:
        looks.append(given)
        if len(looks) == 2:
            assert scene.lab.put(106, description="theirs").status == 200
        return look(*given)

    monkeypatch.setattr(provision, "look_and_plan", look_after_somebody_else)
    error = fails(StepFailed, "provision", "vm106")
    assert error.code == "apply-not-converged"
    assert "description" in error.message


def test_the_name_is_typed_on_a_terminal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("provision", "vm106").exit_code == 0
    terminal = SimpleNamespace(
        stdin=SimpleNamespace(isatty=lambda: True), stderr=io.StringIO(), argv=["vi-ops"]
    )
    monkeypatch.setattr(words, "sys", terminal)
    for typed in ("yes\n", ""):
        ran = run("destroy", "vm106", stdin=typed)
        assert ran.exit_code != 0
        assert ("vm106: interrupted; nothing was done" in ran.stderr) is (typed == "")
        assert 106 in scene.lab.lab.node.vmids()
    assert "destroy: interrupted" in " ".join(run("status", "vm106").stdout.split())
    assert run("destroy", "vm106", stdin="vm106\n").exit_code == 0
    assert 106 not in scene.lab.lab.node.vmids()


def test_a_task_of_somebody_else_is_waited_for(scene: Scene) -> None:
    assert run("provision", "vm106").exit_code == 0
    scene.lab.lab.node.faults.inject(_fault("slow-task", vmid=106, seconds=1.5))
    scene.edit("vm106", "name: vm106", "name: vm106\n  description: after the task")
    upid = scene.lab.ask("POST", "/qemu/106/config", description="mine").data
    ran = run("provision", "vm106")
    assert ran.exit_code == 0, ran.output
    assert f"not by this site's journal: {upid}" in ran.stderr.replace("\n", "")
    assert scene.lab.get(106, "config")["description"].strip() == "after the task"


def test_all_and_names_exclude_each_other(scene: Scene) -> None:
    assert run("provision").exit_code == 2
    assert run("provision", "vm106", "--all").exit_code == 2


def test_plans_of_many_are_a_table(scene: Scene) -> None:
    ran = run("plan", "--all", "--json")
    kinds = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {one["subject"] for one in kinds if one["kind"] == "plan"} == {"vm106", "vm101"}


def test_the_ways_in_say_what_is_not_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("console", "ssh"):
        assert fails(StepFailed, command, "vm106").code == "vm-absent"
    assert run("provision", "vm106").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(daemon, "is_console_taken", lambda home, vmid: True)
        taken = fails(Unreachable, "console", "vm106")
        assert (taken.code, "another terminal" in taken.message) == ("console-unreachable", True)
    assert scene.lab.power(106, "stop")[0] == "OK"
    for command in ("console", "ssh"):
        ran = run(command, "vm106")
        assert isinstance(ran.exception, StepFailed)
        assert (ran.exception.code, ran.output) == ("vm-stopped", "")


def test_ssh_needs_no_api_for_a_pinned_guest(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("provision", "vm106").exit_code == 0
    monkeypatch.setattr(Pve, "get_once", _no_answer)
    begun: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda file, argv: begun.append(argv))
    assert run("ssh", "vm106", "--", "true").exit_code == 0
    assert begun[0][-1] == "true"


def _no_answer(*_: Any) -> Any:
    raise Unreachable("pve-unreachable", "nobody there")


def test_ctrl_c_is_written_down_for_a_thread_that_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.lab.lab.node.faults.inject(_fault("agent-silent", vmid=106, count=None))
    monkeypatch.setattr(crew, "_GRACE_S", 0.0)
    join = threading.Thread.join

    def pressed(self: threading.Thread, timeout: float | None = None) -> None:
        join(self, timeout)
        with open_journal(scene.state.journal) as journal:
            if timeout == 0.2 and any("/wait-" in one.key and one.started for one in journal.left("vm106")):
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", pressed)
        ran = run("provision", "vm106")
    assert ran.exit_code == 130
    assert 'vm106: interrupted in "Wait until ' in ran.stderr
    assert "the same command again resumes" in ran.stderr
    with open_journal(scene.state.journal) as journal:
        last = journal.last_run("vm106")
    assert last
    assert last.outcome == "interrupted"
    for thread in threading.enumerate():
        if "_one" in thread.name:
            thread.join(20)


def test_a_plan_beside_a_run_or_after_a_refused_one_tells_of_no_ended_run(scene: Scene) -> None:
    assert run("provision", "vm106").exit_code == 0
    with hold_lock(scene.state.lock("vm106"), "vm106", "provision vm106"):
        with open_journal(scene.state.journal) as journal:
            under_way = journal.begin_run("provision vm106", "vm106")
            (wait,) = journal.plan_steps(under_way, ["vm106/wait-agent"])
            journal.begin_step(wait)
        shown = run("plan", "vm106").stdout
        assert "vm-under-way" in shown
        assert "an earlier run ended" not in shown
        with open_journal(scene.state.journal) as journal:
            journal.end_step(wait, "ok")
    scene.lab.lab.node.faults.inject(_fault("lock-held", vmid=106, count=None))
    scene.edit("vm106", "name: vm106", "name: vm106\n  description: mine")
    assert fails(LockHeld, "provision", "vm106").code == "pve-locked"
    scene.lab.lab.node.faults.clear()
    scene.edit("vm106", "\n  description: mine", "")
    assert run("plan", "vm106", "--detect").exit_code == 0


def test_threads_end(scene: Scene) -> None:
    run("provision", "vm106")
    assert not [one for one in threading.enumerate() if "_one" in one.name]


def _fault(name: str, **bounds: Any) -> Fault:
    return Fault(name, **{"count": 1, **bounds})
