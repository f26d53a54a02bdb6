"""/cluster/mapping: PCI, USB and directory mappings."""

from __future__ import annotations

from typing import Any

from vi_ops.lab.mapping import KINDS, check_unknown, faults_of, parse_map
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, route

VIEW = ("Mapping.Modify", "Mapping.Use", "Mapping.Audit")
SETTINGS = ("description", "mdev", "live-migration-capable")


def kind_of(request: Request) -> str:
    """`pci` in `/cluster/mapping/pci/{id}`."""
    return request.template.split("/")[3]


@route("GET", "/cluster/mapping")
async def list_kinds(request: Request, node: Node) -> list[dict[str, str]]:
    """The kinds of mappings."""
    return [{"name": kind} for kind in KINDS]


async def list_mappings(request: Request, node: Node) -> list[dict[str, Any]]:
    """The mappings that the caller may see; with `check-node` also what is wrong with them there."""
    kind = kind_of(request)
    entries = sorted(node.mappings.all(kind).items())
    seen = [(n, e) for n, e in entries if node.acl.may(request.user, f"/mapping/{kind}/{n}", *VIEW, any=True)]
    return [
        {**_shown(kind, name, entry, node), **_checks(request, kind, entry, node)} for name, entry in seen
    ]


async def create_mapping(request: Request, node: Node) -> None:
    """Add a mapping."""
    kind, name = kind_of(request), request.text("id")
    if node.mappings.get(kind, name):
        raise Refusal(500, f"create hardware mapping failed: {kind} ID '{name}' already defined")
    node.mappings.put(kind, name, _settings(request, {"map": request.items("map")}))


async def get_mapping(request: Request, node: Node) -> dict[str, Any]:
    """One mapping."""
    kind, name = kind_of(request), request.path["id"]
    entry = node.mappings.get(kind, name)
    if entry is None:
        raise Refusal(500, f"mapping '{name}' not found")
    return _shown(kind, name, entry, node)


async def change_mapping(request: Request, node: Node) -> None:
    """Replace a mapping's devices or settings, guarded by its digest."""
    kind, name = kind_of(request), request.path["id"]
    if request.text("digest", node.mappings.digest(kind)) != node.mappings.digest(kind):
        raise Refusal(500, "detected modified configuration - file changed by other user? Try again.")
    entry = dict(check_unknown(kind, name, node.mappings.get(kind, name), "update"))
    if "map" in request.params:
        entry["map"] = request.items("map")
    for key in filter(None, request.text("delete").split(",")):
        entry.pop(key, None)
    node.mappings.put(kind, name, _settings(request, entry))


async def delete_mapping(request: Request, node: Node) -> None:
    """Remove a mapping; one that is not there is no error, as on the node."""
    kind, name = kind_of(request), request.path["id"]
    if node.mappings.get(kind, name):
        node.mappings.put(kind, name, None)


for _kind in KINDS:
    route("GET", f"/cluster/mapping/{_kind}")(list_mappings)
    route("POST", f"/cluster/mapping/{_kind}")(create_mapping)
    route("GET", f"/cluster/mapping/{_kind}/{{id}}")(get_mapping)
    route("PUT", f"/cluster/mapping/{_kind}/{{id}}")(change_mapping)
    route("DELETE", f"/cluster/mapping/{_kind}/{{id}}")(delete_mapping)


def _settings(request: Request, entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, **{key: request.text(key) for key in SETTINGS if key in request.params}}


def _shown(kind: str, name: str, entry: dict[str, Any], node: Node) -> dict[str, Any]:
    flags = ("mdev", "live-migration-capable")
    numbers: dict[str, Any] = {key: int(entry[key]) for key in flags if key in entry}
    return {**entry, **numbers, "id": name, "type": kind, "digest": node.mappings.digest(kind)}


def _checks(request: Request, kind: str, entry: dict[str, Any], node: Node) -> dict[str, Any]:
    """What check-node adds: `checks` for PCI and directories, `errors` for USB."""
    wanted = request.text("check-node")
    if not wanted:
        return {}
    label = "errors" if kind == "usb" else "checks"
    devices = [device for device in map(parse_map, entry["map"]) if device.get("node") == wanted]
    if not devices:
        message = f"No mapping for node {wanted}."
        return {label: [{"severity": "warning", "message": message}]}
    found = [faults_of(kind, device, node.devices) for device in devices]
    texts = [f"Invalid configuration: {text}" for text in found if text]
    return {label: [{"severity": "error", "message": text} for text in texts]}
