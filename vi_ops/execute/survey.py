"""Many VMs at a glance: their plans, or their states, with one look at each node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vi_ops.execute.host_key import pinned
from vi_ops.execute.journal import RunRecord, open_journal
from vi_ops.execute.lock import Owner, holder, who
from vi_ops.execute.look import look_around, look_at_node, look_at_vms, look_beside, recall
from vi_ops.execute.pve import Pve
from vi_ops.execute.ssh import describe
from vi_ops.execute.state import SiteState
from vi_ops.facts.node import NodeFacts
from vi_ops.facts.vm import VmFacts
from vi_ops.plan.step import Finding, Plan
from vi_ops.plan.vm import plan_vm
from vi_ops.specs.site import Site
from vi_ops.specs.vm import VmSpec

Reach = Callable[[str], Pve]
"""From a node's inventory name to its client."""


@dataclass(frozen=True)
class VmState:
    """A VM as `vi-ops status` shows it; `vm` is None where the node has none."""

    spec: VmSpec
    vm: VmFacts | None
    ssh: str
    is_pinned: bool
    last_run: RunRecord | None
    owner: Owner | None


def plan_all(site: Site, specs: Sequence[VmSpec], state: SiteState, reach: Reach) -> list[Plan]:
    """A plan for each VM, in the order given; a node is looked at once for all of its VMs."""
    plans: dict[str, Plan] = {}
    with open_journal(state.journal) as journal:
        for spec, pve, node, found in _look(specs, reach, around=site):
            vm = recall(found, journal.started_with(spec.host))
            owner = holder(state.lock(spec.host))
            unfinished = frozenset[str]() if owner else journal.unfinished(spec.host)
            plan = plan_vm(spec, pve.spec, node, vm, site, unfinished=unfinished)
            plans[spec.host] = _beside(plan, owner) if owner else plan
    return [plans[spec.host] for spec in specs]


def _beside(plan: Plan, owner: Owner) -> Plan:
    """The plan with a word on the run that works on its VM at this moment."""
    message = f"{plan.subject} is being worked on: {who(owner, time.time())}"
    hint = "what the plan lists may be under way already; `vi-ops status` shows when that run has ended"
    finding = Finding("vm-under-way", message, hint, blocks=False)
    return replace(plan, findings=(*plan.findings, finding))


def survey(specs: Sequence[VmSpec], state: SiteState, reach: Reach) -> list[VmState]:
    """The state of each VM, in the order given."""
    states: dict[str, VmState] = {}
    with open_journal(state.journal) as journal:
        for spec, _, _, vm in _look(specs, reach):
            states[spec.host] = VmState(
                spec,
                vm,
                describe(spec.ssh),
                is_pinned=bool(pinned(state.known_hosts, spec.ssh.host, spec.ssh.port)),
                last_run=journal.last_run(spec.host),
                owner=holder(state.lock(spec.host)),
            )
    return [states[spec.host] for spec in specs]


def _look(
    specs: Sequence[VmSpec], reach: Reach, *, around: Site | None = None
) -> Iterator[tuple[VmSpec, Pve, NodeFacts, VmFacts | None]]:
    for host in dict.fromkeys(spec.node for spec in specs):
        pve = reach(host)
        node = look_at_node(pve)
        here = [spec for spec in specs if spec.node == host]
        vms = look_at_vms(pve, [spec.vmid for spec in here], node)
        if around:
            node = look_around(pve, node, vms.values())
            node = look_beside(pve, node, around.vmids_on(host), vms.values())
        for spec in here:
            yield spec, pve, node, vms[spec.vmid]
