"""Bringing a VM that exists to its spec, in place, and saying what takes effect when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from vi_ops.facts.node import NodeFacts
from vi_ops.facts.vm import VmFacts
from vi_ops.plan import cloud_init
from vi_ops.plan.disk import disks_of, resize_step, shrink_refused, system_disk_of
from vi_ops.plan.node_check import (
    check_bridge,
    check_disk_storage,
    check_image,
    check_known,
    check_room,
    check_threads,
)
from vi_ops.plan.ready import ready_steps, start_step
from vi_ops.plan.sentences import unchanged, waiting
from vi_ops.plan.step import Change, Effect, Finding, Param, Plan, PveCall, Step
from vi_ops.plan.vm_config import (
    SYSTEM_DISK,
    changes,
    cloud_init_drive,
    effect_of,
    not_attached,
    system_disk,
    wanted_config,
)
from vi_ops.plan.vm_memory import VmMemory
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.vm import VmSpec
from vi_ops.units import format_size

# QEMU runs, but the guest's vCPUs do not. Source: QEMU, qapi/run-state.json.
_STALLED: Final = frozenset(
    {
        "guest-panicked",
        "internal-error",
        "io-error",
        "paused",
        "prelaunch",
        "shutdown",
        "suspended",
        "watchdog",
    }
)


def converge_vm(
    spec: VmSpec, node_spec: NodeSpec, node: NodeFacts, vm: VmFacts, memory: VmMemory, *, is_unfinished: bool
) -> Plan:
    """Plan for a VM that exists, is no template and carries the spec's name."""
    drives = _missing_drives(spec, node_spec, node, vm)
    config_step = _config_step(spec, vm, memory, drives)
    told = config_step.changes if config_step else ()
    resize = _resize(spec, vm, is_new=SYSTEM_DISK in drives)
    steps = [step for step in (config_step, resize) if step]
    if not vm.is_running:
        why = f"VM {spec.vmid} is {vm.status}"
        steps += [start_step(spec, vm.node, why), *ready_steps(spec, why)]
    elif is_unfinished:
        steps += ready_steps(spec, "an earlier run ended before the guest was ready")
    findings = [*_disk_findings(spec, vm), *check_known(spec), *_fixed(spec, vm), *_stalled(vm)]
    findings += _checks(spec, node_spec, node, vm, {change.key for change in told})
    if vm.lock and any(isinstance(step.do, PveCall) for step in steps):
        findings.append(_locked(vm))
    return Plan(
        spec.host,
        steps=tuple(steps),
        unchanged=unchanged(spec, vm, memory, told),
        waiting=waiting(spec, vm, told, unread_after(vm, steps), grows=resize is not None),
        later=not_attached(spec, vm.config),
        findings=tuple(findings),
    )


def unread_after(vm: VmFacts, steps: Iterable[Step]) -> tuple[str, ...]:
    """Cloud-init's keys whose value the running guest has not read when the steps are done."""
    configs = [step.do for step in steps if isinstance(step.do, PveCall) and step.do.path.endswith("/config")]
    return cloud_init.unread(vm, configs[0].params if configs else {})


def _config_step(spec: VmSpec, vm: VmFacts, memory: VmMemory, drives: dict[str, Param]) -> Step | None:
    params, deletes, told = changes(wanted_config(spec, memory.memory_mib, vm), vm)
    told += tuple(
        Change(key, None, str(value), effect_of(key, str(value), vm)) for key, value in drives.items()
    )
    if not told:
        return None
    params |= drives
    if deletes:
        params["delete"] = ",".join(deletes)
    if vm.digest:
        params["digest"] = vm.digest
    return Step(
        key=f"{spec.host}/config",
        # POST answers with a task; PUT would be cut off by the node's proxy after 30 s.
        do=PveCall("POST", f"/nodes/{vm.node}/qemu/{spec.vmid}/config", params, secret=cloud_init.SECRET),
        because=_why(told, memory),
        effect=Effect.POWER_CYCLE if any(one.effect is Effect.POWER_CYCLE for one in told) else Effect.NOW,
        title=f"Ensure {', '.join(one.key for one in told)} of VM {spec.vmid}",
        changes=told,
    )


def _why(told: tuple[Change, ...], memory: VmMemory) -> str:
    why = f"{len(told)} keys differ from the inventory" if len(told) > 1 else "it differs from the inventory"
    return f"{why}; memory: {memory.reason}" if any(one.key == "memory" for one in told) else why


