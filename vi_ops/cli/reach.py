"""What the VM commands share: the site, its state, a client for each node, the guests' consoles."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vi_ops.execute.guest import Console
    from vi_ops.execute.pve import Pve
    from vi_ops.execute.state import SiteState
    from vi_ops.specs.site import Site
    from vi_ops.specs.vm import VmSpec


class Reach:
    """One site and the ways into it. Clients are made when they are needed and shared by all threads."""

    def __init__(self, site: Site, state: SiteState) -> None:
        self.site = site
        self.state = state
        self._clients: dict[str, Pve] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    def pve(self, node: str) -> Pve:
        """The client of a node, by inventory name."""
        from vi_ops.execute.pve import connect

        with self._lock:
            if node not in self._clients:
                spec = self.site.node(node)
                self._clients[node] = connect(spec, state_dir=self.state.path, confirm=ask_on_terminal())
            return self._clients[node]

    def specs(self, hosts: list[str], every: bool) -> list[VmSpec]:
        """The VMs named on the command line, each once, or all of the site's."""
        if every == bool(hosts):
            some = ", ".join([*list(self.site.vms)[:5], *(["..."] if len(self.site.vms) > 5 else [])])
            raise typer.BadParameter(f"name one or more VMs ({some}), or give --all")
        names = list(self.site.vms) if every else list(dict.fromkeys(hosts))
        if not names:
            typer.echo(f"{self.site.path} describes no VM that vi-ops manages", err=True)
        return [self.site.vm(name) for name in names]

    def console(self, spec: VmSpec) -> Console | None:
        """The console log of a lab's guest; None on a real node, whose API does not show one."""
        from vi_ops.execute.guest import ConsoleLog

        home = lab_home(self.site.node(spec.node).api.url)
        if home is None:
            return None
        from vi_ops.lab.console import log_path

        return ConsoleLog(log_path(home / "log", spec.vmid))


def open_reach() -> Reach:
    """The site that `-i`, VI_OPS_INVENTORY or ./inventory names."""
    from vi_ops.execute.inventory import find_inventory, load_site
    from vi_ops.execute.state import site_state

    path = find_inventory(None)
    return Reach(load_site(path), site_state(path))


def lab_home(url: str) -> Path | None:
    """The lab's folder when `url` is its API; else None."""
    from platformdirs import user_data_path

    given = os.environ.get("VI_OPS_LAB_DIR")
    home = Path(given) if given else user_data_path("vi-ops") / "lab"
    try:
        lab = json.loads((home / "lab.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return home if url.rstrip("/").endswith(f"127.0.0.1:{lab.get('port')}") else None


def ask_on_terminal() -> Callable[[str], bool] | None:
    """Who answers a question, such as one about a certificate on first contact; None without a terminal."""
    return (lambda question: typer.confirm(question, err=True)) if sys.stdin.isatty() else None
