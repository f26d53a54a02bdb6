"""Which memory a VM gets on its node: the size it states, checked; or `auto`, computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vi_ops.facts.node import GuestSummary, NodeFacts
from vi_ops.facts.vm import ConfigValue, VmFacts
from vi_ops.plan.diff import parse_value
from vi_ops.plan.memory import MINIMUM_MIB, GuestLoad, HostMemory, MemorySize, held, right_size
from vi_ops.plan.step import Finding
from vi_ops.specs.site import Site
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec
from vi_ops.units import MIB, format_size

# A guest that only the node knows: its count of vCPUs weighs 4 MiB each, so a guess does no harm.
_UNKNOWN_VCPUS = 8
# The installer's default since Proxmox VE 8.1, where the limit cannot be asked for: a tenth of the memory,
# 64 MiB to 16 GiB. Source: pve-installer, Proxmox/Install/RunEnv.pm.
_ARC_SHARE, _ARC_LEAST_MIB, _ARC_MOST_MIB = 0.1, 64, 16384


@dataclass(frozen=True)
class VmMemory:
    """The decision: MiB, or None where there is none to give; the sentence says how it came about."""

    memory_mib: int | None
    reason: str
    findings: tuple[Finding, ...] = ()


def plan_memory(spec: VmSpec, node: NodeFacts, vm: VmFacts | None, site: Site) -> VmMemory:
    """Decide the memory of a VM. With a card it counts as pinned: it holds all its memory from the start."""
    if not node.is_seen:
        return _unseen(spec, node, present_mib(vm))
    size = right_size(host_memory(node), load_of(spec), other_loads(spec, node, site))
    if spec.memory == "auto":
        return _automatic(spec, node, vm, site, size)
    fixed_mib = spec.memory // MIB
    reason = f"{_say(fixed_mib)}, as the inventory says"
    if size is not None and fixed_mib <= size.recommended_mib:
        return VmMemory(fixed_mib, reason)
    return VmMemory(fixed_mib, reason, (_unsafe(spec, node, fixed_mib, size),))


def host_memory(node: NodeFacts) -> HostMemory:
    """What the facts of a node tell about its memory."""
    total_mib = node.memory_total_bytes / MIB
    active = [storage for storage in node.storages.values() if storage.is_active]
    types = {storage.type for storage in active}
    targets = {storage.type for storage in active if "backup" in storage.content}
    arc = min(max(_ARC_SHARE * total_mib, _ARC_LEAST_MIB), _ARC_MOST_MIB)
    return HostMemory(
        total_mib=total_mib,
        arc_limit_mib=arc if "zfspool" in types else None,
        has_lvm_thin="lvmthin" in types,
        backup="file" if targets - {"pbs"} else "pbs" if targets else None,
    )


def load_of(spec: VmSpec) -> GuestLoad:
    """A VM as its node will bear it. Its display is the serial port, which takes no video memory."""
    return GuestLoad(
        vcpus=spec.cpu.sockets * spec.cpu.cores,
        disks=2 if spec.firmware == "ovmf" else 1,
        is_pinned=bool(spec.gpus),
        vga_mib=0,
    )


def other_loads(spec: VmSpec, node: NodeFacts, site: Site) -> tuple[GuestLoad, ...]:
    """The guests that may run beside this one: what runs now, what starts with the node, and every VM that
    vi-ops manages there, which it would make and start. Each counts with the most that it has or will have.
    """
    described: list[VmSpec | UnmanagedVmSpec] = [*site.vms.values(), *site.unmanaged.values()]
    known = {other.vmid: other for other in described if other.node == spec.node}
    loads: list[GuestLoad] = []
    for vmid in dict.fromkeys((*node.guests, *known)):
        guest, other = node.guests.get(vmid), known.get(vmid)
        memory_mib = _most_mib(guest, other)
        if vmid == spec.vmid or not memory_mib or not _may_run(guest, other):
            continue
        pinned = bool(other and other.gpus)
        cpu = other.cpu if other else None
        vcpus = cpu.sockets * cpu.cores if cpu else _UNKNOWN_VCPUS
        loads.append(GuestLoad(vcpus, memory_mib=memory_mib, is_pinned=pinned))
    return tuple(loads)


def _may_run(guest: GuestSummary | None, other: VmSpec | UnmanagedVmSpec | None) -> bool:
    if guest and (guest.status == "running" or guest.is_template):
        return not guest.is_template
    return isinstance(other, VmSpec) or (
        guest is not None and other is not None and other.start_on_boot is True
    )


def _most_mib(guest: GuestSummary | None, other: VmSpec | UnmanagedVmSpec | None) -> float:
    """The largest of what a guest has, gets at its next start, and is to get as the inventory states."""
    stated = other.memory if isinstance(other, VmSpec) and other.memory != "auto" else 0
    told = (guest.memory_max_bytes, guest.memory_next_bytes) if guest else ()
    return max(stated, *told) / MIB if told else stated / MIB


def present_mib(vm: VmFacts | None) -> int | None:
    """The memory that a VM's config gives it after the next power cycle."""
    return memory_mib(vm.config) if vm else None


