"""Progress while a plan is carried out: live lines on a terminal, plain ones elsewhere; never on stdout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vi_ops.plan.step import Step, WaitUntil
from vi_ops.report.jsonl import print_record
from vi_ops.report.text import duration


@dataclass
class _Active:
    """A step that is under way."""

    step: Step
    started_s: float
    note: str = ""


class Progress:
    """Tells of steps as they begin and end. Threads may share one: a note belongs to its thread's step.

    `clock` gives seconds. On a terminal what is under way is shown with a spinner, the time it has taken and
    its deadline; elsewhere each step prints a line when it begins and one when it ends, and each new note one.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[int, _Active] = {}
        self._spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def start(self, step: Step) -> None:
        """A step begins."""
        with self._lock:
            self._active[threading.get_ident()] = _Active(step, self._clock())
        if not self._live:
            self._print("..", step, _deadline(step), "")

    def note(self, text: str) -> None:
        """Something worth knowing about this thread's step: what is waited for, how far it is."""
        with self._lock:
            active = self._active.get(threading.get_ident())
            if active is None or active.note == text:
                return
            active.note = text
        if not self._live:
            self._console.print(Text(f"   {_subject(active.step)}: {text}"), soft_wrap=True)

    def stop(self, step: Step) -> None:
        """A step has ended well."""
        self._print("ok", step, self._took(step), "green")

    def fail(self, step: Step, reason: str = "") -> None:
        """A step has failed; `reason` in a few words, the error itself is printed elsewhere."""
        self._print("!!", step, self._took(step), "bold red")
        if reason:
            self._console.print(Text(f"   {_subject(step)}: {reason}"), soft_wrap=True)

    def _took(self, step: Step) -> str:
        with self._lock:
            active = self._active.pop(threading.get_ident(), None)
        return duration(self._clock() - active.started_s) if active and active.step == step else ""

    def _print(self, mark: str, step: Step, rest: str, style: str) -> None:
        words = f" {_subject(step)}: {step.title or step.key}"
        tail = f" ({rest})" if rest else ""
        self._console.print(Text.assemble((mark, style), words, (tail, "dim")), soft_wrap=True)

    def _render(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, width=2)
        grid.add_column(overflow="ellipsis", no_wrap=True)
        now_s = self._clock()
        with self._lock:
            for active in self._active.values():
                step = active.step
                took = duration(int(now_s - active.started_s))
                limit = f" of {duration(step.do.deadline_s)}" if isinstance(step.do, WaitUntil) else ""
                words = Text.assemble(
                    f"{_subject(step)}: {step.title or step.key}",
                    (f"  {took}{limit}", "cyan"),
                    (f"  {active.note}" if active.note else "", "dim"),
                )
                grid.add_row(self._spinner, words)
        return grid


class JsonProgress:
    """The same events as JSON lines: `kind` start, note, stop or fail."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[int, tuple[Step, float]] = {}

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, step: Step) -> None:
        """A step begins."""
        limit = {"deadline_s": step.do.deadline_s} if isinstance(step.do, WaitUntil) else {}
        with self._lock:
            self._active[threading.get_ident()] = (step, self._clock())
            print_record({"kind": "start", "key": step.key, "title": step.title, **limit}, self._stream)

    def note(self, text: str) -> None:
        """Something worth knowing about this thread's step."""
        with self._lock:
            active = self._active.get(threading.get_ident())
            print_record(
                {"kind": "note", "key": active[0].key if active else None, "text": text}, self._stream
            )

    def stop(self, step: Step) -> None:
        """A step has ended well."""
        self._end("stop", step, {})

    def fail(self, step: Step, reason: str = "") -> None:
        """A step has failed."""
        self._end("fail", step, {"reason": reason})

    def _end(self, kind: str, step: Step, rest: dict[str, str]) -> None:
        with self._lock:
            _, started_s = self._active.pop(threading.get_ident(), (step, self._clock()))
            took_s = round(self._clock() - started_s, 3)
            print_record({"kind": kind, "key": step.key, "took_s": took_s, **rest}, self._stream)


def _subject(step: Step) -> str:
    return step.key.partition("/")[0]


def _deadline(step: Step) -> str:
    return f"at most {duration(step.do.deadline_s)}" if isinstance(step.do, WaitUntil) else ""
