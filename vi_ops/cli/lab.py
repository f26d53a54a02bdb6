"""`vi-ops lab`: a Proxmox node without Proxmox, on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vi_ops.cli.complete import fault_names

if TYPE_CHECKING:
    from vi_ops.lab.daemon import Lab

app = typer.Typer(name="lab", add_completion=False, no_args_is_help=True, rich_markup_mode=None)
fault_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(fault_app, name="fault")


@app.callback()
def lab() -> None:
    """Run a Proxmox node without Proxmox, here.

    Its API on this machine, with real QEMU guests behind it.

    \b
    Examples:
      vi-ops lab up                        # start it, or find it running
      vi-ops -i inventory/lab plan vm106   # and use it as a node
      vi-ops lab down
    """


@fault_app.callback()
def fault() -> None:
    """Make the lab misbehave, for a drill.

    Once, so many times, for a while, or until cleared.

    \b
    Examples:
      vi-ops lab fault list
      vi-ops lab fault inject agent-silent --vmid 106 --for 60
      vi-ops lab fault clear
    """


Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The lab's folder, else VI_OPS_LAB_DIR or the default."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("up")
def up(
    home: Home = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="8.4|9.2", help="The Proxmox release to be; 9.2 at first."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            min=0,
            max=65535,
            help="TCP port on 127.0.0.1; 8006 at first, 0 for any.",
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Check requests against this published API schema.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the lab, or find it running.

    \b
    Examples:
      vi-ops lab up
      vi-ops lab up --release 8.4 --port 8007 --home /tmp/lab8
      vi-ops lab up --json
    """
    from vi_ops.lab import daemon

    _require_extra()
    if release is not None and release not in daemon.RELEASES:
        known = " or ".join(daemon.RELEASES)
        raise typer.BadParameter(f"{release!r} is not {known}", param_hint="--release")
    started = daemon.up(home or daemon.default_home(), release, port, schema)
    if as_json:
        _print_json(started.shown())
        return
    typer.echo(_described(started))
    for line in _next_steps(home):
        typer.echo(line, err=True)


