"""What the lab knows of backups so far: that there are none."""

from __future__ import annotations

from typing import Any

from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, route

DEFAULTS: dict[str, Any] = {
    "all": 0,
    "bwlimit": 0,
    "compress": "0",
    "fleecing": {"enabled": 0},
    "ionice": 7,
    "lockwait": 180,
    "mailnotification": "always",
    "mode": "snapshot",
    "notification-mode": "auto",
    "performance": {"max-workers": 16, "pbs-entries-max": 1048576},
    "pigz": 0,
    "prune-backups": "keep-all=1",
    "quiet": 0,
    "remove": 1,
    "stdexcludes": 1,
    "stop": 0,
    "stopwait": 10,
    "storage": "local",
    "zstd": 1,
}


@route("GET", "/nodes/{node}/vzdump/defaults")
async def get_defaults(request: Request, node: Node) -> dict[str, Any]:
    """What a backup does unless told otherwise."""
    storage = node.storage(request.text("storage", "local"))
    privs = ("Datastore.Audit", "Datastore.AllocateSpace")
    node.acl.require(request.user, f"/storage/{storage.name}", *privs, any=True)
    old = {"notification-policy": "always"} if node.major == 8 else {}
    return {**DEFAULTS, **old, "storage": storage.name, "dumpdir": str(storage.folder("backup"))}


@route("POST", "/nodes/{node}/vzdump")
async def create_backup(request: Request, node: Node) -> str:
    """Rights are checked as on a node; the backup itself is not served yet."""
    storage = request.text("storage", "local")
    node.acl.require(request.user, f"/storage/{storage}", "Datastore.AllocateSpace")
    for vmid in filter(None, request.text("vmid").split(",")):
        node.acl.require(request.user, f"/vms/{vmid}", "VM.Backup")
    raise Refusal(501, f"Method 'POST /nodes/{node.name}/vzdump' not implemented")


@route("GET", "/nodes/{node}/vzdump/extractconfig")
async def extract_config(request: Request, node: Node) -> str:
    """The VM config inside an archive."""
    volume = node.volume(request.text("volume"))
    if not volume.path.exists():
        raise Refusal(500, f"volume '{volume.volid}' does not exist")
    raise Refusal(501, f"Method 'GET /nodes/{node.name}/vzdump/extractconfig' not implemented")


@route("GET", "/nodes/{node}/storage/{storage}/prunebackups")
async def list_prunable(request: Request, node: Node) -> list[dict[str, Any]]:
    """Which backups would go; the lab makes none, so there are none to go."""
    node.storage(request.path["storage"])
    return []
