"""/storage and /nodes/{node}/storage: the storages, their room and what lies in them."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

from vi_ops.lab.acl import forbidden
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.storage import Storage, Volume
from vi_ops.lab.store import read_json, write_json
from vi_ops.lab.task import Log

SEE = ("Datastore.Audit", "Datastore.AllocateSpace")


@route("GET", "/storage")
async def list_configs(request: Request, node: Node) -> list[dict[str, Any]]:
    """The storages' configuration, for those who may see them."""
    return [_config(s) for s in _seen(request, node)]


@route("GET", "/storage/{storage}")
async def get_config(request: Request, node: Node) -> dict[str, Any]:
    """One storage's configuration."""
    return _config(node.storage(request.path["storage"]))


@route("GET", "/nodes/{node}/storage")
async def list_storages(request: Request, node: Node) -> list[dict[str, Any]]:
    """The storages with their room."""
    wanted = set(filter(None, re.split(r"[,;\s]+", request.text("content"))))
    seen = [s for s in _seen(request, node) if wanted <= set(s.content)]
    return [_status(s, node) for s in seen if request.text("storage", s.name) == s.name]


@route("GET", "/nodes/{node}/storage/{storage}/status")
async def get_status(request: Request, node: Node) -> dict[str, Any]:
    """One storage with its room."""
    name = request.path["storage"]
    if name not in node.storages:
        raise parameter_error(storage="No such storage.")
    status = _status(node.storage(name), node)
    return {key: value for key, value in status.items() if key not in ("storage", "used_fraction")}


@route("GET", "/nodes/{node}/storage/{storage}/content")
async def list_content(request: Request, node: Node) -> list[dict[str, Any]]:
    """The volumes that the caller may see; `content` and `vmid` narrow the list."""
    volumes = node.storage(request.path["storage"]).volumes()
    return [
        describe(volume)
        for volume in volumes
        if request.text("content", volume.content) == volume.content
        and ("vmid" not in request.params or str(volume.vmid) == request.text("vmid"))
        and may_read(request, volume, node)
    ]


@route("GET", "/nodes/{node}/storage/{storage}/content/{volume}")
async def get_volume(request: Request, node: Node) -> dict[str, Any]:
    """One volume with its path."""
    volume = existing(request, node)
    if not may_read(request, volume, node):
        raise forbidden(f"/storage/{request.path['storage']}, {'|'.join(SEE)}")
    entry = {key: value for key, value in describe(volume).items() if key in ("format", "size", "used")}
    return {**entry, "path": str(volume.path), **_notes(volume)}


@route("PUT", "/nodes/{node}/storage/{storage}/content/{volume}")
async def change_volume(request: Request, node: Node) -> None:
    """Set the notes or the protection of a backup."""
    volume = existing(request, node)
    node.acl.require(request.user, f"/storage/{request.path['storage']}", "Datastore.Allocate")
    if volume.content != "backup":
        raise Refusal(500, f"attribute 'notes' is not supported for volume '{volume.volid}'")
    notes = _notes(volume)
    if "notes" in request.params:
        notes["notes"] = request.text("notes")
    if "protected" in request.params:
        notes["protected"] = int(request.flag("protected"))
    write_json(_notes_file(volume), notes)


@route("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}")
async def delete_volume(request: Request, node: Node) -> str:
    """Remove a volume, as a task."""
    storage = request.path["storage"]
    volume = _named(request, node)
    owner = f"{volume.vmid}@{storage}" if volume.vmid else f"@{storage}"
    if volume.content == "backup" and volume.vmid:
        node.acl.require(request.user, f"/storage/{storage}", "Datastore.AllocateSpace")
        node.acl.require(request.user, f"/vms/{volume.vmid}", "VM.Backup")
    else:
        node.acl.require(request.user, f"/storage/{storage}", "Datastore.Allocate")

    async def remove(log: Log) -> None:
        if _notes(volume).get("protected"):
            raise Refusal(500, f"can't remove protected archive '{volume.name}'")
        if not volume.path.exists():
            raise Refusal(500, f"volume '{volume.volid}' does not exist")
        volume.path.unlink()
        _notes_file(volume).unlink(missing_ok=True)
        log(f"Removed volume '{volume.volid}'")

    return node.tasks.start(request.user, "imgdel", owner, remove)


def may_read(request: Request, volume: Volume, node: Node) -> bool:
    """Whether the caller may read the volume: files with sight of the storage, disks and backups by VM."""
    path, may = f"/storage/{volume.volid.partition(':')[0]}", node.acl.may
    if may(request.user, path, "Datastore.Allocate"):
        return True
    if volume.content == "backup":
        owner = f"/vms/{volume.vmid}"
        return may(request.user, path, "Datastore.AllocateSpace") and may(request.user, owner, "VM.Backup")
    if volume.vmid and may(request.user, f"/vms/{volume.vmid}", "VM.Config.Disk"):
        return True
    return volume.content not in ("images", "rootdir") and may(request.user, path, *SEE, any=True)


def existing(request: Request, node: Node) -> Volume:
    """The volume that the path names; 500 when it is not there."""
    volume = _named(request, node)
    if not volume.path.exists():
        raise Refusal(500, f"volume '{volume.volid}' does not exist")
    return volume


def describe(volume: Volume) -> dict[str, Any]:
    """One line of a content list: sizes in bytes, `ctime` in Unix time."""
    found = volume.path.stat()
    entry: dict[str, Any] = {
        "volid": volume.volid,
        "content": volume.content,
        "format": volume.format,
        # An imported image too is listed with its file's size (pve-storage, Plugin.pm, get_subdir_files).
        "size": virtual_bytes(volume.path) if volume.content == "images" else found.st_size,
        "ctime": int(found.st_ctime),
    }
    if volume.content == "images":
        entry |= {"vmid": volume.vmid, "used": found.st_blocks * 512, "parent": None}
    return {**entry, **_notes(volume)}


def virtual_bytes(path: Path) -> int:
    """How large a guest would see this image: from the qcow2 header, else the file's size."""
    with path.open("rb") as file:
        head = file.read(32)
    if head[:4] == b"QFI\xfb" and len(head) == 32:
        return int(struct.unpack(">Q", head[24:32])[0])
    return path.stat().st_size


def _named(request: Request, node: Node) -> Volume:
    storage, name = request.path["storage"], request.path["volume"]
    return node.volume(name if ":" in name else f"{storage}:{name}")


def _seen(request: Request, node: Node) -> list[Storage]:
    return [
        s for s in node.storages.values() if node.acl.may(request.user, f"/storage/{s.name}", *SEE, any=True)
    ]


def _config(storage: Storage) -> dict[str, Any]:
    entry = {
        "storage": storage.name,
        "type": storage.type,
        "path": str(storage.path),
        "content": _content(storage),
    }
    return {**entry, "digest": hashlib.sha1(repr(storage).encode()).hexdigest()}  # noqa: S324


def _content(storage: Storage) -> str:
    return ",".join(storage.content)


def _status(storage: Storage, node: Node) -> dict[str, Any]:
    room = storage.usage(full=node.is_full(storage.name))
    return {
        "storage": storage.name,
        "type": storage.type,
        "content": _content(storage),
        "active": 1,
        "enabled": 1,
        "shared": 0,
        **room,
        "used_fraction": room["used"] / room["total"],
    }


def _notes_file(volume: Volume) -> Path:
    return volume.path.with_name(f"{volume.path.name}.notes")


def _notes(volume: Volume) -> dict[str, Any]:
    notes: dict[str, Any] = read_json(_notes_file(volume), {}) if volume.content == "backup" else {}
    return notes
