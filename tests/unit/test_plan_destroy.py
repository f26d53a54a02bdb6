"""Destroying: what would be lost, and everything that stands against it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.plan_ground import spec_of, vm_of
from vi_ops.plan.destroy import plan_destroy
from vi_ops.plan.step import Plan, PveCall


def destroy(vm: dict[str, Any] | str = "stopped", typed: str | None = None, **spec: Any) -> Plan:
    case = {"spec": spec, "vm": {"status": vm} if vm in ("stopped", "running") else vm}
    return plan_destroy(spec_of(case), vm_of(case), snapshots=("before-upgrade",), typed=typed)


def codes(plan: Plan) -> list[str]:
    assert all(finding.blocks for finding in plan.findings)
    return [finding.code for finding in plan.findings]


def test_lists_what_would_be_lost() -> None:
    extra = {"unused0": "data-hdd:vm-106-disk-0", "sata0": "local:iso/debian.iso,media=cdrom,size=600M"}
    plan = destroy({"status": "stopped", "config": {**extra, "tpmstate0": "local-lvm:vm-106-disk-2,size=4M"}})
    assert plan.losses == (
        "scsi0: local-lvm:vm-106-disk-1, 150 GiB",
        "unused0: data-hdd:vm-106-disk-0, of unknown size, detached",
        "efidisk0: local-lvm:vm-106-disk-0, 4 MiB of firmware variables",
        "ide2: local-lvm:vm-106-cloudinit, the cloud-init drive",
        "tpmstate0: local-lvm:vm-106-disk-2, 4 MiB of TPM state: keys sealed in it are lost",
        "snapshot before-upgrade",
    )


def test_a_stopped_vm_goes_in_one_step() -> None:
    plan = destroy(typed="vm106")
    assert not codes(plan)
    (step,) = plan.steps
    assert isinstance(step.do, PveCall)
    assert (step.do.method, step.do.path) == ("DELETE", "/nodes/pve1/qemu/106")
    assert step.do.params == {"purge": True, "destroy-unreferenced-disks": False}


def test_a_running_vm_is_stopped_first() -> None:
    assert [step.key for step in destroy("running").steps] == ["vm106/stop", "vm106/destroy"]


def test_a_vm_that_is_gone_needs_nothing() -> None:
    plan = destroy("absent")
    assert not plan.steps
    assert plan.unchanged == ("VM 106 does not exist on pve1",)


@pytest.mark.parametrize("typed", ["", "vm10", "VM106", "video-intelligence", "vm106 "])
def test_only_the_whole_name_confirms(typed: str) -> None:
    assert codes(destroy(typed=typed)) == ["destroy-name"]


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"protection": 1}, "vm-protected"),
        ({"template": 1}, "vm-is-template"),
        ({"lock": "backup"}, "vm-locked"),
        ({"lock": "create"}, "vm-locked"),
        ({"name": "mail"}, "vmid-taken"),
    ],
)
def test_refuses(config: dict[str, Any], code: str) -> None:
    plan = destroy({"status": "stopped", "config": config}, typed="vm106")
    assert codes(plan) == [code]
    assert plan.is_blocked


def test_refuses_what_the_inventory_protects() -> None:
    assert codes(destroy(typed="vm106", protection=True)) == ["vm-protected"]
