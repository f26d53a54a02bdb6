"""What goes wrong below the API, in Proxmox's own words."""

from __future__ import annotations

from collections.abc import Mapping


class GuestError(Exception):
    """A guest or volume refused or failed; the text is what a Proxmox task or answer would say."""


class AgentRefused(GuestError):
    """The agent answered with an error. `error` is its own `{class, desc}`, which some calls pass on."""

    def __init__(self, error: Mapping[str, object]) -> None:
        super().__init__(f"Agent error: {error.get('desc', 'unknown error')}")
        self.error = dict(error)
