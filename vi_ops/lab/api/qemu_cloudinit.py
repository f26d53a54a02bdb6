"""The cloud-init drive through the API: what it lacks, building it anew, and its texts.

Source: qemu-server, PVE/API2/Qemu.pm (cloudinit_pending, cloudinit_update, cloudinit_generated_config_dump).
"""

from __future__ import annotations

from typing import Any

from vi_ops.lab import cloudinit, options, vm_file
from vi_ops.lab.api.qemu_hotplug import rebuild_drive
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.password import MASK
from vi_ops.lab.route import Refusal, Request, route


@route("GET", "/nodes/{node}/qemu/{vmid}/cloudinit")
async def differences(request: Request, node: Node) -> list[dict[str, Any]]:
    """Cloud-init options: `value` is what the drive was built with, `pending` what the config says now."""
    stored = vm_file.load(node, request.vmid)
    values = {key: options.typed(key, value) for key, value in stored.values.items()}
    built_with = dict(stored.cloudinit)
    for section in (values, built_with):
        if "cipassword" in section:
            section["cipassword"] = MASK
    added = [key for key in built_with.pop("added", "").split(",") if key]
    rows = [{"key": key, "pending": values[key]} for key in added if key in values]
    for key in sorted(options.CLOUDINIT & values.keys() - set(added)):
        if key in built_with:
            rows.append({"key": key, "value": built_with[key], "pending": values[key]})
        elif values[key]:  # `ciupgrade: 0` is left out, as Proxmox leaves it out
            rows.append({"key": key, "value": values[key]})
    return rows + [{"key": key, "delete": 1} for key in sorted(built_with.keys() - values.keys())]


@route("PUT", "/nodes/{node}/qemu/{vmid}/cloudinit")
async def rebuild(request: Request, node: Node) -> None:
    """Build the drive anew; a running guest finds it in its CD-ROM."""
    vmid = request.vmid
    async with vm_file.changing(node, vmid):
        stored = vm_file.load(node, vmid)
        vm_file.check_lock(node, vmid, stored)
        try:
            await rebuild_drive(node, vmid, stored)
        except GuestError as error:
            raise Refusal(500, str(error)) from error


@route("GET", "/nodes/{node}/qemu/{vmid}/cloudinit/dump")
async def dump(request: Request, node: Node) -> str:
    """The generated text of one kind; snippets of `cicustom` are not looked at."""
    values: dict[str, str] = dict(vm_file.load(node, request.vmid).values)
    may_see = node.acl.may(request.user, f"/vms/{request.vmid}", "VM.Config.Cloudinit")
    if "cipassword" in values and not may_see:
        values["cipassword"] = MASK
    user = cloudinit.user_data(values, request.vmid)
    network = cloudinit.network_config(values, cloudinit.node_nameservers(node))
    return {"user": user, "network": network, "meta": cloudinit.meta_data(user, network)}[
        request.text("type")
    ]
