"""Words on a terminal: width, colour, wrapping with a hanging indent, counts and durations."""

from __future__ import annotations

import re
import textwrap
from typing import IO

from rich.console import Console as Console
from rich.text import Text

# Where the width is not known: a file, a pipe, a log.
DEFAULT_WIDTH = 80
# Longer lines are hard to read, however wide the terminal is.
READABLE_WIDTH = 120


def console_on(stream: IO[str], *, width: int | None = None, colour: bool | None = None) -> Console:
    """A console that colours on terminals only and interprets nothing in what it prints.

    `NO_COLOR` and `TERM=dumb` switch colour off; `colour` overrides all of that.
    """
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        width=width or (None if is_terminal else DEFAULT_WIDTH),
        force_terminal=colour,
        no_color=True if colour is False else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


class Page:
    """Lines of a report, wrapped to a width as they are added."""

    def __init__(self, width: int) -> None:
        self.width = min(width, READABLE_WIDTH)
        self.lines: list[Text] = []

    def add(
        self, text: str, *, prefix: str = "", style: str = "", prefix_style: str = "", hang: int | None = None
    ) -> None:
        """Add a paragraph; lines after the first are indented by `hang`, else by the prefix's length."""
        indent = len(prefix) if hang is None else hang
        room = max(self.width - max(indent, len(prefix)), 20)
        for number, line in enumerate(wrap(text, room)):
            lead = prefix if number == 0 else " " * indent
            self.lines.append(Text.assemble((lead, prefix_style), (line, style)))

    def gap(self) -> None:
        """Add an empty line."""
        self.lines.append(Text())

    def add_line(self, text: str, style: str = "") -> None:
        """Add a line as it is, without blanks at its end."""
        self.lines.append(Text(text.rstrip(), style))

    def head(self, text: str) -> None:
        """Add a heading, with an empty line before it unless it is the first line."""
        if self.lines:
            self.gap()
        self.lines.append(Text(text, "bold"))

    def show(self, console: Console) -> None:
        """Print the page; nothing is wrapped again, so what is too long stays whole for copying."""
        console.print(Text("\n").join(self.lines), soft_wrap=True)


def wrap(text: str, room: int) -> list[str]:
    """A text's lines: it breaks at blanks, not inside `a command`, and in a property string after commas."""
    text = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\xa0"), printable(text))
    text = re.sub(r"(?<=\S,)(?=\S)", "\v", text)
    lines = textwrap.wrap(
        text, room, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return [line.replace("\xa0", " ").replace("\v", "") for line in lines] or [""]


def printable(text: str) -> str:
    """A text from elsewhere without line ends and escape sequences: blanks take their place."""
    return "".join(one if one.isprintable() else " " for one in text)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 change`, `2 changes`, `no changes`."""
    word = noun if number == 1 else plural or f"{noun}s"
    return f"{number or 'no'} {word}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
