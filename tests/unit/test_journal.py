"""The journal: what a killed run leaves behind is what the next one finds."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from vi_ops.execute.journal import Journal, open_journal

UPID = "UPID:pve1:0000AAAA:00BBBBBB:6740A1B2:qmcreate:106:ops@pve!viops:"


def keys(journal: Journal, before: int | None = None) -> list[str]:
    return [step.key for step in journal.left("vm106", before)]


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    ticks = count(100)
    with open_journal(tmp_path / "journal.db", lambda: float(next(ticks))) as journal:
        run = journal.begin_run("provision vm106", "vm106")
        for step in journal.plan_steps(run, ["vm106/create", "vm106/start"]):
            journal.begin_step(step)
            journal.end_step(step, "ok")
        journal.end_run(run, "ok")
        assert keys(journal) == []
        last = journal.last_run("vm106")
    assert last
    assert (last.command, last.started, last.finished, last.outcome) == ("provision vm106", 100, 105, "ok")


@pytest.mark.parametrize("outcome", [None, "interrupted", "pve-task-failed"])
def test_a_run_that_stopped_in_a_step_leaves_it_and_the_later_ones(
    tmp_path: Path, outcome: str | None
) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        run = journal.begin_run("provision vm106", "vm106")
        create, start, _ = journal.plan_steps(run, ["vm106/create", "vm106/start", "vm106/base"])
        journal.begin_step(create)
        journal.end_step(create, "ok")
        journal.begin_step(start)
        journal.note_upid(start, UPID)
        if outcome:
            journal.end_step(start, outcome)
        begun, later = journal.left("vm106")
    assert (begun.key, begun.upid, begun.outcome) == ("vm106/start", UPID, outcome)
    assert (later.key, later.started) == ("vm106/base", None)


def test_runs_without_a_plan_hide_nothing(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        journal.plan_steps(journal.begin_run("provision vm106", "vm106"), ["vm106/create"])
        journal.begin_run("provision vm106", "vm106")  # killed before it had a plan
        now = journal.begin_run("provision vm106", "vm106")
        assert keys(journal, before=now) == ["vm106/create"]


def test_subjects_are_kept_apart(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        journal.plan_steps(journal.begin_run("provision vm101", "vm101"), ["vm101/create"])
        assert keys(journal) == []
        assert journal.last_run("vm106") is None


def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from vi_ops.execute.journal import open_journal\n"
        "with open_journal(Path(sys.argv[1])) as journal:\n"
        "    step, = journal.plan_steps(journal.begin_run('provision vm106', 'vm106'), ['vm106/create'])\n"
        "    journal.begin_step(step); journal.note_upid(step, sys.argv[2])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "journal.db"
    done = subprocess.run([sys.executable, "-c", script, str(path), UPID], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    with open_journal(path) as journal:
        (step,) = journal.left("vm106")
        assert step.upid == UPID
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_threads_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    def work(number: int) -> None:
        with open_journal(path) as journal:
            for step in journal.plan_steps(journal.begin_run("provision", f"vm{number}"), list("abcdef")):
                journal.end_step(step, "ok")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with open_journal(path) as journal:
        assert all(journal.last_run(f"vm{number}") and not journal.left(f"vm{number}") for number in range(8))


def test_the_owner_is_named(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        journal.begin_run("provision vm106", "vm106")
        last = journal.last_run("vm106")
    assert last
    assert str(os.getpid()) in last.owner


def test_what_a_guest_was_started_with_is_kept_with_its_age(tmp_path: Path) -> None:
    now = iter([100.0, 160.0, 170.0])
    with open_journal(tmp_path / "journal.db", lambda: next(now)) as journal:
        journal.note_started_with("vm106", "ipconfig0", "ip=dhcp")
        assert journal.started_with("vm106") == {"ipconfig0": ("ip=dhcp", 60.0)}
        assert journal.started_with("vm101") == {}


def test_many_may_make_the_journal_at_once(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def open_it(path: Path, start: threading.Barrier) -> None:
        start.wait(10)
        try:
            with open_journal(path) as journal:
                journal.begin_run("provision vm106", "vm106")
        except Exception as error:
            failures.append(error)

    for turn in range(20):
        start = threading.Barrier(6)
        path = tmp_path / f"journal-{turn}.db"
        threads = [threading.Thread(target=open_it, args=(path, start)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert failures == []


def test_an_interrupt_is_written_down_for_a_run_that_cannot(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        assert journal.interrupt("vm106") == ()
        run = journal.begin_run("provision vm106", "vm106")
        assert journal.interrupt("vm101") == ()
        create, wait, _ = journal.plan_steps(run, ["create", "wait", "base"], ["Make", "Wait for it", "Base"])
        journal.begin_step(create)
        journal.end_step(create, "ok")
        journal.begin_step(wait)
        begun = journal.interrupt("vm106")
        assert [(step.name, step.outcome) for step in begun] == [("Make", "ok"), ("Wait for it", None)]
        journal.end_step(wait, "pve-unreachable")  # the thread that was left behind
        journal.end_run(run, "pve-unreachable")
        last = journal.last_run("vm106")
        outcomes = [step.outcome for step in journal.steps(run)]
    assert last
    assert (last.outcome, last.finished is None) == ("interrupted", False)
    assert outcomes == ["ok", "interrupted", None]


def test_a_run_of_another_process_is_not_called_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with open_journal(path) as journal:
        journal.begin_run("provision vm106", "vm106")
        with sqlite3.connect(path) as raw:
            raw.execute("update run set owner = 'anna@elsewhere pid 1'")
        raw.close()
        assert journal.interrupt("vm106") == ()
        last = journal.last_run("vm106")
    assert last
    assert last.outcome is None


@pytest.mark.parametrize(
    ("before", "outcome", "upid", "kept"),
    [
        ("ok", "refused", "", []),
        ("ready-agent", "refused", "", ["wait"]),
        ("ok", "refused", UPID, ["config", "wait"]),
        ("ok", "pve-lost-answer", "", ["config", "wait"]),
        ("ok", None, "", ["config", "wait"]),
    ],
)
def test_a_run_that_was_refused_at_once_leaves_the_guest_as_it_was(
    tmp_path: Path, before: str, outcome: str | None, upid: str, kept: list[str]
) -> None:
    with open_journal(tmp_path / "journal.db") as journal:
        (step,) = journal.plan_steps(journal.begin_run("provision vm106", "vm106"), ["wait"])
        journal.begin_step(step)
        journal.end_step(step, before)
        step, _ = journal.plan_steps(journal.begin_run("provision vm106", "vm106"), ["config", "wait"])
        journal.begin_step(step)
        if upid:
            journal.note_upid(step, upid)
        if outcome:
            journal.end_step(step, outcome)
        assert sorted(journal.unfinished("vm106")) == kept


def test_a_journal_without_titles_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as old:
        old.execute(
            "create table step (id integer primary key, run integer not null, key text not null,"
            " started real, finished real, outcome text, upid text)"
        )
        old.execute("insert into step (run, key) values (1, 'vm106/create')")
    old.close()
    with open_journal(path) as journal:
        journal.plan_steps(1, ["vm106/start"], ["Start it"])
        assert [step.name for step in journal.steps(1)] == ["vm106/create", "Start it"]
