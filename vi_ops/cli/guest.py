"""The ways into a guest: `vi-ops ssh` with a verified host key, `vi-ops console` without any network."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vi_ops.cli.complete import vm_names

if TYPE_CHECKING:
    from vi_ops.cli.reach import Reach
    from vi_ops.specs.vm import VmSpec

Host = Annotated[str, typer.Argument(metavar="VM", autocompletion=vm_names, help="A VM by inventory name.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the top of the command line."""
    app.command("ssh")(ssh)
    app.command("console")(console)


def ssh(
    host: Host,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Run this instead of a shell.")
    ] = None,
    vouch_again: Annotated[
        bool, typer.Option("--vouch", help="Ask the guest agent for the host key, even if one is pinned.")
    ] = False,
) -> None:
    """Open a shell in a guest, or run a command there.

    Each word of a command arrives as it was given. Uses the OpenSSH client with the pinned host key and
    the inventory's private key; no ~/.ssh/config.
    A guest whose key is not pinned yet is vouched for by its agent, over the node's API.

    \b
    Examples:
      vi-ops ssh vm106
      vi-ops ssh vm106 -- journalctl -b -p err
      vi-ops ssh vm106 -- sh -c 'dmesg | tail -3'
    """
    from vi_ops.cli.reach import open_reach
    from vi_ops.execute.guest import Guest, vouch
    from vi_ops.execute.host_key import pinned
    from vi_ops.execute.ssh import openssh

    with open_reach() as reach:
        (spec,) = reach.specs([host], False)
        _check_runs(reach, spec)
        hosts_file = reach.state.known_hosts
        if vouch_again or not pinned(hosts_file, spec.ssh.host, spec.ssh.port):
            guest = Guest(
                spec, reach.pve(spec.node), reach.state, tell=lambda line: typer.echo(line, err=True)
            )
            vouch(guest)
    argv = openssh(spec.ssh, hosts_file)
    if words:
        argv += ["--", shlex.join(words)]
    os.execvp(argv[0], argv)  # noqa: S606


def console(host: Host) -> None:
    """Attach to a guest's serial console.

    Leave with Ctrl-] (lab) or Ctrl-O (node).

    On a node this is `qm terminal` over SSH as root: the API shows no console text to a token.
    On the lab it is the guest's own serial port; without a terminal its output is copied until the guest
    ends.

    \b
    Examples:
      vi-ops console vm106
      vi-ops console vm106 </dev/null >boot.log   # a lab's guest
    """
    from vi_ops.cli.reach import lab_home, open_reach

    with open_reach() as reach:
        (spec,) = reach.specs([host], False)
        _check_runs(reach, spec)
        node = reach.site.node(spec.node)
        home = lab_home(node.api.url)
        if home is not None:
            _lab_console(home, spec)
            return
        from vi_ops.execute.ssh import openssh

        argv = openssh(node.ssh, reach.state.known_hosts, tty=True, is_first_asked=True, user="root")
    os.execvp(argv[0], [*argv, "--", f"qm terminal {spec.vmid} -iface serial0"])  # noqa: S606


def _check_runs(reach: Reach, spec: VmSpec) -> None:
    """Say that a VM is absent or stopped, in words; where its node's API does not tell, the guest may."""
    from vi_ops.errors import StepFailed, ViOpsError

    hint = f"`vi-ops provision {spec.host}` makes and starts what is missing"
    try:
        pve = reach.pve(spec.node)
        seen = pve.get_once(f"/nodes/{pve.node_name}/qemu/{spec.vmid}/status/current")["status"]
    except ViOpsError as error:
        if error.code != "pve-not-found":
            return
        raise StepFailed("vm-absent", f"VM {spec.vmid} does not exist on {spec.node}", hint=hint) from error
    if seen == "stopped":
        raise StepFailed("vm-stopped", f"VM {spec.vmid} is stopped on {spec.node}", hint=hint)


def _lab_console(home: Path, spec: VmSpec) -> None:
    from vi_ops.errors import Unreachable
    from vi_ops.execute.console import ESCAPE_NAME, attach
    from vi_ops.lab import daemon
    from vi_ops.lab.console import socket_path

    if daemon.is_console_taken(home, spec.vmid):
        raise Unreachable(
            "console-unreachable",
            f"{spec.host}: another terminal is attached to the serial console, which takes one",
            hint=f"leave it there with {ESCAPE_NAME}",
        )
    typer.echo(f"{spec.host}: serial console, leave with {ESCAPE_NAME}", err=True)
    attach(socket_path(home / "run", spec.vmid))
    typer.echo("", err=True)
