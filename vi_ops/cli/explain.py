"""`vi-ops explain`: what a code means and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from textwrap import fill
from typing import Annotated

import typer

from vi_ops.errors import ViOpsError


def explain(
    code: Annotated[str | None, typer.Argument(help="The code in brackets behind `error`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what a code means, what leads to it and what to do about it.

    \b
    Examples:
      vi-ops explain vm-vmid-twice
      vi-ops explain              # all codes
    """
    from vi_ops.codes import register

    codes = register()
    if code is not None and code not in codes:
        from difflib import get_close_matches

        near = get_close_matches(code, codes, n=1)
        hint = f"did you mean {near[0]}?" if near else "`vi-ops explain` lists all codes"
        raise ViOpsError("unknown-code", f"no code is named {code!r}", hint=hint)
    chosen = [codes[code]] if code else sorted(codes.values(), key=lambda entry: entry.name)
    for entry in chosen:
        if as_json:
            typer.echo(json.dumps(asdict(entry)))
        elif code:
            typer.echo(_page(entry.name, entry.title, entry.why, entry.remedy))
        else:
            typer.echo(f"{entry.name:<28}  {entry.title}")


def _page(name: str, title: str, why: str, remedy: str) -> str:
    def indented(text: str) -> str:
        return fill(text, width=78, initial_indent="  ", subsequent_indent="  ")

    return f"{name}: {title}\n\nWhy\n{indented(why)}\n\nWhat to do\n{indented(remedy)}"
