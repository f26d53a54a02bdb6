"""`vi-ops status`: VMs as their nodes see them, and what vi-ops last did to them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vi_ops.cli.complete import vm_names

if TYPE_CHECKING:
    from vi_ops.execute.journal import RunRecord
    from vi_ops.execute.survey import VmState


def status(
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="VM", autocompletion=vm_names, help="All when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the state of VMs.

    As their nodes see them, how SSH reaches them, and what vi-ops last did to them.

    \b
    Examples:
      vi-ops status
      vi-ops status vm106 --json
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.execute.survey import survey
    from vi_ops.report.jsonl import print_record
    from vi_ops.report.table import print_table
    from vi_ops.report.text import console_on

    with open_reach() as reach:
        states = survey(reach.specs(hosts or [], every=not hosts), reach.state, reach.pve)
    if as_json:
        for state in states:
            print_record(_record(state), sys.stdout)
        return
    if not states:
        return
    headers = ("VM", "VMID", "NODE", "STATE", "SSH", "LAST RUN")
    print_table(console_on(sys.stdout), headers, [_row(state) for state in states])


def _row(state: VmState) -> tuple[str, ...]:
    spec = state.spec
    ssh = state.ssh.removesuffix(":22")
    if state.vm and not state.is_pinned:
        ssh += " (no key)"
    return (spec.host, str(spec.vmid), spec.node, _state(state), ssh, _last(state))


def _state(state: VmState) -> str:
    if state.vm is None:
        return "absent"
    parts = [state.vm.qmpstatus or state.vm.status]
    if state.vm.lock:
        parts.append(f"locked: {state.vm.lock}")
    if state.vm.pending:
        parts.append(f"{len(state.vm.pending)} waiting")
    return ", ".join(parts)


def _last(state: VmState) -> str:
    if state.owner:
        since = time.strftime("%H:%M:%S", time.localtime(state.owner.since))
        return f"{_verb(state.owner.command)}: under way since {since} (pid {state.owner.pid})"
    return _run(state.last_run) if state.last_run else "none"


def _run(run: RunRecord) -> str:
    return f"{_verb(run.command)}: {_ended(run)}, {_ago(run.finished or run.started)} ago"


def _verb(command: str) -> str:
    """The command without the VM's name, which leads the row already."""
    return command.partition(" ")[0]


def _ended(run: RunRecord) -> str:
    return run.outcome or "ended without a word (killed?)"


def _ago(then_s: float) -> str:
    from vi_ops.report.text import duration

    seconds = int(max(0.0, time.time() - then_s))
    return duration(seconds if seconds < 60 else seconds // 60 * 60)


def _record(state: VmState) -> dict[str, Any]:
    spec, vm, run = state.spec, state.vm, state.last_run
    return {
        "kind": "vm",
        "subject": spec.host,
        "vmid": spec.vmid,
        "node": spec.node,
        "state": vm.status if vm else None,
        "qmpstatus": vm.qmpstatus if vm else None,
        "lock": vm.lock if vm else None,
        "pending": list(vm.pending) if vm else [],
        "ssh": state.ssh,
        "host_key_pinned": state.is_pinned,
        "last_run": {
            "command": run.command,
            "started": run.started,
            "finished": run.finished,
            "outcome": run.outcome,
        }
        if run
        else None,
        "held_by": {"pid": state.owner.pid, "command": state.owner.command} if state.owner else None,
    }
