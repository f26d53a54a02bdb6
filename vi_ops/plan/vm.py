"""What to do so that a VM is as its spec says: make it, or converge it in place. Nothing is ever replaced."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from vi_ops.facts.node import NodeFacts
from vi_ops.facts.vm import VmFacts
from vi_ops.plan.cloud_init import SECRET
from vi_ops.plan.converge import converge_vm
from vi_ops.plan.disk import resize_step
from vi_ops.plan.node_check import check_creation
from vi_ops.plan.ready import ready_steps, start_step
from vi_ops.plan.rights import missing_rights
from vi_ops.plan.step import Finding, Plan, PveCall, Step, WaitUntil
from vi_ops.plan.vm_config import create_params, image_volid, not_attached
from vi_ops.plan.vm_memory import VmMemory, plan_memory
from vi_ops.specs.check import format_path
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.vm import VmSpec

# An import copies the whole image; on a slow disk that takes minutes.
_CREATED_DEADLINE_S: Final = 1800
_IMPORTED: Final = "an imported disk has the size of its image"


def plan_vm(
    spec: VmSpec,
    node_spec: NodeSpec,
    node: NodeFacts,
    vm: VmFacts | None,
    site: Site,
    *,
    unfinished: Collection[str] = (),
) -> Plan:
    """Plan one VM from what is: `vm` is None where the node has no VM with that id.

    `unfinished` are keys of steps that an earlier run planned and did not finish (from the journal). The
    facts show how far the VM is, except for what lies inside the guest: that is then waited for again.
    """
    memory = plan_memory(spec, node, vm, site)
    if vm is None:
        plan = _create(spec, node_spec, node, memory)
    elif refusal := _not_ours(spec, vm):
        return Plan(spec.host, findings=(refusal,))
    elif vm.lock == "create":
        plan = _await_creation(spec, vm)
    else:
        plan = converge_vm(spec, node_spec, node, vm, memory, is_unfinished=len(unfinished) > 0)
    rights = missing_rights(plan.steps, spec, node)
    return replace(plan, findings=(*plan.findings, *memory.findings, *rights, *_advice(spec, vm, site)))


def _advice(spec: VmSpec, vm: VmFacts | None, site: Site) -> tuple[Finding, ...]:
    """What the inventory's rules say. A VM is not made without its keys; one that exists keeps its own."""
    return tuple(
        Finding(
            advice.code,
            f"{format_path(advice.path)}: {advice.message}",
            advice.hint,
            blocks=vm is None and advice.code == "ssh-key-missing",
        )
        for advice in site.advice
        if advice.host == spec.host
    )


def _create(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts, memory: VmMemory) -> Plan:
    findings = (*_taken(spec, node), *check_creation(spec, node_spec, node))
    if memory.memory_mib is None:
        return Plan(spec.host, findings=findings)
    create = Step(
        key=f"{spec.host}/create",
        do=PveCall(
            "POST",
            f"/nodes/{node.name}/qemu",
            create_params(spec, node_spec, node, memory.memory_mib),
            secret=SECRET,
        ),
        because=f"{node.name} has no VM {spec.vmid}; its memory: {memory.reason}",
        title=f"Ensure VM {spec.vmid} ({spec.name}) exists, made from {image_volid(spec, node_spec)}",
    )
    why = "the VM is new"
    steps = (
        create,
        resize_step(spec, node.name, _IMPORTED),
        start_step(spec, node.name, why),
        *ready_steps(spec, why),
    )
    return Plan(spec.host, steps=steps, findings=findings, later=not_attached(spec, {}))


def _await_creation(spec: VmSpec, vm: VmFacts) -> Plan:
    wait = Step(
        key=f"{spec.host}/wait-created",
        do=WaitUntil("created", _CREATED_DEADLINE_S),
        because=f"{vm.node} is still creating it (lock: create), begun by an earlier run or by somebody else",
        title=f"Wait until VM {spec.vmid} is created (at most {_CREATED_DEADLINE_S // 60} min)",
    )
    finding = Finding(
        "vm-being-created",
        f"VM {spec.vmid} on {vm.node} is locked by its creation",
        hint=f"if no task works on it any more: as root on {vm.node}, `qm unlock {spec.vmid}` and"
        f" `qm destroy {spec.vmid}`, then run this again",
        blocks=False,
    )
    why = "its creation was interrupted here"
    steps = (
        wait,
        resize_step(spec, vm.node, _IMPORTED),
        start_step(spec, vm.node, why),
        *ready_steps(spec, why),
    )
    return Plan(spec.host, steps=steps, findings=(finding,), later=not_attached(spec, {}))


def _taken(spec: VmSpec, node: NodeFacts) -> tuple[Finding, ...]:
    other = node.guests.get(spec.vmid)
    if elsewhere := node.taken.get(spec.vmid):
        hint = "choose a free vmid; if it is this VM and was moved, let `node` name where it is now"
        return (Finding("vmid-taken", f"vmid {spec.vmid} is taken by {elsewhere}", hint=hint),)
    if other is None:
        return ()
    return (_other_name(spec, node.name, other.name),)


def _not_ours(spec: VmSpec, vm: VmFacts) -> Finding | None:
    name = str(vm.config.get("name", f"VM {spec.vmid}"))
    is_unnamed_yet = vm.lock == "create" and "name" not in vm.config
    if name != spec.name and not is_unnamed_yet:
        return _other_name(spec, vm.node, name)
    if str(vm.config.get("template", "0")) == "1":
        return Finding(
            "vm-is-template",
            f"VM {spec.vmid} on {vm.node} is a template: it cannot be started or brought to a spec",
            hint="give the guest another vmid",
        )
    return None


def _other_name(spec: VmSpec, node: str, name: str) -> Finding:
    return Finding(
        "vmid-taken",
        f"vmid {spec.vmid} on {node} is {name!r}, not {spec.name!r}",
        hint=f"choose a free vmid; if it is this VM: `qm set {spec.vmid} --name {spec.name}` on {node}",
    )
