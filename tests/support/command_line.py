"""The command line as a tree, and as a judge: whether a line of a help page or a document can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from vi_ops.cli.main import app

ROOT: Any = typer.main.get_command(app)
# What ends a command for the shell.
_ENDS = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<"})


def walk(command: Any = ROOT, words: tuple[str, ...] = ("vi-ops",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group below `command`, with the words that lead to it."""
    real = getattr(command, "real", command)
    yield words, real
    for name, below in getattr(real, "commands", {}).items():
        yield from walk(below, (*words, name))


def is_group(command: Any) -> bool:
    """Whether it has commands below it."""
    return hasattr(command, "commands")


def parse(words: list[str]) -> None:
    """Let the real parser read the words behind `vi-ops`, and run nothing.

    Raises the parser's own error for what it does not know, or misses.
    """
    context = ROOT.make_context("vi-ops", list(words))
    while is_group(context.command):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def commands_in(text: str) -> Iterator[list[str]]:
    """The words behind `vi-ops` in lines of shell: comments, pipes and lists of commands taken apart."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        begun: list[str] = []
        for word in [*_words(line), ";"]:
            if word in _ENDS:
                if begun[:1] == ["vi-ops"]:
                    yield begun[1:]
                begun = []
            elif begun or not re.match(r"[A-Z_]+=", word):  # not the environment before it
                begun.append(word)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # the apostrophe of a sentence: no shell
        return []


def unknown_in(mention: str) -> str | None:
    """What a mention such as `vi-ops init --url` names that does not exist; values may be left out."""
    command = ROOT
    for word in mention.split()[1:]:
        known = {name for option in command.params for name in option.opts}
        if word.startswith("-"):
            if word.strip("[]").partition("=")[0] not in known | {
                "--",
                "--help",
                "-h",
                "--install-completion",
                "--show-completion",
            }:
                return word
        elif is_group(command):
            if re.search(r"[^a-z-]", word):  # NAME, {name}, up|down, a folder
                continue
            below = command.commands.get(word)
            if below is None:
                return word
            command = getattr(below, "real", below)
    return None
