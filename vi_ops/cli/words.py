"""What the VM commands say at their end, and the one question that they ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vi_ops.cli.crew import Crew
    from vi_ops.execute.provision import Outcome
    from vi_ops.plan.step import Plan
    from vi_ops.report.text import Console


def show_one(console: Console, *, is_alone: bool, as_json: bool) -> Callable[[Plan], None]:
    """How a plan is shown before it is carried out: in full for one VM, as a line for each of several."""
    from vi_ops.report.plan import closing_line, show_plan

    def show(plan: Plan) -> None:
        if as_json:
            return
        if is_alone and (plan.steps or plan.findings):
            show_plan(plan, console)
        else:
            console.print(closing_line(plan) if is_alone else f"{plan.subject}: {closing_line(plan)}")

    return show


def report_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """The result of `provision` for one VM, on stdout."""
    from vi_ops.report.plan import done_words
    from vi_ops.report.text import duration

    plan = outcome.plan
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "kind": "provisioned",
                    "subject": outcome.host,
                    "writes": outcome.writes,
                    "waiting": plan.waiting,
                    "later": plan.later,
                    "stages": dict(outcome.stages),
                    "cut_off": outcome.cut_off,
                    "elapsed_s": round(outcome.elapsed_s, 1),
                }
            )
        )
        return
    did = done_words(plan, with_playbooks=not outcome.cut_off)
    took = duration(round(outcome.elapsed_s, 1))
    if outcome.cut_off:
        typer.echo(f"{outcome.host}: not ready before its next start ({did}, {took}): {outcome.cut_off}")
    else:
        typer.echo(f"{outcome.host}: ready ({did}, {took}): {outcome.stages.get('ssh', '')}")
    for sentence in plan.waiting:
        typer.echo(f"  waits for a power cycle: {sentence}")
    for sentence in plan.later:
        typer.echo(f"  not done: {sentence}")


def report_destroyed(plan: Plan, *, as_json: bool) -> None:
    """The result of `destroy`, on stdout."""
    if as_json:
        typer.echo(json.dumps({"kind": "destroyed", "subject": plan.subject, "lost": plan.losses}))
    elif not plan.steps:
        typer.echo("; ".join(plan.unchanged))
    else:
        typer.echo(f"{plan.subject}: destroyed")


def report_errors(crew: Crew[Any]) -> None:
    """Print every VM's error and exit with their code; a single one goes to the error boundary as it is."""
    if len(crew.errors) == 1 and not crew.results:
        raise next(iter(crew.errors.values()))
    from vi_ops.cli.say import say_error

    for host, error in crew.errors.items():
        say_error(error.code, error.message, error.hint, host)
    if crew.errors:
        raise typer.Exit(crew.exit_code)


def report_interrupt(journal: Path, hosts: Sequence[str]) -> None:
    """After Ctrl-C: what was under way, which task goes on without us, and how to resume."""
    from vi_ops.execute.journal import open_journal

    if sys.stderr.isatty():
        typer.echo("", err=True)  # ^C stands at the end of a line
    with open_journal(journal) as book:
        for host in hosts:
            begun = book.interrupt(host)
            if not begun:
                typer.echo(f"{host}: interrupted; nothing was done", err=True)
                continue
            at = f'{"after" if begun[-1].outcome == "ok" else "in"} "{begun[-1].name}"'
            typer.echo(f"{host}: interrupted {at}; the same command again resumes", err=True)
            if begun[-1].upid and begun[-1].outcome != "ok":
                typer.echo(f"  its task may go on on the node: {begun[-1].upid}", err=True)


def ask_name(host: str, given: str | None, console: Console | None) -> Callable[[Plan], str]:
    """The confirmation of `destroy`: the name as given, or typed after the list of what would be lost."""
    from vi_ops.errors import Refused
    from vi_ops.report.plan import show_plan

    def ask(plan: Plan) -> str:
        if console:
            show_plan(plan, console)
        if given is not None:
            return given
        if not sys.stdin.isatty():
            raise Refused(
                "destroy-unconfirmed",
                f"{host}: there is no terminal to type its name on",
                hint=f"give --yes-destroy {host}",
            )
        try:
            return str(typer.prompt(f"Type its inventory name, {host}, to destroy it", err=True))
        except typer.Abort:
            raise KeyboardInterrupt from None

    return ask
