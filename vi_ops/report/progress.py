"""Progress while a plan is carried out: live lines on a terminal, plain ones elsewhere; never on stdout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vi_ops.report.jsonl import print_record
from vi_ops.report.text import Page, duration, printable

_DOTS: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_LINES: Final = "-\\|/"
# A note that has less room than this says nothing.
_LEAST_NOTE: Final = 12
_HANG: Final = 3
# Off a terminal, a step that takes no longer than this has one line, that of its end.
_AT_ONCE_S: Final = 0.5


@dataclass
class _Active:
    """A step that is under way."""

    title: str
    started_s: float
    note: str = ""
    is_told: bool = False
    timer: threading.Timer | None = None


class Progress:
    """The screen of one or several runs: `of` gives each run its listener; threads may share the screen.

    On a terminal what is under way is shown with a spinner and the time it has taken; elsewhere each step
    prints a line when it ends, one for each new note, and one when it has begun, unless it ends at once.
    `clock` gives seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._marks = _DOTS if console.encoding.startswith("utf") else _LINES
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console, get_renderable=self.frame, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def of(self, subject: str) -> ProgressOf:
        """The listener of one run; `subject` leads each of its lines."""
        return ProgressOf(self, subject)

    def start(self, subject: str, title: str) -> None:
        """A step of `subject` begins; the one before it is over."""
        active = _Active(title, self._clock())
        with self._lock:
            self._active[subject] = active
        if not self._live:
            active.timer = threading.Timer(_AT_ONCE_S, self._tell_begun, (subject, active))
            active.timer.daemon = True
            active.timer.start()

    def _tell_begun(self, subject: str, active: _Active) -> None:
        with self._lock:
            if active.is_told or self._active.get(subject) is not active:
                return
            active.is_told = True
            self._print("..", "dim", subject, active.title)

    def note(self, subject: str, text: str) -> None:
        """What is waited for, how far it is, or a line of the node's log. The same note twice is one.

        Of several lines the first; a node's log may hold anything, so only what can be printed.
        """
        text = printable(text.partition("\n")[0])
        with self._lock:
            active = self._active.get(subject)
            if active and active.note == text:
                return
            if active:
                active.note = text
        if active and not self._live:
            self._tell_begun(subject, active)
        if active is None or not self._live:
            self._print("  ", "", subject, text)

    def end(self, subject: str, mark: str, style: str, text: str) -> None:
        """The step of `subject` is over, well or not."""
        with self._lock:
            active = self._active.pop(subject, None)
        if active is None:
            return
        if active.timer:
            active.timer.cancel()
        rest = ", ".join(filter(None, (duration(self._clock() - active.started_s), text)))
        self._print(mark, style, subject, active.title, rest)

    def _print(self, mark: str, style: str, subject: str, words: str, rest: str = "") -> None:
        text = f"{subject}: {words}" + (f" ({rest})" if rest else "")
        if self._console.is_terminal:
            page = Page(self._console.width)
            page.add(text, prefix=f"{mark} ", prefix_style=style, hang=_HANG)
            page.show(self._console)
        else:  # in a log, a line is a line
            self._console.print(Text(f"{mark} {text}"), soft_wrap=True)

    @property
    def width(self) -> int:
        """Columns of the screen."""
        return self._console.width

    def frame(self) -> Text:
        """What is under way at this moment, a line for each run; its time is never cut off."""
        mark = self._marks[int(self._clock() * 8) % len(self._marks)]
        with self._lock:
            lines = [self._line(mark, *one) for one in self._active.items()]
        return Text("\n").join(lines)

    def _line(self, mark: str, subject: str, active: _Active) -> Text:
        took = f"  {duration(int(self._clock() - active.started_s))}"
        room = self.width - len(mark) - len(took) - 1
        title = _cut(f"{subject}: {active.title}", room)
        note = _cut(active.note, room - len(title) - 2)
        return Text.assemble(
            (mark, "cyan"), f" {title}", (took, "cyan"), (f"  {note}" if note else "", "dim"), no_wrap=True
        )


class ProgressOf:
    """What one run tells: a step is started once, and stopped or failed once."""

    def __init__(self, progress: Progress, subject: str) -> None:
        self._progress = progress
        self._subject = subject

    def start(self, title: str) -> None:
        """A step begins."""
        self._progress.start(self._subject, title)

    def note(self, text: str) -> None:
        """Something about the step."""
        self._progress.note(self._subject, text)

    def stop(self, text: str = "") -> None:
        """The step is done."""
        self._progress.end(self._subject, "ok", "green", text)

    def skip(self, text: str) -> None:
        """The step was left out."""
        self._progress.end(self._subject, "--", "yellow", text)

    def fail(self, text: str) -> None:
        """The step failed; of a long text only the first line, the error itself is printed at the end."""
        self._progress.end(self._subject, "!!", "bold red", text.partition("\n")[0])


class JsonProgressOf:
    """The same events as JSON lines: `kind` start, note, stop, skip or fail, with `subject` and `title`."""

    def __init__(self, stream: IO[str], subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._subject = subject
        self._clock = clock
        self._active = _Active("", clock())

    def start(self, title: str) -> None:
        """A step begins."""
        self._active = _Active(title, self._clock())
        self._tell("start", {})

    def note(self, text: str) -> None:
        """Something about the step."""
        self._tell("note", {"text": text})

    def stop(self, text: str = "") -> None:
        """The step is done."""
        self._tell("stop", {"took_s": self._took_s(), "text": text})

    def skip(self, text: str) -> None:
        """The step was left out."""
        self._tell("skip", {"took_s": self._took_s(), "text": text})

    def fail(self, text: str) -> None:
        """The step failed."""
        self._tell("fail", {"took_s": self._took_s(), "text": text})

    def _took_s(self) -> float:
        return round(self._clock() - self._active.started_s, 3)

    def _tell(self, kind: str, rest: dict[str, str | float]) -> None:
        record = {"kind": kind, "subject": self._subject, "title": self._active.title, **rest}
        print_record(record, self._stream)


def _cut(text: str, room: int) -> str:
    """A text that fits, or nothing where a cut one would say too little."""
    if len(text) <= room:
        return text
    if room < _LEAST_NOTE:
        return ""
    kept, _, _ = text[: room - 2].rpartition(" ")
    return f"{kept or text[: room - 3]}..."
