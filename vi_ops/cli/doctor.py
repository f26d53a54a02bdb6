"""`vi-ops doctor`: whether everything is there, and what to do about what is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vi_ops.execute.doctor import Check


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what is missing, and what to do about it.

    Looks at this machine, the inventory and each node; changes nothing. Ends with status 1 when something
    stands in the way.

    \b
    Examples:
      vi-ops doctor
      vi-ops doctor --json | jq 'select(.verdict != "ok")'
    """
    from vi_ops.execute.doctor import Verdict, examine

    failed = 0
    for check in examine(_prove_kvm):
        failed += check.verdict is Verdict.FAIL
        _print(check, as_json)
    if failed:
        raise typer.Exit(1)


def _prove_kvm() -> bool | None:
    import asyncio

    try:
        from vi_ops.lab.accelerator import has_kvm
        from vi_ops.lab.daemon import default_home
    except ImportError:
        return None
    return asyncio.run(has_kvm(default_home()))


def _print(check: Check, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        from vi_ops.report.jsonl import print_record

        print_record({"kind": "check", **asdict(check)}, sys.stdout)
        return
    from vi_ops.cli.say import say

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    first, *rest = check.message.split("\n")
    code = "" if check.verdict == "ok" or rest else f" [{check.code}]"  # findings have codes of their own
    text = "\n".join([f"{check.subject}: {first}{code}", *(f"    {line}" for line in rest)])
    say(text, sys.stdout, prefix=f"{check.verdict:<4}  ", style=colours[check.verdict], hang=6)
    if check.hint:
        say(check.hint, sys.stdout, prefix="      hint: ", style="dim", hang=12)
