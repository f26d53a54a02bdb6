"""Progress: plain lines off a terminal, live ones on it, JSON lines for programs."""

from __future__ import annotations

import io
import json
import re
import time

import pytest

from vi_ops.report import progress as report
from vi_ops.report.progress import JsonProgressOf, Progress, ProgressOf
from vi_ops.report.text import console_on


class HandWound:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> HandWound:
    return HandWound()


def go(listener: ProgressOf | JsonProgressOf, clock: HandWound) -> None:
    listener.start("Ensure VM 106 exists")
    listener.note("create full disk scsi0")
    listener.note("create full disk scsi0")
    clock.now_s += 2.5
    listener.stop("done")
    listener.start("Wait until the guest agent answers (at most 5 min)")
    clock.now_s += 300
    listener.fail("stage agent: not reached\n  console:\n    login:")


def test_plain_lines_off_a_terminal(clock: HandWound) -> None:
    stream = io.StringIO()
    with Progress(console_on(stream), clock) as progress:
        go(progress.of("vm106"), clock)
    assert stream.getvalue().splitlines() == [
        ".. vm106: Ensure VM 106 exists",
        "   vm106: create full disk scsi0",
        "ok vm106: Ensure VM 106 exists (2.5 s, done)",
        "!! vm106: Wait until the guest agent answers (at most 5 min) (5 min, stage agent: not reached)",
    ]


def test_json_lines(clock: HandWound) -> None:
    stream = io.StringIO()
    go(JsonProgressOf(stream, "vm106", clock), clock)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["kind"] for record in records] == ["start", "note", "note", "stop", "start", "fail"]
    assert records[3] == {
        "kind": "stop",
        "subject": "vm106",
        "title": "Ensure VM 106 exists",
        "took_s": 2.5,
        "text": "done",
    }
    assert records[5]["took_s"] == 300


def test_runs_share_a_screen_and_keep_their_notes_apart(clock: HandWound) -> None:
    stream = io.StringIO()
    with Progress(console_on(stream), clock) as progress:
        one, two = progress.of("vm106"), progress.of("vm107")
        one.start("first")
        two.start("second")
        clock.now_s += 20
        one.note("a")
        two.note("a")
        two.stop()
        one.stop()
    assert stream.getvalue().splitlines() == [
        ".. vm106: first",
        "   vm106: a",
        ".. vm107: second",
        "   vm107: a",
        "ok vm107: second (20 s)",
        "ok vm106: first (20 s)",
    ]


def test_a_step_that_takes_its_time_is_told_before_its_end(
    clock: HandWound, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(report, "_AT_ONCE_S", 0.05)
    with Progress(console_on(stream), clock) as progress:
        listener = progress.of("vm106")
        listener.start("at once")
        listener.stop()
        listener.start("slow")
        deadline = time.monotonic() + 5
        while ".. vm106: slow" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        listener.stop()
    assert stream.getvalue().splitlines() == [
        "ok vm106: at once (0 s)",
        ".. vm106: slow",
        "ok vm106: slow (0 s)",
    ]


def test_what_is_done_wraps_at_words_on_a_terminal(clock: HandWound) -> None:
    stream = Terminal()
    key = "SHA256:4Nf9Wyv3ZQ0XzVqNL2f4tHqMyYc0m1mJm0ZrQyQh8mE"
    with Progress(console_on(stream, width=60, colour=True), clock) as progress:
        listener = progress.of("vm106")
        listener.start("Wait until SSH answers with the inventory's key (at most 2 min)")
        listener.stop(f"smith@127.0.0.1:22106, host key {key}, vouched for by the agent")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith(("ok ", "   "))]
    assert max(map(len, lines)) <= 60
    assert len(lines) >= 3
    assert any(key in line for line in lines)


def test_a_note_without_a_step_is_told(clock: HandWound) -> None:
    stream = io.StringIO()
    with Progress(console_on(stream), clock) as progress:
        progress.of("vm106").note("the lock is held by smith@pve, waiting")
    assert stream.getvalue() == "   vm106: the lock is held by smith@pve, waiting\n"


def test_on_a_terminal_what_is_under_way_is_live_and_what_is_done_stays(clock: HandWound) -> None:
    stream = Terminal()
    with Progress(console_on(stream, width=100, colour=True), clock) as progress:
        listener = progress.of("vm106")
        listener.start("Wait until the guest agent answers (at most 5 min)")
        clock.now_s += 61
        listener.note("the firmware is at work")
        (row,) = frame(progress)
        listener.stop()
    assert re.search(
        r"vm106: Wait until the guest agent answers \(at most 5 min\)  1 min 1 s  the firmware", row
    )
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "ok vm106: Wait until the guest agent answers (at most 5 min) (1 min 1 s)" in text


def test_a_note_cannot_paint_the_terminal(clock: HandWound) -> None:
    stream = io.StringIO()
    with Progress(console_on(stream), clock) as progress:
        progress.of("vm106").note("\x1b[2Jclear\rme\nsecond line")
    assert stream.getvalue() == "   vm106:  [2Jclear me\n"


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_a_live_line_fits_and_keeps_its_time(clock: HandWound, width: int) -> None:
    with Progress(console_on(Terminal(), width=width, colour=True), clock) as progress:
        listener = progress.of("vm106")
        listener.start("Wait until cloud-init has finished without a failed module (at most 15 min)")
        listener.note("cloud-init runs modules-final")
        clock.now_s += 754
        (row,) = frame(progress)
    assert len(row) <= width
    assert "vm106: Wait" in row
    assert "  12 min 34 s" in row
    assert ("modules-final" in row) is (width == 140)


def test_two_runs_are_two_live_lines(clock: HandWound) -> None:
    with Progress(console_on(Terminal(), colour=True), clock) as progress:
        progress.of("vm106").start("first")
        progress.of("vm107").start("second")
        assert [row[2:].split()[:2] for row in frame(progress)] == [["vm106:", "first"], ["vm107:", "second"]]


def frame(progress: Progress) -> list[str]:
    return progress.frame().plain.splitlines()
