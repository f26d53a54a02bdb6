"""Sentences, wrapped at words on a terminal and in whole lines elsewhere; errors, as JSON if asked."""

from __future__ import annotations

import sys
from typing import IO

import typer


def say(text: str, stream: IO[str], *, prefix: str = "", style: str = "", hang: int = 2) -> None:
    """Print `text`; `style` is its prefix's, on a terminal, and `hang` indents what did not fit a line.

    A line of the text that is indented keeps that, and what follows of it is indented by 2 more.
    """
    if not stream.isatty():
        typer.echo(prefix + text, file=stream)
        return
    from vi_ops.report.text import Page, console_on

    console = console_on(stream)
    page = Page(console.width)
    first, *rest = text.split("\n")
    page.add(first, prefix=prefix, prefix_style=style, hang=hang)
    for line in rest:
        indent = len(line) - len(line.lstrip())
        page.add(line.lstrip(), prefix=" " * indent, hang=indent + 2)
    page.show(console)


def say_error(code: str, message: str, hint: str | None, subject: str | None = None) -> None:
    """Print an error on stderr, as one object where `--json` was given."""
    message = message.removeprefix(f"{subject}: ")
    if wants_json():
        import json

        named = {"subject": subject} if subject else {}
        record = {"code": code, "message": message, "hint": hint, **named}
        typer.echo(json.dumps({"error": record}, ensure_ascii=False), err=True)
        return
    where = f" {subject}" if subject else ""
    say(f"[{code}]{where}: {message}", sys.stderr, prefix="error ", style="bold red")
    if hint:
        say(hint, sys.stderr, prefix="  hint: ", style="dim", hang=8)


def wants_json() -> bool:
    """Whether `--json` was given to vi-ops itself, not to a command that it runs in a guest."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)
