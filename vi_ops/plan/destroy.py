"""Destroying a VM: what would be lost, what stands against it, and the steps."""

from __future__ import annotations

from collections.abc import Iterator

from vi_ops.facts.vm import VmFacts
from vi_ops.plan.disk import Disk, disks_of
from vi_ops.plan.step import Finding, Plan, PveCall, Step
from vi_ops.specs.vm import VmSpec
from vi_ops.units import format_size


def plan_destroy(
    spec: VmSpec, vm: VmFacts | None, *, snapshots: tuple[str, ...] = (), typed: str | None = None
) -> Plan:
    """Plan to remove a VM with everything on its disks; `losses` lists that.

    `typed` is what a person typed to confirm, None while nobody has been asked: the plan to show then.
    A running VM is stopped first, as the first step: nothing happens before the confirmation.
    """
    if vm is None:
        return Plan(spec.host, unchanged=(f"VM {spec.vmid} does not exist on {spec.node}",))
    findings = tuple(_refusals(spec, vm, typed))
    path = f"/nodes/{vm.node}/qemu/{vm.vmid}"
    stop = Step(
        key=f"{spec.host}/stop",
        do=PveCall("POST", f"{path}/status/stop"),
        because="a running VM cannot be destroyed",
        title=f"Ensure VM {vm.vmid} is stopped",
    )
    destroy = Step(
        key=f"{spec.host}/destroy",
        do=PveCall("DELETE", path, {"purge": True, "destroy-unreferenced-disks": False}),
        because=f"{spec.host} is to be destroyed; its backups stay",
        title=f"Ensure VM {vm.vmid} ({_name(vm)}) and its disks are gone",
    )
    steps = (stop, destroy) if vm.is_running else (destroy,)
    return Plan(spec.host, steps=steps, findings=findings, losses=tuple(_losses(vm, snapshots)))


def _refusals(spec: VmSpec, vm: VmFacts, typed: str | None) -> Iterator[Finding]:
    if typed is not None and typed != spec.host:
        yield Finding(
            "destroy-name", f"typed {typed!r}, but the VM is {spec.host!r}", hint="nothing was done"
        )
    if _name(vm) != spec.name:
        yield Finding(
            "vmid-taken",
            f"vmid {vm.vmid} on {vm.node} is {_name(vm)!r}, not {spec.name!r}",
            hint="vi-ops destroys only a VM that carries the name of the inventory",
        )
    if spec.protection or str(vm.config.get("protection", 0)) == "1":
        where = f"on {vm.node}" if str(vm.config.get("protection", 0)) == "1" else "in the inventory"
        yield Finding(
            "vm-protected",
            f"VM {vm.vmid} ({_name(vm)}) is protected {where}",
            hint=f"set protection: false for {spec.host} and run `vi-ops provision {spec.host}` first",
        )
    if str(vm.config.get("template", 0)) == "1":
        yield Finding(
            "vm-is-template",
            f"VM {vm.vmid} on {vm.node} is a template; other VMs may be clones of its disks",
            hint=f"if none is: `qm destroy {vm.vmid}` as root on {vm.node}",
        )
    if vm.lock:
        yield Finding(
            "vm-locked",
            f"VM {vm.vmid} on {vm.node} is locked: {vm.lock}",
            hint=f"wait for that task; if none runs any more: `qm unlock {vm.vmid}` as root on {vm.node}",
        )


def _losses(vm: VmFacts, snapshots: tuple[str, ...]) -> Iterator[str]:
    for disk in sorted(disks_of(vm.config).values(), key=lambda one: not one.may_hold_data):
        if not disk.is_cdrom or disk.is_cloud_init:
            yield f"{disk.key}: {disk.volid}, {_kind(disk)}"
    for name in snapshots:
        yield f"snapshot {name}"


def _kind(disk: Disk) -> str:
    if disk.is_cloud_init:
        return "the cloud-init drive"
    size = format_size(disk.size_bytes) if disk.size_bytes else "of unknown size"
    if disk.key.startswith("efidisk"):
        return f"{size} of firmware variables"
    if disk.key.startswith("tpmstate"):
        return f"{size} of TPM state: keys sealed in it are lost"
    return f"{size}, detached" if disk.key.startswith("unused") else size


def _name(vm: VmFacts) -> str:
    return str(vm.config.get("name", f"VM {vm.vmid}"))
