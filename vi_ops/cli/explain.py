"""`vi-ops explain`: what a code means and what to do about it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vi_ops.cli import complete
from vi_ops.cli.say import say


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            autocompletion=complete.codes,
            help="The code in brackets; all codes when left out.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what an error code means and what to do about it.

    \b
    Examples:
      vi-ops explain image-missing
      vi-ops explain              # all codes
    """
    import json
    from dataclasses import asdict

    from vi_ops.codes import register

    codes = register()
    if code is not None and code not in codes:
        from difflib import get_close_matches

        near = get_close_matches(code, codes, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]!r}?" if near else "`vi-ops explain` lists all codes"
        raise typer.BadParameter(f"no code is named {code!r}; {hint}", param_hint="CODE")
    chosen = [codes[code]] if code else sorted(codes.values(), key=lambda entry: entry.name)
    for entry in chosen:
        if as_json:
            typer.echo(json.dumps(asdict(entry)))
        elif code:
            typer.echo(_page(entry.name, entry.title, entry.why, entry.remedy))
        else:
            say(entry.title, sys.stdout, prefix=f"{entry.name:<26}  ", style="bold", hang=28)


def _page(name: str, title: str, why: str, remedy: str) -> str:
    from re import sub
    from textwrap import fill

    def indented(text: str) -> str:
        kept = sub("`[^`]*`", lambda command: command[0].replace(" ", "\xa0"), text)
        lines = fill(kept, 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        return lines.replace("\xa0", " ")

    head = fill(f"{name}: {title}", 80, break_on_hyphens=False)
    return f"{head}\n\nWhy\n{indented(why)}\n\nWhat to do\n{indented(remedy)}"
