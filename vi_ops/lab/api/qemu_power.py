"""Power: on, off, the buttons, and pause.

Source: qemu-server, PVE/API2/Qemu.pm (vm_start, vm_stop, vm_shutdown, vm_reboot and their neighbours).
"""

from __future__ import annotations

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import guest, vm_file
from vi_ops.lab.api.qemu_change import only_root
from vi_ops.lab.api.qemu_start import apply_pending, start_task
from vi_ops.lab.api.qemu_status import agent_is_configured
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, User, parameter_error, route
from vi_ops.lab.task import Log, Upid
from vi_ops.lab.vm_config import VmConfig


@route("POST", "/nodes/{node}/qemu/{vmid}/status/start")
async def start_vm(request: Request, node: Node) -> str:
    """Power a VM on."""
    root_only = ("skiplock", "stateuri", "migratedfrom", "force-cpu", "migration_type", "migration_network")
    for name in (*root_only, "targetstorage", "nets-host-mtu"):
        if name in request.params and not request.user.is_root:
            raise parameter_error(**{name: "Only root may use this option."})
    return start_task(node, request.user, request.vmid, request.number("timeout") or None)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/stop")
async def stop_vm(request: Request, node: Node) -> str:
    """Pull the plug."""
    only_root(request, "skiplock", "keepActive", "migratedfrom")
    vmid = request.vmid

    async def work(log: Log) -> None:
        if request.flag("overrule-shutdown"):
            await _abort_shutdowns(node, vmid)
        async with vm_file.changing(node, vmid, log):
            stored = vm_file.load(node, vmid)
            vm_file.check_lock(node, vmid, stored)
            if await guest.is_running(node, vmid):
                await guest.stop(node, vmid, request.number("timeout", 60))
            await _powered_off(node, vmid)

    return node.tasks.start(request.user, "qmstop", str(vmid), work)


async def _abort_shutdowns(node: Node, vmid: int) -> None:
    for entry in node.tasks.active():
        if entry["type"] == "qmshutdown" and entry["id"] == str(vmid):
            await node.tasks.stop(Upid.parse(entry["upid"]))


async def _powered_off(node: Node, vmid: int) -> None:
    """After a power-off through the API, what was pending holds."""
    await apply_pending(node, vmid, vm_file.load(node, vmid))


@route("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown")
async def shutdown_vm(request: Request, node: Node) -> str:
    """Ask the guest to power off: by its agent, else by the power button."""
    only_root(request, "skiplock", "keepActive")
    vmid, force = request.vmid, request.flag("forceStop")
    stored = vm_file.load(node, vmid)
    is_running = await guest.is_running(node, vmid)
    if is_running and not force and (await guest.status(node, vmid)).get("qmpstatus") == "paused":
        raise Refusal(500, "VM is paused - cannot shutdown")
    timeout_s = request.number("timeout", _shutdown_s(stored))

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            vm_file.check_lock(node, vmid, vm_file.load(node, vmid))
            await _shut_down(node, vmid, timeout_s, force, log)

    return node.tasks.start(request.user, "qmshutdown", str(vmid), work)


def _shutdown_s(stored: VmConfig) -> int:
    return int(parse_property_string(stored.values.get("startup", ""), "order").get("down", "60"))


async def _shut_down(node: Node, vmid: int, timeout_s: float, force: bool, log: Log) -> None:
    if await guest.is_running(node, vmid):
        agent = agent_is_configured(vm_file.load(node, vmid))
        await guest.shutdown(node, vmid, timeout_s, force, log, agent)
    await _powered_off(node, vmid)


@route("POST", "/nodes/{node}/qemu/{vmid}/status/reboot")
async def reboot_vm(request: Request, node: Node) -> str:
    """Shut the guest down and start it again, in a task of its own, so that pending changes hold."""
    vmid = request.vmid
    stored = vm_file.load(node, vmid)
    await _check_running(node, vmid)
    timeout_s = request.number("timeout", _shutdown_s(stored))

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            vm_file.check_lock(node, vmid, vm_file.load(node, vmid))
            await _shut_down(node, vmid, timeout_s, False, log)
        start_task(node, User("root@pam"), vmid)

    return node.tasks.start(request.user, "qmreboot", str(vmid), work)


async def _check_running(node: Node, vmid: int) -> None:
    vm_file.load(node, vmid)
    if not await guest.is_running(node, vmid):
        raise Refusal(500, f"VM {vmid} not running")


@route("POST", "/nodes/{node}/qemu/{vmid}/status/reset")
async def reset_vm(request: Request, node: Node) -> str:
    """Press the reset button: same QEMU, pending changes still wait."""
    return await _at_once(request, node, "qmreset")


@route("POST", "/nodes/{node}/qemu/{vmid}/status/suspend")
async def suspend_vm(request: Request, node: Node) -> str:
    """Stop the guest's processors."""
    if request.flag("todisk"):
        stored = vm_file.load(node, request.vmid)
        if any(key.startswith("hostpci") for key in stored.values):
            lack = "which lack the possibility to save/restore their internal state"
            raise Refusal(500, f"cannot suspend VM to disk due to passed-through PCI device(s), {lack}")
        raise Refusal(501, "the lab does not suspend to disk")
    return await _at_once(request, node, "qmpause")


@route("POST", "/nodes/{node}/qemu/{vmid}/status/resume")
async def resume_vm(request: Request, node: Node) -> str:
    """Let the guest's processors go on."""
    return await _at_once(request, node, "qmresume")


async def _at_once(request: Request, node: Node, kind: str) -> str:
    only_root(request, "skiplock")
    vmid = request.vmid
    await _check_running(node, vmid)
    act = {"qmreset": guest.reset, "qmpause": guest.suspend, "qmresume": guest.resume}[kind]

    async def work(log: Log) -> None:
        async with vm_file.changing(node, vmid, log):
            # A backup may pause a VM and wants it to go on; only a reset waits for it to end.
            allowed = () if kind == "qmreset" else ("backup",)
            vm_file.check_lock(node, vmid, vm_file.load(node, vmid), allowed=allowed)
            await act(node, vmid)

    return node.tasks.start(request.user, kind, str(vmid), work)
