"""The commands that plan and change VMs: `plan`, `provision`, `destroy`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vi_ops.cli.complete import vm_names

if TYPE_CHECKING:
    from vi_ops.cli.reach import Reach
    from vi_ops.execute.apply import Listener
    from vi_ops.execute.provision import Outcome, Target
    from vi_ops.report.progress import Progress
    from vi_ops.specs.vm import VmSpec

Hosts = Annotated[
    list[str] | None, typer.Argument(metavar="VM", autocompletion=vm_names, help="VMs by inventory name.")
]
Every = Annotated[bool, typer.Option("--all", help="Every VM of the site.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Wait = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another vi-ops that has the VM's lock."),
]


def register(app: typer.Typer) -> None:
    """Add the commands on VMs to the top of the command line."""
    from vi_ops.cli import guest, status

    for command in (plan, provision, destroy):
        app.command(command.__name__)(command)
    app.command("status")(status.status)
    guest.register(app)


def plan(
    hosts: Hosts = None,
    every: Every = False,
    detect: Annotated[bool, typer.Option("--detect", help="Exit with 8 when something differs.")] = False,
    as_json: Json = False,
) -> None:
    """Show what would change, and why.

    Each step with its reason, the call behind it, and when it takes effect. Reads only.

    Exits with 6 when a check stands against the plan; with --detect, 8 when there is a difference.

    \b
    Examples:
      vi-ops plan vm106
      vi-ops plan --all --detect    # for a timer: 8 when something differs
      vi-ops plan vm106 --json | jq 'select(.kind == "step").title'
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.execute.survey import plan_all
    from vi_ops.report import jsonl
    from vi_ops.report.plan import show_plans
    from vi_ops.report.text import console_on

    with open_reach() as reach:
        plans = plan_all(reach.site, reach.specs(hosts or [], every), reach.state, reach.pve)
    if as_json:
        for one in plans:
            jsonl.print_plan(one, sys.stdout)
    elif plans:
        show_plans(plans, console_on(sys.stdout))
    if any(one.is_blocked for one in plans):
        raise typer.Exit(6)
    if detect and any(one.steps for one in plans):
        raise typer.Exit(8)


def provision(
    hosts: Hosts = None,
    every: Every = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Bring VMs to their specs; run it again at any time.

    Make, start, wait until ready, install base packages. What is right already is left alone; what was
    interrupted goes on. Nothing is ever replaced or shrunk.

    \b
    Examples:
      vi-ops provision vm106
      vi-ops provision vm106 vm101 --wait 600
      vi-ops provision --all --json
    """
    from contextlib import nullcontext

    from vi_ops.cli.crew import Crew
    from vi_ops.cli.reach import open_reach
    from vi_ops.cli.words import report_errors, report_interrupt, report_outcome, show_one
    from vi_ops.execute import provision as run
    from vi_ops.report.progress import Progress
    from vi_ops.report.text import console_on

    console = console_on(sys.stderr)
    crew: Crew[Outcome] = Crew()
    with open_reach() as reach:
        specs = reach.specs(hosts or [], every)
        if not specs:
            return
        progress = Progress(console)
        targets = _targets(reach, specs, crew.stopped.is_set, wait, None if as_json else progress)
        show = show_one(console, is_alone=len(specs) == 1, as_json=as_json)
        try:
            with nullcontext() if as_json else progress:
                crew.run(list(targets), lambda host: run.provision(targets[host], show))
        except KeyboardInterrupt:
            ended = {*crew.results, *crew.errors}
            report_interrupt(reach.state.journal, [host for host in targets if host not in ended])
            sys.exit(130)
    for host in targets:
        if host in crew.results:
            report_outcome(crew.results[host], as_json=as_json)
    report_errors(crew)


def destroy(
    host: Annotated[
        str, typer.Argument(metavar="VM", autocompletion=vm_names, help="A VM by inventory name.")
    ],
    yes_destroy: Annotated[
        str | None,
        typer.Option(
            "--yes-destroy",
            metavar="VM",
            autocompletion=vm_names,
            help="The VM's inventory name again, instead of typing it.",
        ),
    ] = None,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Remove a VM with everything on its disks.

    Lists what would be lost and asks for the VM's name in the inventory. Backups stay.

    \b
    Examples:
      vi-ops destroy vm106
      vi-ops destroy vm106 --yes-destroy vm106      # in a script
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.cli.words import ask_name, report_destroyed, report_interrupt
    from vi_ops.execute import provision as run
    from vi_ops.report.progress import Progress
    from vi_ops.report.text import console_on

    console = console_on(sys.stderr)
    with open_reach() as reach:
        screen = None if as_json else Progress(console)
        targets = _targets(reach, reach.specs([host], False), lambda: False, wait, screen)
        try:
            done = run.destroy(
                targets[host], ask_name(host, yes_destroy, None if as_json and yes_destroy else console)
            )
        except KeyboardInterrupt:
            report_interrupt(reach.state.journal, [host])
            sys.exit(130)
    report_destroyed(done, as_json=as_json)


def _targets(
    reach: Reach,
    specs: list[VmSpec],
    is_stopped: Callable[[], bool],
    wait_s: float,
    progress: Progress | None,
) -> dict[str, Target]:
    """One target for each VM; creations share their node's limit. Without a screen, events are JSON lines."""
    import threading
    from collections import defaultdict

    from vi_ops.execute.provision import Target
    from vi_ops.report.progress import JsonProgressOf

    slots = defaultdict[str, threading.BoundedSemaphore](lambda: threading.BoundedSemaphore(2))

    def listener(host: str) -> Listener:
        return progress.of(host) if progress else JsonProgressOf(sys.stderr, host)

    return {
        spec.host: Target(
            reach.site,
            spec,
            reach.pve(spec.node),
            reach.state,
            listener(spec.host),
            console=reach.console(spec),
            wait_s=wait_s,
            is_stopped=is_stopped,
            create_slots=slots[spec.node],
        )
        for spec in specs
    }
