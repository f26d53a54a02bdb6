"""A VM's disks after they were made: grow, move to another storage, let go.

Source: qemu-server, PVE/API2/Qemu.pm (resize_vm, move_vm_disk, unlink).
"""

from __future__ import annotations

from vi_ops.lab import guest, vm_file, volume
from vi_ops.lab.api.qemu_change import only_root, split_list
from vi_ops.lab.api.qemu_config import update
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.drive import (
    Drive,
    format_disk_size,
    is_cdrom,
    is_drive,
    parse_disk_size,
    parse_drive,
    print_drive,
    storage_of,
)
from vi_ops.lab.node import Node
from vi_ops.lab.options import Need
from vi_ops.lab.pending import release_volume
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.task import Log
from vi_ops.lab.vm_config import VmConfig


@route("PUT", "/nodes/{node}/qemu/{vmid}/resize")
async def resize(request: Request, node: Node) -> str:
    """Grow a disk: `+10G` by that much, `40G` to that much. The guest grows its own file system."""
    only_root(request, "skiplock")
    vmid, name, size = request.vmid, request.text("disk"), request.text("size")
    stored = vm_file.load(node, vmid)
    _check(request, node, stored)
    if name not in stored.values:
        raise Refusal(500, f"disk '{name}' does not exist")
    storage = storage_of(_disk(stored, name)["file"])
    Caller(node, request.user, vmid).require(Need(("Datastore.AllocateSpace",), f"/storage/{storage}"))

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            await _resize(node, vmid, name, size, log)

    return node.tasks.start(request.user, "resize", str(vmid), work)


def _check(request: Request, node: Node, stored: VmConfig) -> None:
    digest = request.text("digest")
    if digest and digest != vm_file.load_digest(node, request.vmid):
        raise Refusal(500, "checksum mismatch (file change by other user?)")
    vm_file.check_lock(node, request.vmid, stored)


def _disk(stored: VmConfig, name: str) -> Drive:
    drive = parse_drive(stored.values[name])
    if is_cdrom(drive):
        raise Refusal(500, "you can't resize a cdrom")
    return drive


async def _resize(node: Node, vmid: int, name: str, size: str, log: Log) -> None:
    stored = vm_file.load(node, vmid)
    drive = _disk(stored, name)
    now_bytes = await volume.size(node, drive["file"])
    size_bytes = parse_disk_size(size.removeprefix("+")) + (now_bytes if size.startswith("+") else 0)
    if size_bytes == now_bytes:
        return
    # Refuses to shrink, whether the guest runs or not.
    await guest.resize_disk(node, vmid, name, drive["file"], size_bytes)
    log("Image resized.")
    stored.values[name] = print_drive({**drive, "size": format_disk_size(size_bytes)})
    vm_file.store(node, vmid, stored)


@route("POST", "/nodes/{node}/qemu/{vmid}/move_disk")
async def move(request: Request, node: Node) -> str:
    """Copy a disk to another storage or format and use the copy; the old volume becomes unused or goes."""
    vmid, name = request.vmid, request.text("disk")
    if "target-vmid" in request.params:
        raise Refusal(501, "the lab does not move disks between VMs")
    stored = vm_file.load(node, vmid)
    _check(request, node, stored)
    if not is_drive(name) or name not in stored.values:
        raise parameter_error(disk=f"disk '{name}' does not exist")
    drive = _disk(stored, name)
    storage = request.text("storage") or storage_of(drive["file"]) or ""
    node.storage(storage)
    Caller(node, request.user, vmid).require(Need(("Datastore.AllocateSpace",), f"/storage/{storage}"))
    if await guest.is_running(node, vmid):
        raise Refusal(501, "the lab moves disks of stopped VMs only")

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            await _move(
                node, vmid, name, storage, request.text("format") or None, request.flag("delete"), log
            )

    return node.tasks.start(request.user, "qmmove", str(vmid), work)


async def _move(
    node: Node, vmid: int, name: str, storage: str, suffix: str | None, delete: bool, log: Log
) -> None:
    stored = vm_file.load(node, vmid)
    old = stored.values[name]
    log(f"create full clone of drive {name} ({parse_drive(old)['file']})")
    volid, size_bytes = await volume.clone(
        node, parse_drive(old)["file"], storage, vmid, log, volume_format=suffix
    )
    new = print_drive({**parse_drive(old), "file": volid, "size": format_disk_size(size_bytes)})
    stored.values[name] = new
    freed = release_volume(stored, old, vmid, keep=new, force=delete)
    vm_file.store(node, vmid, stored)
    for unused in freed:
        await volume.free(node, unused)


@route("PUT", "/nodes/{node}/qemu/{vmid}/unlink")
async def unlink(request: Request, node: Node) -> None:
    """Let go of disks: the same as deleting their options."""
    names = ",".join(split_list(request.text("idlist")))
    params = {"delete": names} | ({"force": "1"} if request.flag("force") else {})
    await update(Request(request.method, request.template, request.path, params, request.user), node)
