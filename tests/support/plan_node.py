"""What a node makes of a plan's calls: a model of Proxmox's config that keeps state, for plans only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vi_ops.facts.property_string import format_property_string, parse_property_string
from vi_ops.facts.vm import ConfigValue, VmFacts
from vi_ops.plan.step import Param, Plan, PveCall

NUMBERS = {"balloon", "ciupgrade", "cores", "onboot", "protection", "sockets"}


def carried_out(plan: Plan, vm: VmFacts | None) -> VmFacts:
    """The VM after every call of the plan, as its node would show it."""
    for step in plan.steps:
        if isinstance(step.do, PveCall):
            vm = _after(step.do, vm)
    assert vm is not None
    return vm


def _after(call: PveCall, vm: VmFacts | None) -> VmFacts:
    if call.path.endswith("/qemu"):
        assert vm is None
        config = {key: _stored(key, value) for key, value in call.params.items() if key != "vmid"}
        return VmFacts(106, "pve1", "stopped", config=config, running=config, digest="1")
    assert vm is not None
    if call.path.endswith("/status/start"):
        return replace(vm, status="running", qmpstatus="running", running=vm.config)
    if call.path.endswith("/resize"):
        disk = parse_property_string(str(vm.config["scsi0"]), "file") | {"size": str(call.params["size"])}
        return replace(vm, config={**vm.config, "scsi0": format_property_string(disk, "file")})
    assert call.path.endswith("/config")
    assert call.params["digest"] == vm.digest
    gone = str(call.params.get("delete", "")).split(",")
    sent = {key: value for key, value in call.params.items() if key not in {"delete", "digest"}}
    kept = {key: value for key, value in vm.config.items() if key not in gone}
    config = kept | {key: _stored(key, value) for key, value in sent.items()}
    return replace(vm, config=config, digest=f"{vm.digest}1")


def _stored(key: str, value: Param) -> ConfigValue:
    if key in NUMBERS:
        return int(str(int(value)) if isinstance(value, bool) else str(value))
    text = str(value)
    if key == "cipassword":
        return "**********"
    if key == "description":
        return text + "\n"
    if key == "net0" and "=" not in text.partition(",")[0]:
        text = text.replace("virtio", "virtio=BC:24:11:0A:0B:0C", 1)
    if text.endswith(":cloudinit"):
        return text.replace(":cloudinit", ":vm-106-cloudinit,media=cdrom,size=4M")
    if key in {"scsi0", "efidisk0"}:
        return _allocated(key, parse_property_string(text, "file"))
    if key.startswith(("net", "ipconfig", "agent", "cpu", "cicustom")):
        return ",".join(reversed(text.split(",")))  # another order is the same value
    return text


def _allocated(key: str, options: Mapping[str, str]) -> str:
    storage = options["file"].partition(":")[0]
    kept = {name: value for name, value in options.items() if name not in {"file", "import-from"}}
    size = {"scsi0": "2G", "efidisk0": "4M"}[key]
    return format_property_string({"file": f"{storage}:vm-106-{key}", **kept, "size": size}, "file")
