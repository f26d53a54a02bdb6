"""/pools: named sets of guests and storages that rights can be granted on."""

from __future__ import annotations

import re
from typing import Any

from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, route


@route("GET", "/pools")
async def list_pools(request: Request, node: Node) -> list[dict[str, Any]]:
    """The pools that the caller may audit; with `poolid` that one and its members."""
    pools = node.acl.state["pools"]
    if "poolid" in request.params:
        name = request.text("poolid")
        node.acl.require(request.user, f"/pool/{name}", "Pool.Audit")
        return [{"poolid": name, **_shown(_existing(name, node), node)}]
    seen = [name for name in sorted(pools) if node.acl.may(request.user, f"/pool/{name}", "Pool.Audit")]
    return [{"poolid": name, **_comment(pools[name])} for name in seen]


@route("POST", "/pools")
async def create_pool(request: Request, node: Node) -> None:
    """Add an empty pool."""
    name = request.text("poolid")
    if name in node.acl.state["pools"]:
        raise Refusal(500, f"create pool failed: pool '{name}' already exists")
    node.acl.state["pools"][name] = {"vms": [], "storage": []}
    if "comment" in request.params:
        node.acl.state["pools"][name]["comment"] = request.text("comment")
    node.acl.save()


@route("GET", "/pools/{poolid}")
async def get_pool(request: Request, node: Node) -> dict[str, Any]:
    """One pool with its members."""
    return _shown(_existing(request.path["poolid"], node), node)


@route("PUT", "/pools")
@route("PUT", "/pools/{poolid}")
async def change_pool(request: Request, node: Node) -> None:
    """Add or remove members, or change the comment."""
    name = request.path.get("poolid") or request.text("poolid")
    pool = _existing(name, node)
    for kind in ("vms", "storage"):
        for member in filter(None, re.split(r"[,;\s]+", request.text(kind))):
            _change_member(request, node, name, kind, member)
    if "comment" in request.params:
        pool["comment"] = request.text("comment")
    node.acl.save()


@route("DELETE", "/pools")
@route("DELETE", "/pools/{poolid}")
async def delete_pool(request: Request, node: Node) -> None:
    """Remove a pool that has no members."""
    name = request.path.get("poolid") or request.text("poolid")
    pool = _existing(name, node, "delete pool failed: ")
    if members := [*pool["vms"], *pool["storage"]]:
        raise Refusal(500, f"delete pool failed: pool '{name}' is not empty ({', '.join(members)})")
    node.acl.state["pools"].pop(name)
    node.acl.save()


def _change_member(request: Request, node: Node, name: str, kind: str, member: str) -> None:
    node.acl.require(request.user, f"/{kind}/{member}", "Permissions.Modify")
    members = node.acl.state["pools"][name][kind]
    if request.flag("delete"):
        if member not in members:
            raise Refusal(500, f"update pools failed: {_noun(kind)} '{member}' is not a pool member")
        members.remove(member)
        return
    holder = node.acl.pool_of(f"/{kind}/{member}")
    if kind == "vms" and holder and not request.flag("allow-move"):
        raise Refusal(500, f"update pools failed: VM {member} belongs already to pool '{holder}'")
    if holder:
        node.acl.state["pools"][holder][kind].remove(member)
    members.append(member)


def _noun(kind: str) -> str:
    return "VM" if kind == "vms" else "Storage"


def _existing(name: str, node: Node, prefix: str = "") -> dict[str, Any]:
    pool: dict[str, Any] | None = node.acl.state["pools"].get(name)
    if pool is None:
        raise Refusal(500, f"{prefix}pool '{name}' does not exist")
    return pool


def _comment(pool: dict[str, Any]) -> dict[str, Any]:
    return {"comment": pool["comment"]} if "comment" in pool else {}


def _shown(pool: dict[str, Any], node: Node) -> dict[str, Any]:
    vms = [
        {"id": f"qemu/{vmid}", "type": "qemu", "vmid": int(vmid), "node": node.name} for vmid in pool["vms"]
    ]
    storages = [
        {"id": f"storage/{node.name}/{name}", "type": "storage", "storage": name, "node": node.name}
        for name in pool["storage"]
    ]
    return {**_comment(pool), "members": [*vms, *storages]}
