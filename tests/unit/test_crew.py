"""Several subjects at once: each with its own end, and one code for all."""

from __future__ import annotations

import threading
import time

import pytest

from vi_ops.cli.crew import Crew
from vi_ops.errors import LockHeld, Refused, StepFailed, ViOpsError


def raising(errors: dict[str, ViOpsError]) -> Crew[str]:
    def work(subject: str) -> str:
        if error := errors.get(subject):
            raise error
        return f"{subject} done"

    crew: Crew[str] = Crew()
    crew.run(["vm101", "vm103", "vm106"], work)
    return crew


def test_all_are_worked_on_at_the_same_time() -> None:
    gate = threading.Barrier(3, timeout=5)
    crew: Crew[int] = Crew()
    crew.run(["a", "b", "c"], lambda subject: gate.wait())
    assert sorted(crew.results.values()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ({}, 0),
        ({"vm101": LockHeld("lock-held", "x")}, 7),
        ({"vm101": Refused("a", "x"), "vm106": Refused("b", "x")}, 6),
        ({"vm101": Refused("a", "x"), "vm106": StepFailed("b", "x")}, 1),
        ({"vm101": Refused("a", "x"), "vm106": LockHeld("b", "x")}, 1),
    ],
)
def test_one_code_for_all(errors: dict[str, ViOpsError], code: int) -> None:
    crew = raising(errors)
    assert crew.exit_code == code
    assert set(crew.results) == {"vm101", "vm103", "vm106"} - set(errors)


def test_a_bug_in_one_is_not_swallowed() -> None:
    crew: Crew[int] = Crew()
    with pytest.raises(ZeroDivisionError):
        crew.run(["vm101", "vm106"], lambda subject: 1 // (subject != "vm106"))
    assert crew.results == {"vm101": 1}


def test_an_interrupt_reaches_the_threads_and_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    crew: Crew[str] = Crew()
    heard = threading.Event()

    def work(subject: str) -> str:
        crew.stopped.wait(10)
        heard.set()
        raise KeyboardInterrupt

    join = threading.Thread.join
    pressed = iter([True])

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        if next(pressed, False):
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        crew.run(["vm106"], work)
    assert heard.wait(5)
    assert crew.bugs == []
    assert time.monotonic() - began_s < 5