def memory_mib(config: Mapping[str, ConfigValue]) -> int | None:
    """The memory that a config gives, in MiB; None where it does not say."""
    return int(parse_value("memory", str(config["memory"]))["current"]) if "memory" in config else None


def _automatic(
    spec: VmSpec, node: NodeFacts, vm: VmFacts | None, site: Site, size: MemorySize | None
) -> VmMemory:
    """What is left, which only one VM can take: where several are automatic, none that exists grows."""
    if size is None:
        return VmMemory(None, "no memory is left", (_none_left(spec, node),))
    rivals = [one for one in site.vms.values() if one.node == spec.node and one.memory == "auto"]
    rivals = [one for one in rivals if one.vmid != spec.vmid]
    present = present_mib(vm)
    if present is not None and rivals and present <= size.safe_mib:
        names = ", ".join(sorted(one.host for one in rivals))
        return VmMemory(present, f"{_say(present)}, automatic, stays: {names} is automatic there as well")
    if present is not None and held(present, size):
        return VmMemory(present, f"{_say(present)}, automatic, stays: up to {_say(size.safe_mib)} is safe")
    reason = f"{_say(size.recommended_mib)} is the most that is safe on {node.name} beside {_needs(size)}"
    absent = [one.host for one in rivals if one.vmid not in node.guests]
    findings = (_rivals(spec, node, absent),) if vm is None and absent else ()
    return VmMemory(size.recommended_mib, reason, findings)


def _unseen(spec: VmSpec, node: NodeFacts, present: int | None) -> VmMemory:
    """Without a look at the node's memory a stated size is taken as it is, and `auto` finds none."""
    memory_mib = present if spec.memory == "auto" else spec.memory // MIB
    finding = Finding(
        "node-unseen",
        f"the login may not see processors and memory of {node.name}, so that"
        f" {'no automatic memory can be found' if memory_mib is None else 'they are not checked'}",
        hint=f"it lacks Sys.Audit on /nodes/{node.name}: `vi-ops node roles {spec.node}` prints how root"
        " grants it" + ("; or state a size with `memory:`" if memory_mib is None else ""),
        blocks=memory_mib is None,
    )
    if memory_mib is None:
        return VmMemory(None, "the node's memory is not known", (finding,))
    why = "as it is" if spec.memory == "auto" else "as the inventory says"
    return VmMemory(memory_mib, f"{_say(memory_mib)}, {why}", (finding,))


def _rivals(spec: VmSpec, node: NodeFacts, others: list[str]) -> Finding:
    """Other VMs that are to be made as well and ask for everything."""
    return Finding(
        "memory-auto-twice",
        f"{spec.host} and {', '.join(sorted(others))} have memory auto on {node.name} and do not exist yet:"
        " each would get all that is left",
        hint="state a size for all but one of them",
    )


def _none_left(spec: VmSpec, node: NodeFacts) -> Finding:
    return Finding(
        "memory-none-left",
        f"memory is auto, but {_total(node)} has less than {_say(MINIMUM_MIB)} left"
        " beside its own needs, the guests that run or start with it, and the inventory's other VMs",
        hint="stop other guests or lower their memory, or state a size with `memory:`",
    )


def _unsafe(spec: VmSpec, node: NodeFacts, fixed_mib: int, size: MemorySize | None) -> Finding:
    limit, hint = "no size is safe there", "stop other guests or lower their memory"
    if size is not None:
        limit = (
            f"up to {_say(size.recommended_mib)} is safe; at {_say(size.edge_mib)} the node would run out"
            f" under stress; its largest other needs are {_needs(size)}"
        )
        hint = f"set memory to '{_say(size.recommended_mib)}' or 'auto', or reduce those needs"
    message = f"{_say(fixed_mib)} is too much for {_total(node)}: {limit}"
    return Finding("memory-unsafe", message, hint=hint, blocks=bool(spec.gpus) and node.physical)


def _total(node: NodeFacts) -> str:
    return f"{node.name} with its {format_size(node.memory_total_bytes)}"


def _needs(size: MemorySize) -> str:
    return ", ".join(f"{name} {_say(mib)}" for name, mib in size.dominant[:3])


def _say(mib: int) -> str:
    return format_size(mib * MIB)
