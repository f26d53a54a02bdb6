"""/cluster: the view over all nodes, of which the lab has one."""

from __future__ import annotations

import ipaddress
from typing import Any

from vi_ops.lab.api.nodes import figures
from vi_ops.lab.api.qemu_status import resource_rows
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.store import read_json, write_json

FIRST_VMID, LAST_FREE_VMID = 100, 999_999


@route("GET", "/cluster/status")
async def get_status(request: Request, node: Node) -> list[dict[str, Any]]:
    """One entry: a node that stands alone."""
    address = str(ipaddress.ip_interface(next(iter(node.bridges.values()))["cidr"]).ip)
    entry = {"id": f"node/{node.name}", "type": "node", "name": node.name, "ip": address, "level": ""}
    return [{**entry, "nodeid": 0, "local": 1, "online": 1}]


@route("GET", "/cluster/nextid")
async def next_vmid(request: Request, node: Node) -> str:
    """The lowest free vmid, or 400 when the one asked for is taken."""
    taken = set(node.vmids())
    if "vmid" in request.params:
        if request.number("vmid") in taken:
            raise parameter_error(vmid=f"VM {request.number('vmid')} already exists")
        return request.text("vmid")
    for vmid in range(FIRST_VMID, LAST_FREE_VMID + 1):
        if vmid not in taken:
            return str(vmid)
    raise Refusal(500, "unable to get any free VMID in range [100, 1000000]")


@route("GET", "/cluster/resources")
async def list_resources(request: Request, node: Node) -> list[dict[str, Any]]:
    """Guests, node, storages and the network zone, each for those who may see it."""
    kind = request.text("type")
    parts = {"vm": _guests, "node": _nodes, "storage": _storages, "sdn": _zones}
    return [
        entry for name, part in parts.items() if kind in ("", name) for entry in await part(request, node)
    ]


@route("GET", "/cluster/tasks")
async def list_tasks(request: Request, node: Node) -> list[dict[str, Any]]:
    """Recent tasks. Compares plain user names: a token without Sys.Audit on / does not see even its own."""
    entries = [*node.tasks.active(), *node.tasks.finished()][:25]
    if not node.acl.may(request.user, "/", "Sys.Audit"):
        entries = [e for e in entries if e["user"] == request.user.authid]
    return [{k: v for k, v in e.items() if (k, v) != ("status", "RUNNING")} for e in entries]


@route("GET", "/cluster/options")
async def get_options(request: Request, node: Node) -> dict[str, Any]:
    """The datacenter options that were set."""
    options: dict[str, Any] = read_json(node.etc_dir / "datacenter.json", {})
    return options


@route("PUT", "/cluster/options")
async def change_options(request: Request, node: Node) -> None:
    """Set or delete datacenter options."""
    options = read_json(node.etc_dir / "datacenter.json", {})
    options |= {key: request.text(key) for key in request.params if key != "delete"}
    for key in filter(None, request.text("delete").split(",")):
        options.pop(key, None)
    write_json(node.etc_dir / "datacenter.json", options)


async def _guests(request: Request, node: Node) -> list[dict[str, Any]]:
    return await resource_rows(node, request.user)


async def _nodes(request: Request, node: Node) -> list[dict[str, Any]]:
    entry = {"id": f"node/{node.name}", "type": "node", "node": node.name, "status": "online"}
    sees = node.acl.may(request.user, f"/nodes/{node.name}", "Sys.Audit")
    return [{**entry, **(figures(node) if sees else {})}]


async def _storages(request: Request, node: Node) -> list[dict[str, Any]]:
    found = []
    for name, storage in node.storages.items():
        if node.acl.may(request.user, f"/storage/{name}", "Datastore.Audit"):
            room = storage.usage(full=node.is_full(name))
            found.append(
                {
                    "id": f"storage/{node.name}/{name}",
                    "type": "storage",
                    "storage": name,
                    "node": node.name,
                    "status": "available",
                    "plugintype": storage.type,
                    "content": ",".join(storage.content),
                    "shared": 0,
                    "disk": room["used"],
                    "maxdisk": room["total"],
                }
            )
    return found


async def _zones(request: Request, node: Node) -> list[dict[str, Any]]:
    """The one zone that every node has; release 9 calls it a network."""
    if not node.acl.may(request.user, "/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use", any=True):
        return []
    if node.major == 8:
        entry = {"id": f"sdn/{node.name}/localnetwork", "sdn": "localnetwork", "type": "sdn"}
    else:
        entry = {"id": f"network/{node.name}/zone/localnetwork", "network": "localnetwork", "type": "network"}
        entry["network-type"] = "zone"
    return [{**entry, "node": node.name, "status": "ok"}]
