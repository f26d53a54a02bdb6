"""Ask a node what is there: six calls for the node, one for each VM, two for one that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from vi_ops.errors import Refused, StepFailed
from vi_ops.execute.pve import Pve
from vi_ops.execute.pve_session import POOL_SIZE
from vi_ops.facts.node import NodeAnswers, NodeFacts, parse_node, parse_storages, parse_taken
from vi_ops.facts.vm import ConfigValue, VmFacts, parse_pending, parse_started_with, parse_vm
from vi_ops.plan.cloud_init import is_same_to_guest
from vi_ops.plan.disk import disks_of
from vi_ops.plan.vm_memory import memory_mib
from vi_ops.units import MIB

_IMAGES: Final = "import"
_REFUSED: Final[dict[str, Any]] = {}


def look_at_node(pve: Pve) -> NodeFacts:
    """The node at this moment. Raises what `Pve.get` raises, FactError for an answer that makes no sense."""
    node = f"/nodes/{pve.node_name}"
    with ThreadPoolExecutor(5) as pool:
        status = pool.submit(_status, pve, f"{node}/status")
        storage = pool.submit(pve.get, f"{node}/storage")
        network = pool.submit(pve.get, f"{node}/network", type="any_bridge")
        # full=1 asks all QEMUs in parallel (qemu-server, vmstatus): one call for the states of all guests.
        qemu = pool.submit(pve.get, f"{node}/qemu", full=True)
        permissions = pool.submit(pve.get, "/access/permissions")
    has_version = bool((status.result() or {}).get("pveversion"))
    image_storage = next(
        (one for one in parse_storages(storage.result()) if one.name == pve.spec.image_storage), None
    )
    images = {}
    if image_storage and image_storage.is_active and _IMAGES in image_storage.content:
        content = f"{node}/storage/{image_storage.name}/content"
        images[image_storage.name] = pve.get(content, content=_IMAGES)
    answers = NodeAnswers(
        status=status.result(),
        storage=storage.result(),
        network=network.result(),
        qemu=qemu.result(),
        permissions=permissions.result(),
        version=None if has_version else pve.get("/version"),
        images=images,
        is_seen=status.result() is not _REFUSED,
    )
    return parse_node(pve.node_name, answers)


def _status(pve: Pve, path: str) -> Any:
    """The node's own state; nothing for a login without Sys.Audit on it, which may well make VMs there."""
    try:
        return pve.get(path)
    except Refused as error:
        if error.code != "pve-permission":
            raise
        return _REFUSED


def look_at_vm(pve: Pve, vmid: int, node: NodeFacts | None = None) -> VmFacts | None:
    """One VM, None where there is none.

    With `node`, its status is the one of that moment, and a VM that was not there then is not looked for:
    pass fresh facts; one that runs is asked for what its guest was started with. Without, the node is asked
    for the status as well. Raises what `Pve.get` raises.
    """
    summary = node.guests.get(vmid) if node else None
    if node and not summary and node.rights.allows(f"/vms/{vmid}", "VM.Audit"):
        return None
    path = f"/nodes/{pve.node_name}/qemu/{vmid}"
    try:
        pending = pve.get(f"{path}/pending")
        if summary is None:
            return parse_vm(vmid, pve.node_name, pending, pve.get(f"{path}/status/current"))
        status = {"status": summary.status, "qmpstatus": summary.qmpstatus, "uptime": summary.uptime_s}
        vm = parse_vm(vmid, pve.node_name, pending, status)
        if not vm.is_running or not any(disk.is_cloud_init for disk in disks_of(vm.config).values()):
            return vm
        return replace(vm, started_with=parse_started_with(pve.get(f"{path}/cloudinit")))
    except StepFailed as error:
        if error.code == "pve-not-found":
            return None
        raise


def look_at_vms(pve: Pve, vmids: Iterable[int], node: NodeFacts) -> dict[int, VmFacts | None]:
    """Several VMs at once, over a few connections: one call each, two for one that runs."""
    wanted = list(vmids)
    with ThreadPoolExecutor(POOL_SIZE) as pool:
        return dict(zip(wanted, pool.map(lambda vmid: look_at_vm(pve, vmid, node), wanted), strict=True))


def look_around(pve: Pve, node: NodeFacts, vms: Iterable[VmFacts | None]) -> NodeFacts:
    """The facts with what has a vmid elsewhere in the cluster; asked for only where a VM is absent."""
    if all(vms):
        return node
    return replace(node, taken=parse_taken(pve.get("/cluster/resources", type="vm"), node.name))


def look_beside(pve: Pve, node: NodeFacts, vmids: Iterable[int], seen: Iterable[VmFacts | None]) -> NodeFacts:
    """The facts with the memory that guests of the inventory get at their next start.

    Takes: the vmids of the inventory's VMs there, and those VMs that were looked at already. The others are
    asked, one call each, where they run: only then can a written size differ from the one in force.
    """
    known: dict[int, Mapping[str, ConfigValue]] = {vm.vmid: vm.config for vm in seen if vm}
    asked = [vmid for vmid in vmids if vmid not in known and _runs(node, vmid)]
    with ThreadPoolExecutor(POOL_SIZE) as pool:
        known |= zip(asked, pool.map(lambda vmid: _pending(pve, vmid), asked), strict=True)
    guests = {
        vmid: replace(guest, memory_next_bytes=(memory_mib(known.get(vmid, {})) or 0) * MIB)
        for vmid, guest in node.guests.items()
    }
    return replace(node, guests=guests)


def _runs(node: NodeFacts, vmid: int) -> bool:
    return vmid in node.guests and node.guests[vmid].status == "running"


def _pending(pve: Pve, vmid: int) -> Mapping[str, ConfigValue]:
    """The config after the next start; nothing for a VM that has gone meanwhile."""
    try:
        return parse_pending(pve.get(f"/nodes/{pve.node_name}/qemu/{vmid}/pending"))[0]
    except StepFailed as error:
        if error.code == "pve-not-found":
            return {}
        raise


def recall(vm: VmFacts | None, noted: Mapping[str, tuple[str, float]]) -> VmFacts | None:
    """The facts with what no node tells: an address that the guest was started with and that changed since.

    Takes: the journal's `started_with`. What it noted before the VM's last start is over.
    """
    if vm is None or not vm.is_running:
        return vm
    left = {
        key: value
        for key, (value, age_s) in noted.items()
        if age_s < vm.uptime_s and not is_same_to_guest(key, value, vm.config.get(key))
    }
    return replace(vm, started_with={**vm.started_with, **left})
