"""Which privileges a plan's steps need, and which of them are missing: told before step one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vi_ops.facts.node import NodeFacts
from vi_ops.plan.diff import parse_net
from vi_ops.plan.step import Finding, Param, PveCall, Step, WaitUntil
from vi_ops.specs.vm import VmSpec

# Privilege of each config key, by its name without digits. Source: qemu-server, src/PVE/API2/Qemu.pm,
# check_vm_modify_config_perm.
_KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("cores", "cpu", "sockets"), "VM.Config.CPU"),
    **dict.fromkeys(("memory", "balloon"), "VM.Config.Memory"),
    **dict.fromkeys(("machine", "scsihw", "serial", "vga"), "VM.Config.HWType"),
    **dict.fromkeys(
        ("agent", "bios", "description", "name", "onboot", "ostype", "protection", "tags"),
        "VM.Config.Options",
    ),
    **dict.fromkeys(
        (
            "cicustom",
            "cipassword",
            "ciupgrade",
            "ciuser",
            "ipconfig",
            "nameserver",
            "searchdomain",
            "sshkeys",
        ),
        "VM.Config.Cloudinit|VM.Config.Network",
    ),
    "boot": "VM.Config.Disk",
    "net": "VM.Config.Network",
}
# The agent's addresses and its files. Source: qemu-server, src/PVE/API2/Qemu/Agent.pm.
_AGENT: Final = {
    8: ("VM.Monitor",),
    9: (
        "VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted",
        "VM.GuestAgent.FileRead|VM.GuestAgent.Unrestricted",
    ),
}
# Where the node's own bridges stand among the paths of rights. Source: pve-guest-common, check_vnet_access.
_LOCAL_ZONE: Final = "/sdn/zones/localnetwork"
_DRIVES: Final = ("efidisk", "ide", "scsi")
Needs = dict[str, set[str]]


def missing_rights(steps: Iterable[Step], spec: VmSpec, node: NodeFacts) -> tuple[Finding, ...]:
    """One finding for each path on which the login lacks privileges that the steps need."""
    findings: list[Finding] = []
    for path, needed in sorted(needed_rights(steps, spec, node.major).items()):
        if path.startswith(f"{_LOCAL_ZONE}/") and spec.network.bridge in node.vnets:
            continue  # it lies in another zone; a login that may not use it does not see it either
        lacking = [one.split("|") for one in needed if not node.rights.allows(path, *one.split("|"))]
        missing = sorted({alternatives[0] for alternatives in lacking})
        if missing:
            findings.append(
                Finding(
                    "rights-missing",
                    f"the login at {node.name} lacks {', '.join(missing)} on {path}",
                    hint=f"`vi-ops node roles {spec.node}` prints the least role and how root grants it",
                )
            )
    return tuple(findings)


def needed_rights(steps: Iterable[Step], spec: VmSpec, major: int) -> Needs:
    """Path to privileges; of `A|B` either will do. Releases 8 and 9 differ in those of the agent."""
    needs: Needs = {}
    vm = needs.setdefault(f"/vms/{spec.vmid}", set())
    for step in steps:
        if isinstance(step.do, WaitUntil):
            vm |= {"VM.Audit", *_AGENT[9 if major >= 9 else 8]}
        elif isinstance(step.do, PveCall):
            _add_call(needs, vm, step.do, spec)
    return {path: privileges for path, privileges in needs.items() if privileges}


def _add_call(needs: Needs, vm: set[str], call: PveCall, spec: VmSpec) -> None:
    if call.path.endswith("/qemu"):
        vm.add("VM.Allocate")
        _add_config(needs, vm, call.params, is_creation=True)
    elif call.path.endswith("/config"):
        _add_config(needs, vm, call.params, is_creation=False)
    elif call.path.endswith("/resize"):
        vm.add("VM.Config.Disk")
        needs.setdefault(f"/storage/{spec.disk.storage}", set()).add("Datastore.AllocateSpace")
    elif "/status/" in call.path:
        vm.add("VM.PowerMgmt")
    elif call.method == "DELETE":
        vm.add("VM.Allocate")


def _add_config(needs: Needs, vm: set[str], params: Mapping[str, Param], *, is_creation: bool) -> None:
    deleted = str(params.get("delete", "")).split(",")
    for key in (*params, *deleted):
        name, value = key.rstrip("0123456789"), str(params.get(key, ""))
        if name in _DRIVES:
            storage, _, volume = value.partition(":")
            if volume != "cloudinit":
                needs.setdefault(f"/storage/{storage}", set()).add("Datastore.AllocateSpace")
            if not is_creation:
                vm |= (
                    {"VM.Config.Cloudinit", "VM.Config.CDROM"}
                    if volume == "cloudinit"
                    else {"VM.Config.Disk"}
                )
        elif name in _KEYS:
            vm.add(_KEYS[name])
        if name == "net" and value:
            net = parse_net(value)
            bridge = "/".join(filter(None, (net.get("bridge"), net.get("tag"))))
            needs.setdefault(f"{_LOCAL_ZONE}/{bridge}", set()).add("SDN.Use")
