"""One guest as we meet it: its place in the API, its agent, its console, and the host key it is known by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vi_ops.errors import StepFailed
from vi_ops.execute.agent import Agent
from vi_ops.execute.host_key import KEY_FILES, HostKey, parse_public_key, pin, pinned
from vi_ops.execute.pve import Pve
from vi_ops.execute.state import SiteState
from vi_ops.specs.vm import VmSpec

_CONSOLE_BYTES = 64 * 1024


class Console(Protocol):
    """Where a guest's serial console can be read while it boots."""

    def text(self) -> str:
        """What it said lately, control sequences included."""


@dataclass(frozen=True)
class ConsoleLog:
    """A console that somebody writes to a file."""

    path: Path

    def text(self) -> str:
        """The last 64 KiB; nothing while there is no file."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _CONSOLE_BYTES))
                return file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""


@dataclass
class Guest:
    """One guest as the stages look at it, and what they have seen so far.

    `unread` are the config keys whose value it reads at its next start only; `cut_off` says why, because of
    them, it can be worked on only then; `skipped` has the stages and playbooks that were not tried for that.
    """

    spec: VmSpec
    pve: Pve
    state: SiteState
    console: Console | None = None
    tell: Callable[[str], None] = lambda line: None
    interfaces: list[dict[str, Any]] | None = None
    mac: str | None = None
    vouched: tuple[HostKey, ...] = ()
    login_refusals: int = 0
    apt_busy: tuple[str, ...] | None = None
    unread: frozenset[str] = frozenset()
    cut_off: str | None = None
    skipped: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the node's API has this VM."""
        return f"/nodes/{self.pve.node_name}/qemu/{self.spec.vmid}"

    def ask_agent(self, command: str, **params: str) -> Any:
        """A reading agent call; at most two at a time go to one node."""
        return Agent(self.pve, self.spec.vmid).call(command, params)

    def skip(self, what: str) -> str:
        """Leave a stage or a playbook out, and say why."""
        self.skipped.add(what)
        self.notes[what] = f"skipped: {self.cut_off}"
        return self.notes[what]


def vouch(guest: Guest) -> tuple[HostKey, ...]:
    """The guest's host key as its agent reads it, over the authenticated API; pinned before it is given.

    Raises the agent's error when none of sshd's usual files is there.
    """
    key = _first_key(guest)
    ssh = guest.spec.ssh
    old = pinned(guest.state.known_hosts, ssh.host, ssh.port)
    pin(guest.state.known_hosts, ssh.host, ssh.port, [key])
    guest.vouched = (key,)
    change = "" if key in old else " in place of the one pinned before" if old else ""
    if key not in old:
        guest.tell(f"host key {key.fingerprint} pinned{change}: the agent vouches for it")
    return guest.vouched


def _first_key(guest: Guest) -> HostKey:
    for file in KEY_FILES[:-1]:
        try:
            return parse_public_key(guest.ask_agent("file-read", file=file)["content"])
        except StepFailed as error:
            if error.code != "pve-agent-error":
                raise
    return parse_public_key(guest.ask_agent("file-read", file=KEY_FILES[-1])["content"])
