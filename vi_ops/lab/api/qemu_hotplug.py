"""Making pending changes hold: all of them on a stopped VM, what QEMU can do live on a running one.

Source: qemu-server, PVE/QemuServer.pm (vmconfig_hotplug_pending, vmconfig_update_cloudinit_drive).
"""

from __future__ import annotations

from collections.abc import Collection

from vi_ops.lab import guest, hotplug, pending, vm_file, volume
from vi_ops.lab.api.qemu_mapping import check_usb
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.api.qemu_start import apply_pending, build_cloudinit
from vi_ops.lab.drive import boot_order, drives, is_cloudinit, is_drive, parse_drive
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.program import silent
from vi_ops.lab.route import parameter_error
from vi_ops.lab.vm_config import VmConfig


async def plug(stored: VmConfig, caller: Caller, changed: Collection[str]) -> None:
    """Make what is pending in `stored` hold as far as it can, and store it. The caller holds the VM.

    On a running VM only the options `changed` by this request are tried; what waits already goes on waiting.
    """
    node, vmid = caller.node, caller.vmid
    if not await guest.is_running(node, vmid):
        await _apply_stopped(node, vmid, stored)
        return
    problems: dict[str, str] = {}
    for key in [*sorted(stored.pending_delete), *sorted(stored.pending)]:
        try:
            if key in changed:
                await _plug_one(node, vmid, stored, key)
        except GuestError as error:
            problems[key] = f"hotplug problem - {error}"
    vm_file.store(node, vmid, stored)
    if stored.cloudinit and "cloudinit" in pending.hotplug_features(stored.values):
        await rebuild_drive(node, vmid, stored)
    if problems:
        raise parameter_error(**problems)


async def _apply_stopped(node: Node, vmid: int, stored: VmConfig) -> None:
    before = _cloudinit_volid(stored)
    await apply_pending(node, vmid, stored)
    if _cloudinit_volid(stored) != before:
        await build_cloudinit(node, vmid, stored, silent)


def _cloudinit_volid(stored: VmConfig) -> str | None:
    return next((drive["file"] for drive in drives(stored.values).values() if is_cloudinit(drive)), None)


async def _plug_one(node: Node, vmid: int, stored: VmConfig, key: str) -> None:
    """Make one change hold, or leave it pending. Raises GuestError where a node or QEMU refuses it.

    USB devices always wait: the lab's guests have none. A mapped one that is absent is refused all the same.
    """
    if pending.is_medium_change(stored, key):
        await _insert(node, vmid, key, parse_drive(stored.pending[key])["file"])
    elif not pending.holds_at_once(stored, key):
        if not pending.can_hotplug(stored, key):
            return
        if key.startswith("usb"):
            check_usb(node, stored.pending.get(key, ""))
            return
        await _replug(node, vmid, stored, key)
    for volid in pending.apply(stored, key, vmid, running=True):
        await volume.free(node, volid)


async def _replug(node: Node, vmid: int, stored: VmConfig, key: str) -> None:
    """Take the old device out of the guest, where there was one, and put the new one in."""
    new = stored.pending.get(key)
    if key in stored.values:
        if is_drive(key) and key in boot_order(stored.values):
            raise GuestError(f"can't unplug bootdisk '{key}'")
        await hotplug.unplug(node, vmid, key)
    if new is not None:
        await hotplug.plug(node, vmid, {**stored.values, key: new}, key)


async def _insert(node: Node, vmid: int, key: str, volid: str) -> None:
    found = node.volume(volid)
    await guest.change_medium(node, vmid, key, found.path, found.format)


async def rebuild_drive(node: Node, vmid: int, stored: VmConfig) -> None:
    """Build the cloud-init drive anew and, under a running guest, change its medium."""
    await build_cloudinit(node, vmid, stored, silent)
    for key, drive in drives(stored.values).items():
        if is_cloudinit(drive) and await guest.is_running(node, vmid):
            await _insert(node, vmid, key, drive["file"])
