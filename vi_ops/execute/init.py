"""Look at a node for the inventory of its site, and write inventories without overwriting any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vi_ops.errors import Refused, StepFailed
from vi_ops.execute.inventory_ansible import HOSTS_FILE
from vi_ops.execute.pve import Pve
from vi_ops.facts.node import StorageFacts
from vi_ops.facts.site import SiteFacts
from vi_ops.share import share_path
from vi_ops.specs.nearest import did_you_mean


def look_at_site(pve: Pve, node: str | None) -> SiteFacts:
    """What a node tells of itself and its VMs, with GETs only: 4, and one for each VM.

    Raises Refused `node-ambiguous` where the API speaks for several nodes and none is named.
    """
    name = _choose_node(sorted(str(row["node"]) for row in pve.get("/nodes")), node)
    status = pve.get(f"/nodes/{name}/status")
    guests: dict[int, Mapping[str, Any]] = {}
    unreadable: list[int] = []
    for row in pve.get(f"/nodes/{name}/qemu"):
        vmid = int(row["vmid"])
        try:
            guests[vmid] = pve.get(f"/nodes/{name}/qemu/{vmid}/config")
        except (Refused, StepFailed):  # no right to see it, or destroyed a moment ago
            unreadable.append(vmid)
    return SiteFacts(
        node=name,
        memory_total_bytes=int(status["memory"]["total"]),
        sockets=status.get("cpuinfo", {}).get("sockets"),
        storages=tuple(_storage(row) for row in pve.get(f"/nodes/{name}/storage")),
        guests=guests,
        unreadable=tuple(sorted(unreadable)),
    )


def _choose_node(names: list[str], wanted: str | None) -> str:
    if wanted in names:
        return str(wanted)
    if wanted is not None:
        raise Refused("node-unknown", f"the API knows no node {wanted!r}", hint=did_you_mean(wanted, names))
    if len(names) == 1:
        return names[0]
    raise Refused(
        "node-ambiguous",
        f"the API speaks for {len(names)} nodes: {', '.join(names)}",
        hint="name one with --node",
    )


def _storage(row: Mapping[str, Any]) -> StorageFacts:
    return StorageFacts(
        name=str(row["storage"]),
        type=str(row.get("type", "")),
        content=frozenset(str(row.get("content", "")).split(",")),
        is_active=bool(row.get("active")),
        total_bytes=int(row.get("total", 0)),
        available_bytes=int(row.get("avail", 0)),
    )


def shipped_files(name: str) -> dict[str, str]:
    """Relative path and text of each file of the inventory `example` or `lab` that comes with vi-ops."""
    root = share_path(f"inventory/{name}")
    files = sorted(file for file in root.rglob("*.yml") if file.is_file())
    return {
        str(file.relative_to(root)): file.read_text("utf-8").replace("../../../docs/schema/", "../.schema/")
        for file in files
    }


def check_folder(folder: Path) -> None:
    """Raises Refused `init-nested` where subfolders are inventories: Ansible would read them along."""
    if nested := sorted(file.parent.name for file in folder.glob(f"*/{HOSTS_FILE}")):
        raise Refused(
            "init-nested",
            f"{folder} holds other inventories ({', '.join(nested)}), and Ansible would read them along",
            hint="give a folder of its own, such as `vi-ops init my-site`",
        )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files below a folder, or none. Raises Refused `init-exists` that lists those in the way."""
    if existing := [name for name in files if (folder / name).exists()]:
        raise Refused(
            "init-exists",
            f"{folder} has these files already: {', '.join(existing)}",
            hint="choose another folder, or move them away: nothing is overwritten",
        )
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
