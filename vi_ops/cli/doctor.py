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
    """Look at this machine, the inventory and each node, and say what is missing.

    Changes nothing. Ends with status 1 when something stands in the way.

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
    colours = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
    verdict = typer.style(f"{check.verdict:<4}", fg=colours[check.verdict])
    code = "" if check.verdict == "ok" else f" [{check.code}]"
    typer.echo(f"{verdict}  {check.subject}: {check.message}{code}")
    if check.hint:
        typer.echo(f"      hint: {check.hint}")
