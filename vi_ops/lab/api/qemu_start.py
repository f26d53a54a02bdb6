"""Starting a VM: pending changes, the cloud-init drive, mapped devices, then QEMU.

Source: qemu-server, PVE/QemuServer.pm (vm_start_nolock) and PVE/QemuServer/Helpers.pm (config_aware_timeout).
"""

from __future__ import annotations

from collections.abc import Mapping

from vi_ops.lab import cloudinit, guest, pending, vm_file, volume
from vi_ops.lab.api.qemu_change import memory_mib
from vi_ops.lab.api.qemu_mapping import mapping_problem
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.route import User
from vi_ops.lab.task import Log
from vi_ops.lab.vm_config import VmConfig


def start_timeout_s(values: Mapping[str, str]) -> int:
    """How long a node gives QEMU to start: more memory, a passed-through device or more NICs take longer."""
    mib = memory_mib(values.get("memory", "512"))
    timeout_s = mib // 1024 if mib > 30720 else 30
    if any(key.startswith("hostpci") for key in values):
        timeout_s *= 4
    if "hugepages" in values:
        timeout_s = max(timeout_s, 150)
    return timeout_s + 5 * sum(key.startswith("net") and key[3:].isdigit() for key in values)


def start_task(node: Node, user: User, vmid: int, timeout_s: int | None = None) -> str:
    """Start a VM in a task; gives the UPID."""

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            await start(node, vmid, log, timeout_s)

    return node.tasks.start(user, "qmstart", str(vmid), work)


async def start(node: Node, vmid: int, log: Log, timeout_s: int | None = None) -> None:
    """Start a VM whose config the caller holds. Raises GuestError or Refusal in the node's words."""
    stored = vm_file.load(node, vmid)
    if stored.is_template:
        raise GuestError("you can't start a vm if it's a template")
    is_running = await guest.is_running(node, vmid)
    if is_running and stored.values.get("lock") == "backup":
        await guest.resume(node, vmid)  # a backup that started the VM for itself has left it paused
        return
    vm_file.check_lock(node, vmid, stored)
    if is_running:
        raise GuestError(f"VM {vmid} already running")
    await apply_pending(node, vmid, stored)
    if problem := await mapping_problem(node, vmid, stored.values):
        await build_cloudinit(node, vmid, stored, log)  # a node looks at devices only after that
        if node.major > 8 and problem.startswith("PCI device mapping"):
            log(problem)
        raise GuestError(problem)
    await guest.start(node, vmid, stored.values, log, timeout_s or start_timeout_s(stored.values))
    forget_differences(node, vmid, stored)


async def apply_pending(node: Node, vmid: int, stored: VmConfig) -> None:
    """Make what waited for a power cycle hold, and store it."""
    if stored.pending or stored.pending_delete:
        freed = pending.apply_all(stored, vmid)
        vm_file.store(node, vmid, stored)
        for volid in freed:
            await volume.free(node, volid)


async def build_cloudinit(node: Node, vmid: int, stored: VmConfig, log: Log) -> None:
    """Build the cloud-init drive anew, where there is one; it then has all that the config says."""
    if await cloudinit.build_iso(node, vmid, stored.values, log):
        forget_differences(node, vmid, stored)


def forget_differences(node: Node, vmid: int, stored: VmConfig) -> None:
    """The cloud-init drive was just built: it differs from the config in nothing."""
    if stored.cloudinit:
        stored.cloudinit.clear()
        vm_file.store(node, vmid, stored)
