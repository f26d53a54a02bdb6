"""A plan shows the advice that the inventory's rules have for its VM, and for no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support import plan_ground
from vi_ops.plan.vm import plan_vm
from vi_ops.specs.check import SpecFinding
from vi_ops.specs.vm import UserSpec


def advice_for(host: str) -> SpecFinding:
    path = ("vm", "network", "gateway")
    return SpecFinding("vm-gateway-missing", host, path, "there is no gateway", blocks=False)


@pytest.mark.parametrize(("case", "blocks"), [({"vm": "absent"}, True), ({}, False)])
def test_a_missing_key_blocks_only_the_making_of_its_vm(case: dict[str, Any], blocks: bool) -> None:
    """The keys of a VM that exists stay as they are."""
    missing = SpecFinding(
        "ssh-key-missing", "vm106", ("vm", "user", "ssh_keys"), "there is no SSH key", blocks=False
    )
    site = replace(plan_ground.site_of(case), advice=(missing,))
    vm = site.vms["vm106"]
    user = UserSpec(name=vm.user.name)
    vm = vm.model_copy(update={"user": user})
    plan = plan_vm(vm, site.nodes["pve1"], plan_ground.node_of(case), plan_ground.vm_of(case), site)
    (shown,) = [one for one in plan.findings if one.code == "ssh-key-missing"]
    assert shown.blocks is blocks
    assert plan.is_blocked is blocks
    if not blocks:
        assert not [step for step in plan.steps if "sshkeys" in repr(step.do)]


def test_advice_is_a_finding_that_blocks_nothing() -> None:
    case = {"about": "a VM that is as described"}
    site = replace(plan_ground.site_of(case), advice=(advice_for("vm106"), advice_for("vm999")))
    plan = plan_vm(
        site.vms["vm106"], site.nodes["pve1"], plan_ground.node_of(case), plan_ground.vm_of(case), site
    )
    shown = [one for one in plan.findings if one.code == "vm-gateway-missing"]
    assert [(one.message, one.blocks) for one in shown] == [
        ("vm.network.gateway: there is no gateway", False)
    ]
