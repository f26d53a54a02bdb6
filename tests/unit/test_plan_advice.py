"""A plan shows the advice that the inventory's rules have for its VM, and for no other."""

from __future__ import annotations

from dataclasses import replace

from tests.support import plan_ground
from vi_ops.plan.vm import plan_vm
from vi_ops.specs.check import SpecFinding


def advice_for(host: str) -> SpecFinding:
    path = ("vm", "network", "gateway")
    return SpecFinding("vm-gateway-missing", host, path, "there is no gateway", blocks=False)


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
