"""What was begun and what was finished, in SQLite: lets a run see what a killed one left behind.

The node is the truth; the journal only says where to look, and keeps what a node forgets: the address that a
guest was started with. It holds no other parameter, so never a secret.
"""

from __future__ import annotations

import getpass
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

_WAL_TRIES = 100

_SCHEMA = """
create table if not exists run (
    id integer primary key,
    command text not null,
    subject text not null,
    owner text not null,
    started real not null,
    finished real,
    outcome text
);
create table if not exists step (
    id integer primary key,
    run integer not null references run (id),
    key text not null,
    started real,
    finished real,
    outcome text,
    upid text,
    title text not null default ''
);
create table if not exists started_with (
    subject text not null,
    key text not null,
    value text not null,
    noted real not null,
    primary key (subject, key)
);
create index if not exists run_subject on run (subject, id);
create index if not exists step_run on step (run, id);
"""


@dataclass(frozen=True)
class RunRecord:
    """One run. Times are seconds since the epoch; `outcome` is None while it runs, or when it was killed."""

    id: int
    command: str
    subject: str
    owner: str
    started: float
    finished: float | None
    outcome: str | None


@dataclass(frozen=True)
class StepRecord:
    """One step of a run: planned, begun, finished. `upid` is the task that it began on the node.

    `outcome` is `ok`, `skipped`, `interrupted`, `refused`, or the code of its error.
    """

    id: int
    run: int
    key: str
    started: float | None
    finished: float | None
    outcome: str | None
    upid: str | None
    title: str = ""

    @property
    def name(self) -> str:
        """The step for people; its key in a journal of an older release."""
        return self.title or self.key


class Journal:
    """The journal of one site. Each thread opens its own; SQLite (WAL) keeps them apart."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float] = time.time) -> None:
        self._db = connection
        self._clock = clock

    def begin_run(self, command: str, subject: str) -> int:
        """Write down that a run begins; gives its id."""
        return self._insert(
            "insert into run (command, subject, owner, started) values (?, ?, ?, ?)",
            (command, subject, _me(), self._clock()),
        )

    def end_run(self, run: int, outcome: str) -> None:
        """Write down how a run ended: `ok`, `interrupted`, or its error's code; the first word counts."""
        self._db.execute(
            "update run set finished = ?, outcome = ? where id = ? and outcome is null",
            (self._clock(), outcome, run),
        )

    def interrupt(self, subject: str) -> tuple[StepRecord, ...]:
        """Write down that this process's run on `subject` was interrupted, where the run has not done so.

        Gives the steps that it had begun, the last one as it was; none when nothing had been begun.
        """
        run = self.last_run(subject)
        if run is None or run.owner != _me():
            return ()
        begun = tuple(step for step in self.steps(run.id) if step.started is not None)
        for step in begun:
            if step.outcome is None:
                self.end_step(step.id, "interrupted")
        if run.outcome is None:
            self.end_run(run.id, "interrupted")
        return begun

    def plan_steps(self, run: int, keys: Sequence[str], titles: Sequence[str] = ()) -> tuple[int, ...]:
        """Write down what a run is about to do, before anything is sent; gives one id for each step."""
        return tuple(
            self._insert("insert into step (run, key, title) values (?, ?, ?)", (run, key, title))
            for key, title in zip_longest(keys, titles, fillvalue="")
        )

    def begin_step(self, step: int) -> None:
        """Write down that a step begins."""
        self._db.execute("update step set started = ? where id = ?", (self._clock(), step))

    def note_upid(self, step: int, upid: str) -> None:
        """Keep the task's name the moment the node has given it."""
        self._db.execute("update step set upid = ? where id = ?", (upid, step))

    def end_step(self, step: int, outcome: str) -> None:
        """Write down how a step ended, see StepRecord; the first word counts."""
        self._db.execute(
            "update step set finished = ?, outcome = ? where id = ? and outcome is null",
            (self._clock(), outcome, step),
        )

    def last_run(self, subject: str, before: int | None = None) -> RunRecord | None:
        """The newest run on `subject`; with `before`, the newest one older than that run."""
        row = self._db.execute(
            "select id, command, subject, owner, started, finished, outcome from run"
            " where subject = ? and id < ? order by id desc limit 1",
            (subject, before if before is not None else 2**62),
        ).fetchone()
        return RunRecord(*row) if row else None

    def steps(self, run: int) -> tuple[StepRecord, ...]:
        """The steps of a run in the order of its plan."""
        rows = self._db.execute(
            "select id, run, key, started, finished, outcome, upid, title from step"
            " where run = ? order by id",
            (run,),
        )
        return tuple(StepRecord(*row) for row in rows)

    def left(self, subject: str, before: int | None = None) -> tuple[StepRecord, ...]:
        """The steps that the newest run with a plan did not finish well, in order; empty when all is done.

        A run that found nothing to plan, or was killed before it could, leaves no steps and is passed over.
        """
        row = self._db.execute(
            "select max(step.run) from step join run on run.id = step.run where subject = ? and run < ?",
            (subject, before if before is not None else 2**62),
        ).fetchone()
        if row[0] is None:
            return ()
        return tuple(step for step in self.steps(row[0]) if step.outcome != "ok")

    def unfinished(self, subject: str, before: int | None = None) -> frozenset[str]:
        """The keys of the steps in `left`, but of the newest run that did something.

        A run whose first writing step was refused changed nothing: how the guest is, the run before it says.
        """
        while left := self.left(subject, before):
            before = left[0].run
            begun = [step for step in self.steps(before) if step.started is not None]
            if not begun or any(step.outcome != "refused" or step.upid for step in begun):
                return frozenset(step.key for step in left)
        return frozenset()

    def note_started_with(self, subject: str, key: str, value: str) -> None:
        """Keep what a running guest was started with, before its config gets another value."""
        self._db.execute(
            "insert or replace into started_with values (?, ?, ?, ?)", (subject, key, value, self._clock())
        )

    def started_with(self, subject: str) -> dict[str, tuple[str, float]]:
        """What was noted, by config key: the value, and how many seconds ago."""
        rows = self._db.execute("select key, value, noted from started_with where subject = ?", (subject,))
        return {key: (value, self._clock() - noted) for key, value, noted in rows}

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        row = self._db.execute(statement, values).lastrowid
        assert row is not None  # noqa: S101  an insert always has one
        return row


@contextmanager
def open_journal(path: Path, clock: Callable[[], float] = time.time) -> Iterator[Journal]:
    """Open the journal at `path`, made if need be (0600). Every write is committed at once."""
    if not path.exists():
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        _make_concurrent(connection)
        connection.execute("pragma synchronous = normal")
        connection.executescript(_SCHEMA)
        _add_title(connection)
        yield Journal(connection, clock)
    finally:
        connection.close()


def _me() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}"


def _add_title(connection: sqlite3.Connection) -> None:
    """Give the column to a journal that was made before there was one."""
    if "title" in {row[1] for row in connection.execute("pragma table_info(step)")}:
        return
    with suppress(sqlite3.OperationalError):  # somebody else was faster
        connection.execute("alter table step add column title text not null default ''")


def _make_concurrent(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log.

    SQLite does not wait for the lock of this switch: of two that open a new journal together, one is
    refused at once (28 of 300 opens, measured).
    """
    for attempt in range(_WAL_TRIES):
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError:
            if attempt == _WAL_TRIES - 1:
                raise
            time.sleep(0.05)
        else:
            return
