"""Reading and changing a VM's config.

Source: qemu-server, PVE/API2/Qemu.pm (vm_config, vm_pending, update_vm_api).
"""

from __future__ import annotations

import asyncio
from typing import Any

from vi_ops.lab import options, pending, vm_file
from vi_ops.lab.api.qemu_change import Change, check_balloon, parse_change, stage
from vi_ops.lab.api.qemu_hotplug import plug
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.drive import is_drive
from vi_ops.lab.node import Node
from vi_ops.lab.password import MASK
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.task import Log
from vi_ops.lab.vm_config import VmConfig


@route("GET", "/nodes/{node}/qemu/{vmid}/config")
async def config(request: Request, node: Node) -> dict[str, Any]:
    """The config with pending values merged in; `current=1` without them, `snapshot` that of a snapshot."""
    snapshot, current = request.text("snapshot"), request.flag("current")
    if snapshot and current:
        refused = "cannot use 'snapshot' parameter with 'current'"
        raise parameter_error(snapshot=refused, current=refused)
    stored = vm_file.load(node, request.vmid)
    if snapshot and snapshot not in stored.snapshots:
        raise Refusal(500, f"snapshot '{snapshot}' does not exist")
    values = stored.snapshots[snapshot] if snapshot else stored.values if current else stored.merged()
    answer: dict[str, Any] = {key: options.typed(key, value) for key, value in values.items()}
    answer["digest"] = vm_file.load_digest(node, request.vmid)
    if "cipassword" in answer:
        answer["cipassword"] = MASK
    return answer


@route("GET", "/nodes/{node}/qemu/{vmid}/pending")
async def pending_rows(request: Request, node: Node) -> list[dict[str, Any]]:
    """Every option with its value and what waits for it."""
    rows = [*pending.rows(vm_file.load(node, request.vmid))]
    rows.append({"key": "digest", "value": vm_file.load_digest(node, request.vmid)})
    for row in rows:
        if row["key"] == "cipassword":
            row |= {"value": MASK} if "value" in row else {}
            # The trailing blank is Proxmox's: it makes the pending mask differ from the one in force.
            row |= {"pending": f"{MASK} "} if "pending" in row else {}
    return rows


@route("PUT", "/nodes/{node}/qemu/{vmid}/config")
async def update(request: Request, node: Node) -> None:
    """Change options and wait until it is done."""
    change = _checked(request, node)
    await _update(change, _caller(request, node), lambda _: None)


@route("POST", "/nodes/{node}/qemu/{vmid}/config")
async def post(request: Request, node: Node) -> str | None:
    """Change options in a task; with `background_delay`, null when that was quick enough."""
    change = _checked(request, node)
    caller = _caller(request, node)
    upid = node.tasks.start(
        request.user, "qmconfig", str(request.vmid), lambda log: _update(change, caller, log)
    )
    delay_s = request.number("background_delay")
    if not delay_s:
        return upid
    try:
        status = await asyncio.wait_for(node.tasks.wait(upid), delay_s)
    except TimeoutError:
        return upid
    if status != "OK" and not status.startswith("WARNINGS: "):
        raise Refusal(500, f"failed to update VM {request.vmid}: {status}")
    return None


def _caller(request: Request, node: Node) -> Caller:
    return Caller(node, request.user, request.vmid)


def _checked(request: Request, node: Node) -> Change:
    """The change asked for, after the checks that come before any task."""
    change = parse_change(request)
    caller = _caller(request, node)
    caller.may_set([*change.delete, *change.values])
    for option in sorted(change.values):
        if is_drive(option):
            caller.may_use_storage(option, change.values[option])
    caller.may_use_bridges(change.values)
    stored = vm_file.load(node, request.vmid)
    _check(change, stored, vm_file.load_digest(node, request.vmid))
    if not change.skiplock:
        vm_file.check_lock(node, request.vmid, stored)
    check_balloon(change.values, stored)
    return change


def _check(change: Change, stored: VmConfig, digest: str) -> None:
    if change.digest and change.digest != digest:
        raise Refusal(500, "checksum mismatch (file change by other user?)")
    if stored.values.get("lock") and not change.skiplock:
        raise Refusal(500, f"VM is locked ({stored.values['lock']})")


async def _update(change: Change, caller: Caller, log: Log) -> None:
    node, vmid = caller.node, caller.vmid
    async with vm_file.changing(node, vmid, log):
        stored = vm_file.load(node, vmid)
        _check(change, stored, vm_file.load_digest(node, vmid))
        log(f"update VM {vmid}: {change.described}")
        await stage(change, stored, caller, log)
        vm_file.store(node, vmid, stored)
        await plug(stored, caller, {*change.values, *change.delete})
