"""Whatever the spec, and whatever it was before: once a plan is carried out, the next one does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.plan_ground import node_of, node_spec_of, plan_of, site_of, spec_of
from tests.support.plan_node import carried_out
from vi_ops.facts.vm import VmFacts
from vi_ops.plan.step import Plan
from vi_ops.plan.vm import plan_vm

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAbSbe0DQ3Bt0dEHIBgeALQPbmT8nW9p7lxrtHnJmcXo"
NODE = {"bridges": ["vmbr0", "vmbr1"]}


def perhaps(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


SPECS = st.fixed_dictionaries(
    {
        "cpu": st.fixed_dictionaries({"sockets": st.integers(1, 4), "cores": st.integers(1, 20)}),
        "memory": st.just("auto") | st.integers(16, 65536).map(lambda mib: mib * 2**20),
        "balloon": st.booleans(),
        "disk": st.fixed_dictionaries({"size": st.integers(2048, 102400).map(lambda mib: mib * 2**20)}),
        "description": perhaps(st.sampled_from(["", "a: b=c, d;e", "zwei\nZeilen", "100 %"])),
        "tags": perhaps(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)),
        "start_on_boot": perhaps(st.booleans()),
        "protection": perhaps(st.booleans()),
        "network": st.fixed_dictionaries(
            {
                "bridge": st.sampled_from(["vmbr0", "vmbr1"]),
                "vlan": perhaps(st.integers(1, 4094)),
                "mac": perhaps(st.sampled_from(["bc:24:11:00:01:06", "BC:24:11:00:01:07"])),
                "address": st.sampled_from(["192.168.1.106/24", "192.168.1.107/24"]),
                "nameservers": perhaps(
                    st.lists(st.sampled_from(["9.9.9.9", "192.168.1.1", "fd00::1"]), max_size=2)
                ),
                "search_domain": perhaps(st.just("example.net")),
            }
        ),
        "user": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["smith", "anna"]),
                "ssh_keys": st.lists(
                    st.sampled_from([f"{KEY} a", f"{KEY}+2/3== b + c", KEY + "3"]), unique=True
                ),
                "password_hash": perhaps(st.just("$6$salt$hash")),
            }
        ),
        "cloud_init": st.fixed_dictionaries(
            {"upgrade_packages": st.booleans(), "vendor_data": perhaps(st.just("local:snippets/extra.yaml"))}
        ),
        "firmware": st.sampled_from(["ovmf", "seabios"]),
    }
)


def plan(spec: dict[str, Any], vm: VmFacts | None) -> Plan:
    case = {"spec": spec, "node": NODE}
    return plan_vm(spec_of(case), node_spec_of(case), node_of(case), vm, site_of(case))


@pytest.mark.slow
@given(spec=SPECS)
@settings(deadline=None)
def test_after_the_creation_nothing_is_left(spec: dict[str, Any]) -> None:
    first = plan(spec, None)
    assert not first.is_blocked, first.findings
    again = plan(spec, carried_out(first, None))
    assert again.steps == ()
    assert again.unchanged


@pytest.mark.slow
@given(before=SPECS, after=SPECS, is_running=st.booleans())
@settings(deadline=None)
def test_after_a_change_nothing_is_left(
    before: dict[str, Any], after: dict[str, Any], is_running: bool
) -> None:
    after = {
        **after,
        "firmware": before["firmware"],
        "disk": max(before["disk"], after["disk"], key=lambda d: d["size"]),
    }
    vm = carried_out(plan(before, None), None)
    if not is_running:
        vm = VmFacts(vm.vmid, vm.node, "stopped", config=vm.config, running=vm.config, digest=vm.digest)
    second = plan(after, vm)
    assert not second.is_blocked, second.findings
    assert plan(after, carried_out(second, vm)).steps == ()


def test_the_ground_of_the_cases_is_a_vm_that_is_right() -> None:
    assert plan_of({}).steps == ()
