"""From an inventory folder to a site: Ansible reads, paths and SSH keys are resolved, specs validate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vi_ops.errors import SpecError
from vi_ops.execute.inventory_ansible import HOSTS_FILE, read_hosts
from vi_ops.execute.keys import public_keys
from vi_ops.specs.check import SpecFinding
from vi_ops.specs.host_vars import SSH_VARS, HostVars
from vi_ops.specs.load import build_site
from vi_ops.specs.site import Site

_PATHS: Final = (("node", "api", "ca_file"), ("node", "api", "secret", "file"), (SSH_VARS["key_file"],))


def find_inventory(option: Path | None) -> Path:
    """The inventory folder: the option, else VI_OPS_INVENTORY, else ./inventory. Absolute.

    Raises SpecError `inventory-missing` that lists the folders that would do.
    """
    named = option or (Path(env) if (env := os.environ.get("VI_OPS_INVENTORY")) else None)
    folder = (named or Path("inventory")).expanduser()
    if folder.name == HOSTS_FILE and folder.is_file():
        folder = folder.parent
    if (folder / HOSTS_FILE).is_file():
        return folder.resolve()
    raise SpecError(
        "inventory-missing", f"no inventory: {folder / HOSTS_FILE} is not there", hint=_candidates()
    )


def _candidates() -> str:
    here = Path.cwd()
    found = sorted(file.parent for pattern in ("", "*/", "*/*/") for file in here.glob(pattern + HOSTS_FILE))
    if not found:
        return "start one with `vi-ops init --from lab inventory`, or name one with --inventory DIR"
    names = " or ".join(f"--inventory {folder.relative_to(here)}" for folder in found[:5])
    return f"name one: {names}, or set VI_OPS_INVENTORY"


def load_site(path: Path) -> Site:
    """Read and validate an inventory folder.

    Public keys and paths are resolved: `user.ssh_keys` holds key texts, paths are absolute. Raises SpecError
    (InventoryError with every finding, where there are findings) for anything wrong in the folder.
    """
    folder = path.resolve()
    findings: list[SpecFinding] = []
    hosts = [_resolve_paths(host, folder) for host in read_hosts(folder, findings)]
    resolved = [_resolve_keys(host, findings) for host in hosts]
    if not resolved and not findings:
        raise SpecError(
            "inventory-empty",
            f"{folder} describes nothing: the groups 'nodes' and 'guests' are empty",
            hint=f"add hosts to them in {folder / HOSTS_FILE}",
        )
    return build_site(folder, resolved, findings)


def _resolve_paths(host: HostVars, folder: Path) -> HostVars:
    """`~` is the home directory, and a relative path starts at the inventory folder."""
    values: Any = host.values
    for path in _PATHS:
        text = _at(values, path)
        if isinstance(text, str) and text:
            values = _with(values, path, str(folder / Path(text).expanduser()))
    return replace(host, values=values)


def _resolve_keys(host: HostVars, findings: list[SpecFinding]) -> HostVars:
    """Key texts in place of what names them. Where one cannot be read, the keys are left open, with advice.

    Most commands need no keys: only a VM that is to be made does, and its plan says so.
    """
    path = ("vm", "user", "ssh_keys")
    user = _at(host.values, path[:-1])
    if host.kind != "vm" or not isinstance(user, Mapping):
        return host
    entries = user.get(path[-1])
    if entries is None:
        entries = "auto"
    if not isinstance(entries, str | list):
        return host
    key_file = host.values.get(SSH_VARS["key_file"])
    keys: list[object] = []
    is_read = True
    for at, entry in enumerate([entries] if isinstance(entries, str) else entries):
        try:
            if not isinstance(entry, str):
                keys.append(entry)
            else:
                keys.extend(public_keys(entry, Path(key_file) if key_file else None, Path.home()))
        except SpecError as error:
            where = path if isinstance(entries, str) else (*path, at)
            findings.append(
                SpecFinding(error.code, host.name, where, error.message, error.hint, blocks=False)
            )
            is_read = False
    if is_read:
        return replace(host, values=_with(host.values, path, keys))
    left = {key: item for key, item in user.items() if key != path[-1]}
    return replace(host, values=_with(host.values, path[:-1], left))


def _at(values: Any, path: Sequence[str]) -> object:
    for part in path:
        if not isinstance(values, Mapping):
            return None
        values = values.get(part)
    return values


def _with(values: Any, path: Sequence[str], new: object) -> Any:
    """The same nested mappings with one value replaced."""
    if not path:
        return new
    return {**values, path[0]: _with(values.get(path[0], {}), path[1:], new)}