def _missing_drives(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts, vm: VmFacts) -> dict[str, Param]:
    """Drives that a creation left out. A VM with any disk of its own gets no other one."""
    disks = disks_of(vm.config).values()
    drives: dict[str, Param] = {}
    has_any = SYSTEM_DISK in vm.config or any(disk.may_hold_data for disk in disks)
    if not vm.is_running and not has_any:
        drives = {SYSTEM_DISK: system_disk(spec, node_spec, node), "boot": f"order={SYSTEM_DISK}"}
    if not any(disk.is_cloud_init for disk in disks) and "ide2" not in vm.config:
        drives["ide2"] = cloud_init_drive(spec)
    return drives


def _resize(spec: VmSpec, vm: VmFacts, *, is_new: bool) -> Step | None:
    disk = system_disk_of(vm.config)
    if disk is None:
        return resize_step(spec, vm.node, "an imported disk has the size of its image") if is_new else None
    if disk.size_bytes is not None and disk.size_bytes >= spec.disk.size:
        return None
    now = format_size(disk.size_bytes) if disk.size_bytes else "an unknown size"
    wanted = format_size(spec.disk.size)
    return resize_step(spec, vm.node, f"{SYSTEM_DISK} has {now}, the inventory says {wanted}")


def _disk_findings(spec: VmSpec, vm: VmFacts) -> Iterator[Finding]:
    disk = system_disk_of(vm.config)
    others = [one for one in disks_of(vm.config).values() if one.may_hold_data or one.key == SYSTEM_DISK]
    if disk is None and (others or vm.is_running):
        found = ", ".join(f"{one.key} ({one.volid})" for one in others) or "no disk at all"
        yield Finding(
            "vm-disk-missing",
            f"VM {spec.vmid} on {vm.node} has no disk {SYSTEM_DISK}, but {found}",
            hint=f"attach its system disk as {SYSTEM_DISK}; vi-ops makes no second one beside it",
        )
    if disk is None:
        return
    if disk.size_bytes is not None and disk.is_larger_than(spec.disk.size):
        yield shrink_refused(spec, disk.size_bytes)
    if disk.storage != spec.disk.storage:
        yield Finding(
            "vm-disk-elsewhere",
            f"{SYSTEM_DISK} of VM {spec.vmid} lies on {disk.storage}, the inventory says {spec.disk.storage}",
            hint=f"move it, which works while the VM runs: `qm disk move {spec.vmid} {SYSTEM_DISK}"
            f" {spec.disk.storage} --delete 1` on {vm.node}; or change disk.storage",
            blocks=False,
        )


def _fixed(spec: VmSpec, vm: VmFacts) -> Iterator[Finding]:
    firmware = str(vm.config.get("bios", "seabios"))
    if firmware != spec.firmware:
        yield Finding(
            "vm-firmware-fixed",
            f"VM {spec.vmid} has firmware {firmware}, the inventory says {spec.firmware}; an installed system"
            " may not boot with another one",
            hint=f"set firmware: {firmware}, or make a new VM",
            blocks=False,
        )
    machine = "q35" if "q35" in str(vm.config.get("machine", "pc")) else "i440fx"
    if machine != spec.machine:
        yield Finding(
            "vm-machine-fixed",
            f"VM {spec.vmid} has machine type {machine}, the inventory says {spec.machine}; that changes"
            " the PCI addresses the guest knows",
            hint=f"set machine: {machine}; or change it by hand while the VM is off",
            blocks=False,
        )


def _stalled(vm: VmFacts) -> Iterator[Finding]:
    if vm.is_running and vm.qmpstatus in _STALLED:
        yield Finding(
            "vm-stalled",
            f"VM {vm.vmid} on {vm.node} has a QEMU process, but its guest does not run: {vm.qmpstatus}",
            hint="io-error: look for a full storage; paused: resume it; otherwise stop and start it",
            blocks=False,
        )


def _locked(vm: VmFacts) -> Finding:
    return Finding(
        "vm-locked",
        f"VM {vm.vmid} on {vm.node} is locked: {vm.lock}",
        hint=f"wait for that task; if none runs any more: `qm unlock {vm.vmid}` as root on {vm.node}",
    )


def _checks(
    spec: VmSpec, node_spec: NodeSpec, node: NodeFacts, vm: VmFacts, keys: set[str]
) -> Iterator[Finding]:
    """The node checks that the changes at hand call for."""
    disk = system_disk_of(vm.config)
    if SYSTEM_DISK in keys:
        yield from check_disk_storage(spec, node)
        yield from check_image(spec, node_spec, node)
    elif (
        disk
        and disk.size_bytes is not None
        and disk.size_bytes < spec.disk.size
        and disk.storage in node.storages
    ):
        yield from check_room(node.storages[disk.storage], spec.disk.size - disk.size_bytes)
    if "net0" in keys:
        yield from check_bridge(spec, node)
    if keys & {"cores", "sockets"} or not vm.is_running:
        yield from check_threads(spec, node)
