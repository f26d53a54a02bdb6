"""Snapshots: the lab makes none, but lists those of a config. And the figures that it does not keep."""

from __future__ import annotations

from typing import Any

from vi_ops.lab import guest, options, vm_file
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, route


@route("GET", "/nodes/{node}/qemu/{vmid}/snapshot")
async def listed(request: Request, node: Node) -> list[dict[str, Any]]:
    """Snapshots, and `current` for the state that runs."""
    stored = vm_file.load(node, request.vmid)
    rows = [_row(name, values) for name, values in sorted(stored.snapshots.items())]
    current: dict[str, Any] = {"name": "current", "description": "You are here!"}
    current["digest"] = vm_file.load_digest(node, request.vmid)
    current["running"] = int(await guest.is_running(node, request.vmid))
    if "parent" in stored.values:
        current["parent"] = stored.values["parent"]
    return [*rows, current]


def _row(name: str, values: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "description": "", "vmstate": int("vmstate" in values)}
    kept = ("description", "snaptime", "parent")
    return row | {key: options.typed(key, values[key]) for key in kept if key in values}


@route("GET", "/nodes/{node}/qemu/{vmid}/rrddata")
async def figures(request: Request, node: Node) -> None:
    """A VM's past. The lab keeps none, and says so as a node whose collecting daemon never ran."""
    folder = "pve2-vm" if node.major == 8 else "pve-vm-9.0"
    path = f"/var/lib/rrdcached/db/{folder}/{request.vmid}"
    raise Refusal(500, f"RRD error: opening '{path}': No such file or directory")