@app.command("down")
def down(
    home: Home = None,
    keep_guests: Annotated[bool, typer.Option("--keep-guests", help="Leave the guests running.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the lab. Nothing is deleted.

    Its guests are shut down, then the API goes.

    \b
    Examples:
      vi-ops lab down
      vi-ops lab down --keep-guests   # only the API; guests are found again
    """
    import asyncio

    from vi_ops.lab import daemon

    where = home or daemon.default_home()
    found = daemon.find(where)
    was_up = found is not None and found.pid is not None
    if not keep_guests and any(guest["status"] == "running" for guest in asyncio.run(daemon.guests(where))):
        typer.echo(f"Shutting down guests, {daemon.GUEST_SHUTDOWN_S:.0f} s at most ...", err=True)
    stopped = daemon.down(where, keep_guests)
    if as_json:
        killed = [vmid for vmid, by_itself in stopped.items() if not by_itself]
        _print_json({"was_up": was_up, "stopped_guests": list(stopped), "switched_off": killed})
        return
    typer.echo("lab is down" if was_up else "lab was down already")
    late = f"guests switched off, as they had not shut down in {daemon.GUEST_SHUTDOWN_S:.0f} s"
    for words, is_clean in (("guests shut down", True), (late, False)):
        if some := [str(vmid) for vmid, by_itself in stopped.items() if by_itself is is_clean]:
            typer.echo(f"{words}: {', '.join(some)}")


@app.command("status")
def status(home: Home = None, as_json: Json = False) -> None:
    """Show where the lab is, what runs in it, and which faults hold.

    \b
    Examples:
      vi-ops lab status
      vi-ops lab status --json
    """
    import asyncio

    from vi_ops.lab import daemon
    from vi_ops.lab.request_log import count_requests
    from vi_ops.report.text import count

    where = home or daemon.default_home()
    found = daemon.find(where)
    requests = count_requests(where)
    guests = asyncio.run(daemon.guests(where))
    faults = [_fault_text(held) for held in _faults(where).all()]
    if as_json:
        known = found.shown() if found else {"home": str(where), "pid": None}
        _print_json(
            {
                **known,
                "up": bool(found and found.pid),
                "requests": requests,
                "guests": guests,
                "faults": faults,
            }
        )
        return
    if found is None:
        typer.echo(f"no lab in {where}: `vi-ops lab up` starts one")
        return
    typer.echo(_described(found))
    reads, writes = count(requests["reads"], "read"), count(requests["writes"], "write")
    typer.echo(f"  requests   {reads}, {writes}")
    for guest in guests:
        typer.echo(f"  guest {guest['vmid']}: {guest['status']}")
    for text in faults:
        typer.echo(f"  fault {text}")


@app.command("reset")
def reset(
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the lab: its guests, disks, images, users and logs. Touches nothing else.

    \b
    Examples:
      vi-ops lab reset          # lists what would be lost, then asks
      vi-ops lab reset --yes
    """
    from vi_ops.errors import Refused
    from vi_ops.lab import daemon
    from vi_ops.report.text import count

    where = home or daemon.default_home()
    if daemon.find(where) is None:
        raise Refused("lab-absent", f"there is no lab in {where}", hint="`vi-ops lab up` starts one")
    lost = daemon.losses(where)
    vms, volumes = count(len(lost["vms"]), "VM"), count(len(lost["volumes"]), "volume")
    typer.echo(f"In {where}: {vms} and {volumes} would be lost.", err=True)
    for name in [f"VM {vmid}" for vmid in lost["vms"]] + lost["volumes"]:
        typer.echo(f"  {name}", err=True)
    if not yes and _typed("Type 'reset' to delete them") != "reset":
        raise Refused(
            "lab-reset-unconfirmed", "nothing was deleted", hint="type the word reset, or give --yes"
        )
    daemon.reset(where)
    if as_json:
        _print_json({"deleted": str(where), **lost})
    else:
        typer.echo("lab deleted")


@fault_app.command("list")
def list_faults(home: Home = None, as_json: Json = False) -> None:
    """List the faults that hold now, and those that there are.

    \b
    Examples:
      vi-ops lab fault list
    """
    from dataclasses import asdict

    from vi_ops.lab import daemon
    from vi_ops.lab.fault import NAMES

    held = _faults(home or daemon.default_home()).all()
    if as_json:
        _print_json({"faults": [asdict(fault) for fault in held], "known": NAMES})
        return
    for held_fault in held:
        typer.echo(f"held: {_fault_text(held_fault)}")
    for name, text in NAMES.items():
        typer.echo(f"{name:<17} {text}")


@fault_app.command("inject")
def inject(
    name: Annotated[
        str,
        typer.Argument(
            metavar="FAULT", autocompletion=fault_names, help="A name from `vi-ops lab fault list`."
        ),
    ],
    vmid: Annotated[int | None, typer.Option("--vmid", metavar="VMID", help="Only for this VM.")] = None,
    path: Annotated[
        str | None,
        typer.Option("--path", metavar="GLOB", help="Only for these API paths, task types or storages."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="VERB", help="Only for this HTTP method.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="So many times, then no more.")
    ] = None,
    for_s: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="So long, then no more.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="SECONDS", help="How slow a slow task is.")
    ] = 30.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make something go wrong from now on.

    --count and --for say for how long, else until cleared.

    \b
    Examples:
      vi-ops lab fault inject drop-after-write --path '/nodes/*/qemu' --count 1
      vi-ops lab fault inject agent-silent --vmid 106 --for 60
      vi-ops lab fault inject slow-task --path qmstart --seconds 20 --count 1
    """
    import time
    from dataclasses import asdict

    from vi_ops.errors import Refused
    from vi_ops.lab import daemon
    from vi_ops.lab.fault import NAMES, Fault

    if name not in NAMES:
        raise typer.BadParameter(_no_such_fault(name), param_hint="FAULT")
    where = home or daemon.default_home()
    if daemon.find(where) is None:
        raise Refused("lab-absent", f"there is no lab in {where}", hint="`vi-ops lab up` starts one")
    until = None if for_s is None else time.time() + for_s
    wanted = Fault(name, vmid, path, method and method.upper(), count, until, seconds)
    _faults(where).inject(wanted)
    if as_json:
        _print_json(asdict(wanted))
    else:
        typer.echo(f"held: {_fault_text(wanted)}")


@fault_app.command("clear")
def clear(
    name: Annotated[
        str | None,
        typer.Argument(metavar="FAULT", autocompletion=fault_names, help="Only the faults of this name."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let everything work again.

    \b
    Examples:
      vi-ops lab fault clear
      vi-ops lab fault clear agent-silent
    """
    from vi_ops.lab import daemon

    gone = _faults(home or daemon.default_home()).clear(name)
    if as_json:
        _print_json({"cleared": gone})
    else:
        from vi_ops.report.text import count

        typer.echo(f"{count(gone, 'fault')} cleared")


def _no_such_fault(name: str) -> str:
    from difflib import get_close_matches

    from vi_ops.lab.fault import NAMES

    near = get_close_matches(name, NAMES, n=1)
    return f"no fault is called {name!r}; " + (f"did you mean {near[0]!r}?" if near else ", ".join(NAMES))


def _typed(question: str) -> str:
    """The answer; nothing where nobody can give one, or somebody would rather not."""
    try:
        return str(typer.prompt(question, err=True))
    except typer.Abort:
        typer.echo("", err=True)
        return ""


def _faults(home: Path) -> Any:
    from vi_ops.lab.fault import Faults

    return Faults(home / "faults.json")


def _fault_text(fault: Any) -> str:
    bounds = {"vmid": fault.vmid, "path": fault.path, "method": fault.method, "times": fault.count}
    return " ".join([fault.name, *(f"{key}={value}" for key, value in bounds.items() if value is not None)])


def _next_steps(home: Path | None) -> list[str]:
    """What to do with a lab that is up: the inventory finds it in VI_OPS_LAB_DIR or the default folder."""
    checkout = Path("inventory", "lab", "hosts.yml").is_file()
    use = "vi-ops -i inventory/lab provision vm106"
    if not checkout:
        use = "vi-ops init --from lab lab-site, then vi-ops -i lab-site provision vm106"
    where = [f"export VI_OPS_LAB_DIR={shlex.quote(str(home.absolute()))}"] if home else []
    down = f"vi-ops lab down --home {shlex.quote(str(home))}" if home else "vi-ops lab down"
    return [f"Next: {line}" for line in [*where, use]] + [f"Stop it with: {down}"]


def _described(lab: Lab) -> str:
    shown = lab.shown()
    state = f"up, pid {lab.pid}" if lab.pid else "down"
    rows = {"CA": "ca_file", "token": "token", "its secret": "token_file", "root@pam": "root_password_file"}
    lines = [f"lab {lab.url}: {state}, release {lab.release}, node {lab.node}"]
    return "\n".join([*lines, *(f"  {label:<11}{shown[key]}" for label, key in rows.items())])


def _print_json(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value))


def _require_extra() -> None:
    from importlib.util import find_spec

    from vi_ops.errors import Refused

    missing = [name for name in ("aiohttp", "qemu") if find_spec(name) is None]
    if missing:
        raise Refused(
            "lab-extra-missing",
            f"the lab's packages are not installed: {', '.join(missing)}",
            hint="pipx install 'vi-ops[lab]'",
        )
