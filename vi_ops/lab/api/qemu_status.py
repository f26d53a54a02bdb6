"""What VMs there are and what each is doing.

Source: qemu-server, PVE/API2/Qemu.pm (vmlist, vm_status) and PVE/QemuServer.pm (vmstatus).
"""

from __future__ import annotations

from typing import Any

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import guest, options, vm_file
from vi_ops.lab.api.qemu_change import memory_mib
from vi_ops.lab.drive import boot_disk, parse_disk_size, parse_drive
from vi_ops.lab.node import Node
from vi_ops.lab.route import Request, User, route
from vi_ops.lab.vm_config import VmConfig
from vi_ops.units import MIB

_PRESSURE = tuple(f"pressure{kind}{share}" for kind in ("cpu", "io", "memory") for share in ("full", "some"))


@route("GET", "/nodes/{node}/qemu")
async def listed(request: Request, node: Node) -> list[dict[str, Any]]:
    """Every VM that the caller may see; `full=1` asks the running ones' QEMU."""
    vmids = [vmid for vmid in node.vmids() if node.acl.may(request.user, f"/vms/{vmid}", "VM.Audit")]
    return [await status_row(node, vmid, full=request.flag("full")) for vmid in vmids]


@route("GET", "/nodes/{node}/qemu/{vmid}")
async def index(request: Request, node: Node) -> list[dict[str, str]]:
    """The names below a VM that the lab serves."""
    names = ("config", "cloudinit", "pending", "status", "unlink", "resize", "move_disk", "agent", "snapshot")
    return [{"subdir": name} for name in names]


@route("GET", "/nodes/{node}/qemu/{vmid}/status")
async def verbs(request: Request, node: Node) -> list[dict[str, str]]:
    """The names below a VM's status."""
    return [
        {"subdir": name} for name in ("current", "start", "stop", "reset", "shutdown", "suspend", "reboot")
    ]


@route("GET", "/nodes/{node}/qemu/{vmid}/status/current")
async def current(request: Request, node: Node) -> dict[str, Any]:
    """One VM in full."""
    stored = vm_file.load(node, request.vmid)
    row = await status_row(node, request.vmid, full=True)
    if agent_is_configured(stored):
        row["agent"] = 1
    return row | {"ha": {"managed": 0}}


async def status_row(node: Node, vmid: int, *, full: bool) -> dict[str, Any]:
    """A VM as lists and status show it; sizes in bytes, `cpu` as a share of `cpus`, uptime in seconds."""
    stored = vm_file.load(node, vmid)
    row = _configured(node, vmid, stored) | {"status": "stopped"}
    if node.major > 8:
        row["memhost"] = 0
    if not await guest.is_running(node, vmid):
        return row | ({"qmpstatus": "stopped"} if full else {})
    seen = await guest.status(node, vmid)
    row |= {"status": "running"} | {key: seen[key] for key in ("pid", "uptime", "mem") if key in seen}
    row["cpu"] = seen.get("cpu", 0) / row["cpus"]
    # QEMU's own memory counts on the host alone; under TCG it may be more than the guest's.
    resident_bytes, row["mem"] = row["mem"], min(row["mem"], row["maxmem"])
    if node.major > 8:
        row |= {"memhost": resident_bytes, **dict.fromkeys(_PRESSURE, 0)}
    if full:
        row |= {key: value for key, value in seen.items() if key not in row}
        row.setdefault("nics", _nics(vmid, stored))
    return row


def _configured(node: Node, vmid: int, stored: VmConfig) -> dict[str, Any]:
    values = stored.values
    cpus = int(values.get("sockets", "1")) * int(values.get("cores", "1"))
    row: dict[str, Any] = {
        "vmid": vmid,
        "name": values.get("name", f"VM {vmid}"),
        "cpus": min(int(values.get("vcpus", cpus)), node.host.cpus),
        "maxmem": memory_mib(values.get("memory", "512")) * MIB,
        "maxdisk": _boot_disk_bytes(stored),
        **dict.fromkeys(("cpu", "disk", "mem", "netin", "netout", "uptime"), 0),
    }
    row |= {key: values[key] for key in ("lock", "tags") if values.get(key)}
    if stored.is_template:
        row["template"] = 1
    if any((options.split_index(key) or ("", 0))[0] == "serial" for key in values):
        row["serial"] = 1
    return row


def _boot_disk_bytes(stored: VmConfig) -> int:
    name = boot_disk(stored.values)
    return parse_disk_size(parse_drive(stored.values[name]).get("size", "0")) if name else 0


def _nics(vmid: int, stored: VmConfig) -> dict[str, dict[str, int]]:
    slots = (options.split_index(key) for key in stored.values)
    return {f"tap{vmid}i{slot[1]}": {"netin": 0, "netout": 0} for slot in slots if slot and slot[0] == "net"}


def agent_is_configured(stored: VmConfig) -> bool:
    """Whether the agent is switched on."""
    return parse_property_string(stored.values.get("agent", ""), "enabled").get("enabled") in (
        "1",
        "on",
        "yes",
    )


async def resource_rows(node: Node, user: User) -> list[dict[str, Any]]:
    """The VMs' rows of `GET /cluster/resources`, as the status daemon would last have seen them."""
    rows = []
    for vmid in node.vmids():
        if not node.acl.may(user, f"/vms/{vmid}", "VM.Audit"):
            continue
        row = await status_row(node, vmid, full=False)
        row["maxcpu"] = row.pop("cpus")
        pool = node.acl.pool_of(f"/vms/{vmid}")
        row |= {"id": f"qemu/{vmid}", "type": "qemu", "node": node.name, **({"pool": pool} if pool else {})}
        rows.append({key: value for key, value in row.items() if key not in ("pid", "serial", *_PRESSURE)})
    return rows
