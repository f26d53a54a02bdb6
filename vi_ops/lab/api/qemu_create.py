"""Making and destroying VMs.

Source: qemu-server, PVE/API2/Qemu.pm (create_vm, destroy_vm).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Final

from vi_ops.lab import guest, vm_file, volume
from vi_ops.lab.api.qemu_change import canonical, check_balloon, new_vmid, only_root, settings
from vi_ops.lab.api.qemu_drive import make_drives
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.api.qemu_start import start_task
from vi_ops.lab.drive import default_boot_order, drives, is_drive, owner_of
from vi_ops.lab.node import Node
from vi_ops.lab.options import Need
from vi_ops.lab.route import Refusal, Request, route
from vi_ops.lab.task import Log, one_line
from vi_ops.lab.vm_config import VmConfig

_CONTROLS: Final = frozenset(
    {"node", "vmid", "archive", "bwlimit", "force", "ha-managed", "live-restore", "pool", "start", "storage"}
    | {"unique", "import-working-storage"}
)


@route("POST", "/nodes/{node}/qemu")
async def create(request: Request, node: Node) -> str:
    """Make a VM: its config at once (locked), its disks in a task."""
    if "archive" in request.params:
        raise Refusal(501, "the lab does not restore archives")
    vmid = new_vmid(request, "vmid")
    caller = Caller(node, request.user, vmid, request.text("pool") or None)
    values = _checked(request, caller)
    try:
        vm_file.create(node, vmid, "create")
    except Refusal as refusal:
        raise Refusal(refusal.status, f"unable to create VM {vmid} - {refusal.reason}") from refusal

    async def work(log: Log) -> None:
        await _create(caller, values, request.text("storage") or None, log)
        if request.flag("start"):
            log("Execute autostart")
            start_task(node, request.user, vmid)

    return node.tasks.start(request.user, "qmcreate", str(vmid), work)


def _checked(request: Request, caller: Caller) -> dict[str, str]:
    """The VM's options as the node stores them, after the checks that come before any task."""
    node = caller.node
    values, storage = settings(request, _CONTROLS), request.text("storage") or None
    if caller.pool and caller.pool not in node.acl.state["pools"]:
        raise Refusal(500, f"pool '{caller.pool}' does not exist")
    if storage:
        caller.require(Need(("Datastore.AllocateSpace",), f"/storage/{storage}"))
    if request.flag("start") and node.major > 8:
        caller.require(Need(("VM.PowerMgmt",)))
    _may_allocate(caller)
    for option in sorted(filter(is_drive, values)):
        caller.may_use_storage(option, values[option], storage)
    caller.may_set(values)
    for option in sorted(values):
        caller.may_use(option, values[option])
    caller.may_use_bridges(values)
    stored = canonical(values)
    check_balloon(stored, VmConfig())
    return stored


def _may_allocate(caller: Caller) -> None:
    acl = caller.node.acl
    paths = [f"/vms/{caller.vmid}", *([f"/pool/{caller.pool}"] if caller.pool else [])]
    if not caller.user.is_root and not any(acl.may(caller.user, path, "VM.Allocate") for path in paths):
        raise Refusal(403, "Permission check failed")


async def _create(caller: Caller, values: Mapping[str, str], storage: str | None, log: Log) -> None:
    node, vmid = caller.node, caller.vmid
    try:
        async with vm_file.changing(node, vmid, log):
            made = await make_drives(values, {}, caller, storage, log)
            vm_file.store(node, vmid, VmConfig(completed({**values, **made}, node)))
    except BaseException as error:
        vm_file.remove(node, vmid)
        if not isinstance(error, Exception):
            raise
        raise Refusal(500, f"unable to create VM {vmid} - {one_line(error)}") from error
    if caller.pool:
        node.acl.state["pools"][caller.pool].setdefault("vms", []).append(str(vmid))
        node.acl.save()


def completed(values: Mapping[str, str], node: Node) -> dict[str, str]:
    """The options with what the node adds to every new VM: boot order, identity, where it came from."""
    added = {
        "boot": default_boot_order(values),
        "smbios1": f"uuid={uuid.uuid4()}",
        "vmgenid": str(uuid.uuid4()),
    }
    meta = f"creation-qemu={QEMU_VERSION[node.major]},ctime={int(time.time())}"
    return {**added, **values, "meta": meta}


# What `meta` names as the QEMU that made the VM: Proxmox's own builds of the two releases.
QEMU_VERSION: Final = {8: "9.2.0", 9: "11.0.0"}


@route("DELETE", "/nodes/{node}/qemu/{vmid}")
async def destroy(request: Request, node: Node) -> str:
    """Remove a VM and every volume that is its own. Backups stay."""
    only_root(request, "skiplock")
    await _check_destroy(node, request.vmid)
    vm_file.check_lock(node, request.vmid, vm_file.load(node, request.vmid))
    purge, sweep = request.flag("purge"), request.flag("destroy-unreferenced-disks")

    async def work(log: Log) -> None:
        async with vm_file.changing(node, request.vmid, log):
            await _check_destroy(node, request.vmid)
            await _destroy(node, request.vmid, sweep, log)
            if purge:
                log(f"purging VM {request.vmid} from related configurations..")

    return node.tasks.start(request.user, "qmdestroy", str(request.vmid), work)


async def _check_destroy(node: Node, vmid: int) -> None:
    stored = vm_file.load(node, vmid)
    if stored.values.get("protection") == "1":
        raise Refusal(500, f"can't remove VM {vmid} - protection mode enabled")
    if await guest.is_running(node, vmid):
        raise Refusal(500, f"VM {vmid} is running - destroy failed")


async def _destroy(node: Node, vmid: int, sweep: bool, log: Log) -> None:
    stored = vm_file.load(node, vmid)
    sections = [stored.values, stored.pending, *stored.snapshots.values()]
    volids = {drive["file"] for values in sections for drive in drives(values).values()}
    volids |= {value for values in sections for key, value in values.items() if key.startswith("unused")}
    owned = {volid for volid in volids if owner_of(volid) == vmid}
    if sweep:
        owned |= {volid for volid in volume.volumes(node, vmid) if owner_of(volid) == vmid}
    stored.values["lock"] = "destroyed"
    vm_file.store(node, vmid, stored)
    for volid in sorted(owned):
        try:
            await volume.free(node, volid)
        except Exception as error:  # one volume that cannot go must not keep the others
            log(f"Could not remove disk '{volid}', check manually: {one_line(error)}")
    vm_file.remove(node, vmid)
    for pool in node.acl.state["pools"].values():
        pool["vms"] = [name for name in pool.get("vms", []) if str(name) != str(vmid)]
    node.acl.state["acl"] = [entry for entry in node.acl.state["acl"] if entry["path"] != f"/vms/{vmid}"]
    node.acl.save()
