"""`vi-ops node`: what a node is, which rights it must give, and whose certificate it shows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vi_ops.cli.complete import node_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vi_ops.cli.reach import Reach
    from vi_ops.facts.node import NodeFacts
    from vi_ops.plan.role import Grant, Lack

app = typer.Typer(name="node", add_completion=False, no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
_NEWEST = 9
Node = Annotated[
    str, typer.Argument(metavar="NODE", autocompletion=node_names, help="The node's inventory name.")
]


@app.callback()
def node() -> None:
    """Look at Proxmox nodes, their rights, their certificates.

    \b
    Examples:
      vi-ops node status pve1
      vi-ops node roles pve1
    """


@app.command("status")
def status(name: Node, as_json: Json = False) -> None:
    """Show a node: release, memory, storages, bridges, guests.

    \b
    Examples:
      vi-ops node status pve1
      vi-ops node status pve1 --json | jq .memory_used_bytes
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.execute.look import look_at_node

    with open_reach() as reach:
        facts = look_at_node(reach.pve(name))
    if as_json:
        from vi_ops.report.jsonl import print_record

        print_record(_record(name, facts), sys.stdout)
    else:
        _print_status(name, facts)


@app.command("roles")
def roles(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NODE",
            autocompletion=node_names,
            help="The node's inventory name; left out, no inventory is needed.",
        ),
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(min=8, max=9, metavar="8|9", help="Proxmox VE release; else the node's own, or 9."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="POOL", help="Limit rights over guests to a resource pool.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the least rights, as commands for root.

    Root types them once on the node. Without NODE they hold for every node and storage; with NODE, for what
    the inventory uses, and what the present login lacks is told too. Nothing is changed.

    A pool covers guests that are in it: a new guest needs VM.Allocate on /vms/VMID, once.

    \b
    Examples:
      vi-ops node roles --release 9            # the very first step
      vi-ops node roles pve1
      vi-ops node roles pve1 --pool video
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.plan.role import DEFAULT_TOKEN, first_grants, lacking, least_grants, own_token, root_commands

    lacks = None
    if name is None:
        major, token = release or _NEWEST, DEFAULT_TOKEN
        grants = first_grants(major, pool)
    else:
        with open_reach() as reach:
            spec = reach.site.node(name)
            facts = _ask(reach, name) if release is None else None
        major, token = release or (facts[0] if facts else _NEWEST), own_token(spec)
        grants = least_grants(reach.site, spec, major, pool)
        lacks = lacking(grants, facts[1]) if facts else None
    commands = root_commands(grants, token)
    if as_json:
        from vi_ops.report.jsonl import print_record

        print_record(_roles_record(name, major, grants, commands, lacks), sys.stdout)
    else:
        _print_roles(name, major, grants, commands, lacks)


@app.command("trust")
def trust(
    name: Node,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="AA:BB:…", help="Pin it if the node shows this one; asks nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pin the fingerprint of a node's certificate.

    Asks, after showing what to compare it with; with --fingerprint it pins that one if the node shows it.

    \b
    Examples:
      vi-ops node trust pve1
      vi-ops node trust pve1 --fingerprint AA:BB:CC:…
    """
    from vi_ops.cli.reach import ask_on_terminal, open_reach
    from vi_ops.execute.trust import pin_shown

    with open_reach() as reach:
        pinned = pin_shown(reach.site.node(name), reach.state.path, fingerprint, ask_on_terminal())
    if as_json:
        from vi_ops.report.jsonl import print_record

        print_record({"kind": "trust", "subject": name, "fingerprint": pinned}, sys.stdout)
    else:
        typer.echo(f"{name}: pinned {pinned}")


def _ask(reach: Reach, name: str) -> tuple[int, Any] | None:
    """Release and rights of the present login; None, said on stderr, where there is none that works yet."""
    from vi_ops.errors import ViOpsError
    from vi_ops.facts.access import parse_rights
    from vi_ops.facts.node import parse_version

    try:
        pve = reach.pve(name)
        version = parse_version(None, pve.get("/version"))
        return int(version.split(".")[0]), parse_rights(pve.get("/access/permissions"))
    except ViOpsError as error:
        from vi_ops.cli.say import say

        say(f"{name} could not be asked [{error.code}]: {error.message}", sys.stderr)
        say("  these are the roles for release 9; for the other: --release 8", sys.stderr)
        return None


def _print_roles(
    name: str | None,
    major: int,
    grants: Sequence[Grant],
    commands: Sequence[str],
    lacks: Sequence[Lack] | None,
) -> None:
    from vi_ops.report.table import print_table
    from vi_ops.report.text import console_on

    console = console_on(sys.stdout)
    typer.echo(f"Least rights on {name or 'any node and storage'}, Proxmox VE {major}\n")
    print_table(console, ("PATH", "ROLE", "FOR"), [(one.path, one.role, one.because) for one in grants])
    typer.echo("\nRoot types once, on the node (the token's secret is shown there, once):\n")
    for command in commands:
        typer.echo(f"  {command}")
    if lacks is None:
        return
    if not lacks:
        typer.echo("\nThe present login has all of these rights.")
        return
    typer.echo("\nThe present login lacks:\n")
    for lack in lacks:
        typer.echo(f"  {lack.path}: {', '.join(lack.privileges)}")


def _roles_record(
    name: str | None,
    major: int,
    grants: Sequence[Grant],
    commands: Sequence[str],
    lacks: Sequence[Lack] | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "kind": "roles",
        "subject": name,
        "release": major,
        "grants": [asdict(grant) for grant in grants],
        "commands": list(commands),
        "lacking": None if lacks is None else [asdict(lack) for lack in lacks],
    }


def _print_status(name: str, facts: NodeFacts) -> None:
    from vi_ops.report.table import print_table
    from vi_ops.report.text import console_on
    from vi_ops.units import format_size

    console = console_on(sys.stdout)
    used, total = format_size(facts.memory_used_bytes), format_size(facts.memory_total_bytes)
    shape = "" if facts.physical else " (a VM itself)"
    seen = f"{facts.cpus} threads, memory {used} of {total} used{shape}"
    hidden = "processors and memory not shown to this login (Sys.Audit)"
    typer.echo(f"{name}: Proxmox VE {facts.version}, {seen if facts.is_seen else hidden}")
    typer.echo(f"bridges: {', '.join(sorted(facts.bridges)) or 'none'}\n")
    rows = [
        (
            one.name,
            one.type,
            format_size(one.available_bytes) if one.is_active else "inactive",
            format_size(one.total_bytes) if one.is_active else "–",
            " ".join(sorted(one.content)),
        )
        for one in sorted(facts.storages.values(), key=lambda one: one.name)
    ]
    print_table(console, ("STORAGE", "TYPE", "FREE", "SIZE", "CONTENT"), rows)
    typer.echo("")
    guests = [
        (
            str(one.vmid),
            one.name,
            "template" if one.is_template else one.qmpstatus or one.status,
            format_size(one.memory_max_bytes),
            " ".join(one.tags),
        )
        for one in sorted(facts.guests.values(), key=lambda one: one.vmid)
    ]
    if guests:
        print_table(console, ("VMID", "NAME", "STATE", "MEMORY", "TAGS"), guests)
    else:
        typer.echo("no guests")


def _record(name: str, facts: NodeFacts) -> dict[str, Any]:
    from dataclasses import asdict

    plain = {
        key: value for key, value in asdict(facts).items() if not key.startswith(("permissions", "taken"))
    }
    plain |= {"bridges": sorted(facts.bridges), "vnets": sorted(facts.vnets)}
    plain["images"] = {storage: sorted(volids) for storage, volids in facts.images.items()}
    plain["guests"] = list(plain["guests"].values())
    plain["storages"] = [{**row, "content": sorted(row["content"])} for row in plain["storages"].values()]
    return {"kind": "node", "subject": name, **plain}
