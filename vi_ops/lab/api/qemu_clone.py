"""Copies of VMs, and templates to copy from.

Source: qemu-server, PVE/API2/Qemu.pm (clone_vm, template).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from vi_ops.errors import FactError
from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import guest, nic, options, vm_file, volume
from vi_ops.lab.api.qemu_change import new_vmid
from vi_ops.lab.api.qemu_create import QEMU_VERSION
from vi_ops.lab.api.qemu_mapping import devices_of
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.drive import Drive, drives, format_disk_size, is_cdrom, is_cloudinit, print_drive, storage_of
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.options import Need
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.task import Log, one_line
from vi_ops.lab.vm_config import VmConfig

# Options that belong to one VM and are made anew, or not at all, for its copy.
_OWN = ("lock", "meta", "parent", "runningcpu", "runningmachine", "smbios1", "template", "vmgenid", "vmstate")


@route("POST", "/nodes/{node}/qemu/{vmid}/clone")
async def clone(request: Request, node: Node) -> str:
    """Copy a VM: fully, or (templates, by default) with disks that rest on the template's."""
    vmid, newid = request.vmid, new_vmid(request, "newid")
    stored = vm_file.load(node, vmid)
    _check(request, node, stored)
    full = request.flag("full", default=not stored.is_template)
    try:
        vm_file.create(node, newid, "clone")
    except Refusal as refusal:
        raise Refusal(refusal.status, f"unable to create VM {newid}: {refusal.reason}") from refusal

    async def work(log: Log) -> None:
        try:
            async with vm_file.changing(node, vmid, log):
                await _clone(request, node, newid, full, log)
        except BaseException as error:
            vm_file.remove(node, newid)
            if not isinstance(error, Exception):
                raise
            raise GuestError(f"clone failed: {one_line(error)}") from error

    return node.tasks.start(request.user, "qmclone", str(vmid), work)


def _check(request: Request, node: Node, stored: VmConfig) -> None:
    vmid = request.vmid
    caller = Caller(node, request.user, request.number("newid"), request.text("pool") or None)
    vm_file.check_lock(node, vmid, stored)
    if request.text("snapname"):
        raise Refusal(501, "the lab does not clone snapshots")
    if request.text("target", node.name) != node.name:
        raise parameter_error(
            target=f"Can't clone VM to node '{request.text('target')}' (VM uses local storage)"
        )
    full = request.flag("full", default=not stored.is_template)
    if not full and not stored.is_template:
        raise Refusal(500, "Linked clone feature is not supported for a VM that is no template")
    if not full and request.text("storage"):
        raise parameter_error(storage="option requires full clone (option 'full')")
    for drive in drives(stored.values).values():
        storage = request.text("storage") or storage_of(drive["file"])
        if storage and not is_cdrom(drive):
            node.storage(storage)
            caller.require(Need(("Datastore.AllocateSpace",), f"/storage/{storage}"))
    for family in ("hostpci", "usb"):
        for option in devices_of(stored.values, family):
            caller.may_use(option, stored.values[option])
    caller.may_use_bridges(stored.values)


async def _clone(request: Request, node: Node, newid: int, full: bool, log: Log) -> None:
    vmid = request.vmid
    stored = vm_file.load(node, vmid)
    values = _copied_options(stored.values, node)
    made: list[str] = []
    try:
        for name, drive in drives(stored.values).items():
            storage = request.text("storage") or storage_of(drive["file"])
            if storage:
                copy, size_bytes = await _copy_drive(request, node, name, drive, storage, newid, full, log)
                made.append(copy["file"])
                size = {} if is_cloudinit(copy) else {"size": format_disk_size(size_bytes)}
                values[name] = print_drive({**copy, **size})
        values |= {key: request.text(key) for key in ("name", "description") if key in request.params}
        if "name" not in request.params:
            values["name"] = f"Copy-of-{stored.values.get('name', f'VM-{vmid}')}"
        vm_file.store(node, newid, VmConfig(values))
    except BaseException:
        for volid in made:
            await volume.free(node, volid)
        raise
    if pool := request.text("pool"):
        node.acl.state["pools"][pool].setdefault("vms", []).append(str(newid))
        node.acl.save()


def _copied_options(values: Mapping[str, str], node: Node) -> dict[str, str]:
    """The options that a copy keeps, its identity made anew: UUIDs and MAC addresses."""
    copied = {k: v for k, v in values.items() if k not in _OWN and not k.startswith("unused")}
    for key in copied:
        if (options.split_index(key) or ("", 0))[0] == "net":
            copied[key] = nic.print_nic({**nic.parse_nic(copied[key]), "macaddr": nic.random_mac()})
    identity = {"smbios1": _new_smbios(values.get("smbios1", "")), "vmgenid": str(uuid.uuid4())}
    return {
        **copied,
        **identity,
        "meta": f"creation-qemu={QEMU_VERSION[node.major]},ctime={int(time.time())}",
    }


def _new_smbios(text: str) -> str:
    try:
        parts = parse_property_string(text)
    except FactError:
        parts = {}
    return ",".join(f"{key}={value}" for key, value in {**parts, "uuid": str(uuid.uuid4())}.items())


async def _copy_drive(
    request: Request, node: Node, name: str, drive: Drive, storage: str, newid: int, full: bool, log: Log
) -> tuple[Drive, int]:
    if is_cloudinit(drive):
        return {**drive, "file": await volume.allocate_cloudinit(node, storage, newid, log=log)}, 0
    if is_cdrom(drive):
        return drive, await volume.size(node, drive["file"])
    log(f"create {'full' if full else 'linked'} clone of drive {name} ({drive['file']})")
    suffix = request.text("format") or None
    volid, size_bytes = await volume.clone(
        node, drive["file"], storage, newid, log, full=full, volume_format=suffix
    )
    return {**drive, "file": volid}, size_bytes


@route("POST", "/nodes/{node}/qemu/{vmid}/template")
async def template(request: Request, node: Node) -> str:
    """Turn a stopped VM into a template: its disks are never written again."""
    vmid, only = request.vmid, request.text("disk")
    stored = vm_file.load(node, vmid)
    vm_file.check_lock(node, vmid, stored)
    if stored.snapshots:
        raise Refusal(
            500, f"unable to create template, because VM contains snapshots '{min(stored.snapshots)}'"
        )
    if stored.is_template and not only:
        raise Refusal(500, "you can't convert a template to a template")
    if await guest.is_running(node, vmid):
        raise Refusal(500, f"VM {vmid} is running - can't convert to template")

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            await _template(node, vmid, only)

    return node.tasks.start(request.user, "qmtemplate", str(vmid), work)


async def _template(node: Node, vmid: int, only: str) -> None:
    stored = vm_file.load(node, vmid)
    stored.values["template"] = "1"
    vm_file.store(node, vmid, stored)
    for name, drive in drives(stored.values).items():
        if not is_cdrom(drive) and only in ("", name):
            stored.values[name] = print_drive({**drive, "file": await volume.template(node, drive["file"])})
            vm_file.store(node, vmid, stored)
