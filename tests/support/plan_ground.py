"""The ground of tests/cases/plan: a spec, a node and a VM as values, changed by what a case says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vi_ops.facts.node import GuestSummary, NodeFacts, StorageFacts
from vi_ops.facts.vm import VmFacts
from vi_ops.plan.step import Plan
from vi_ops.plan.vm import plan_vm
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec
from vi_ops.units import parse_size

CASES = Path(__file__).parents[1] / "cases" / "plan"
Case = Mapping[str, Any]


def load_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text("utf-8"))


def merged(base: Any, change: Any) -> Any:
    """`base` with `change` put over it, mapping by mapping; null takes a key away."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    result = {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in result.items() if value is not None}


@cache
def ground() -> dict[str, Any]:
    return dict(load_yaml(CASES / "site.yml"))


def spec_of(case: Case) -> VmSpec:
    return VmSpec.model_validate(merged(ground()["spec"], case.get("spec", {})))


def node_spec_of(case: Case) -> NodeSpec:
    return NodeSpec.model_validate(merged(ground()["node_spec"], case.get("node_spec", {})))


def node_of(case: Case) -> NodeFacts:
    told = merged(ground()["node"], case.get("node", {}))
    storages = {
        name: StorageFacts(
            name,
            one["type"],
            frozenset(one["content"]),
            one.get("active", True),
            0,
            parse_size(one["available"]),
        )
        for name, one in told["storages"].items()
    }
    guests = {
        vmid: GuestSummary(
            vmid,
            one["name"],
            one.get("status", "running"),
            parse_size(one["memory"]),
            one.get("template", False),
            memory_next_bytes=parse_size(one.get("memory_next", "0 MiB")),
        )
        for vmid, one in told["guests"].items()
    }
    return NodeFacts(
        told["name"],
        told["release"],
        told["version"],
        told["cpus"],
        parse_size(told["memory_total"]),
        parse_size(told["memory_used"]),
        storages,
        frozenset(told["bridges"]),
        guests,
        {name: frozenset(volids) for name, volids in told["images"].items()},
        {path: frozenset(privileges) for path, privileges in told["permissions"].items()},
        physical=told.get("physical", True),
        vnets=frozenset(told.get("vnets", ())),
        taken=told.get("taken", {}),
    )


def vm_of(case: Case) -> VmFacts | None:
    if case.get("vm") == "absent":
        return None
    told = merged(ground()["vm"], case.get("vm", {}))
    running = merged(told["config"], told.get("running", {}))
    return VmFacts(
        106,
        "pve1",
        told["status"],
        told.get("qmpstatus", ""),
        told["config"],
        running if told["status"] == "running" else told["config"],
        tuple(told.get("pending", ())),
        told.get("digest"),
        case.get("vm", {}).get("started_with", {}),
    )


def site_of(case: Case) -> Site:
    spec = spec_of(case)
    unmanaged = {
        one["host"]: UnmanagedVmSpec.model_validate({"managed": False, "node": "pve1", **one})
        for one in case.get("others", ())
    }
    siblings = [VmSpec.model_validate(merged(ground()["spec"], one)) for one in case.get("siblings", ())]
    vms = {one.host: one for one in (spec, *siblings)}
    return Site(Path("/site"), {"pve1": node_spec_of(case)}, vms, unmanaged)


def plan_of(case: Case) -> Plan:
    spec, node_spec, node, vm = spec_of(case), node_spec_of(case), node_of(case), vm_of(case)
    return plan_vm(spec, node_spec, node, vm, site_of(case), unfinished=case.get("unfinished", ()))
