"""What TAB offers, from lists of files and registers: to load an inventory as Ansible does takes a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer


def vm_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """VMs that have a host_vars file and are managed, without those that are on the command line already."""
    given = ctx.params.get("hosts") or ()
    return [name for name in _hosts(ctx, "vm") if name.startswith(incomplete) and name not in given]


def node_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Nodes that have a host_vars file."""
    return [name for name in _hosts(ctx, "node") if name.startswith(incomplete)]


def codes(incomplete: str) -> list[tuple[str, str]]:
    """Error codes with their titles."""
    from vi_ops.codes import register

    return [(code.name, code.title) for code in register().values() if code.name.startswith(incomplete)]


def image_names(incomplete: str) -> list[tuple[str, str]]:
    """Images of the catalogue with their titles."""
    import tomllib
    from importlib.resources import files

    tables = tomllib.loads(files("vi_ops.specs").joinpath("images.toml").read_text("utf-8"))
    return [(name, str(table["title"])) for name, table in tables.items() if name.startswith(incomplete)]


def fault_names(incomplete: str) -> list[tuple[str, str]]:
    """The lab's faults with what they do."""
    from vi_ops.lab.fault import NAMES

    return [(name, text) for name, text in NAMES.items() if name.startswith(incomplete)]


def _hosts(ctx: typer.Context, kind: str) -> Iterator[str]:
    """Hosts by the names of their host_vars files (or folders), without those that hold the other kind."""
    other = "node:" if kind == "vm" else "vm:"
    named = ctx.find_root().params.get("inventory") or os.environ.get("VI_OPS_INVENTORY") or "inventory"
    try:
        entries = sorted(Path(named, "host_vars").iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            yield entry.name
        elif entry.suffix in {".yml", ".yaml"} and not _has_line(entry, other, "  managed: false"):
            yield entry.stem


def _has_line(file: Path, *beginnings: str) -> bool:
    """Whether a line begins so: `vm:` or `node:` is the file's one top-level mapping of ours."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return any(line.startswith(beginnings) for line in lines)
