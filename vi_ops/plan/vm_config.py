"""A VM's config as the spec wants it: for creation as a whole, later the keys that converge in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from vi_ops.facts.node import NodeFacts
from vi_ops.facts.property_string import format_property_string, parse_property_string
from vi_ops.facts.vm import ConfigValue, VmFacts
from vi_ops.plan.cloud_init import wanted_cloud_init
from vi_ops.plan.diff import Properties, Wanted, differing, is_same, settle
from vi_ops.plan.step import Change, Effect, Param
from vi_ops.specs.image import find_image
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.vm import VmSpec

SYSTEM_DISK: Final = "scsi0"
THIN_TYPES: Final = frozenset({"btrfs", "cifs", "dir", "lvmthin", "nfs", "rbd", "zfs", "zfspool"})

# In force at once on a running VM; every other key waits for a power cycle.
# Source: qemu-server, src/PVE/QemuServer.pm, vmconfig_hotplug_pending.
_AT_ONCE: Final = frozenset({"description", "name", "net0", "onboot", "protection", "tags"})


def image_volid(spec: VmSpec, node_spec: NodeSpec) -> str:
    """Where the image of a VM lies on its node: as given, or the catalogue's file in the image storage."""
    if ":" in spec.image:
        return spec.image
    return f"{node_spec.image_storage}:import/{find_image(spec.image).file}"


def wanted_config(spec: VmSpec, memory_mib: int | None, now: VmFacts | None = None) -> dict[str, Wanted]:
    """The keys that creation sets and later runs keep so. What the inventory does not state is not in it."""
    wanted: dict[str, Wanted] = {
        "cpu": {"cputype": spec.cpu.type},
        "sockets": spec.cpu.sockets,
        "cores": spec.cpu.cores,
        "net0": _net(spec),
        "agent": {"enabled": "1"},
        "serial0": "socket",
        **wanted_cloud_init(spec),
    }
    if memory_mib is not None:
        wanted["memory"] = {"current": str(memory_mib)}
    if not spec.balloon:
        wanted["balloon"] = 0
    elif now is not None and str(now.config.get("balloon")) == "0":
        wanted["balloon"] = None
    stated = spec.model_fields_set
    if "description" in stated:
        wanted["description"] = spec.description or None
    if "tags" in stated:
        wanted["tags"] = ";".join(sorted(spec.tags)) or None
    if "start_on_boot" in stated:
        wanted["onboot"] = spec.start_on_boot
    if "protection" in stated:
        wanted["protection"] = spec.protection
    return wanted


def create_params(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts, memory_mib: int) -> dict[str, Param]:
    """All parameters of `POST /nodes/{node}/qemu`. The system disk gets the image's size: resize it after."""
    params: dict[str, Param] = {
        "vmid": spec.vmid,
        "name": spec.name,
        "ostype": "l26",
        "machine": "q35" if spec.machine == "q35" else "pc",
        "bios": spec.firmware,
        "scsihw": "virtio-scsi-single",
        SYSTEM_DISK: system_disk(spec, node_spec, node),
    }
    if spec.firmware == "ovmf":
        # Enrolled keys would turn secure boot on, and unsigned driver modules would not load.
        params["efidisk0"] = f"{spec.disk.storage}:1,efitype=4m,pre-enrolled-keys=0"
    params |= {"ide2": cloud_init_drive(spec), "boot": f"order={SYSTEM_DISK}", "vga": "serial0"}
    for key, wanted in wanted_config(spec, memory_mib).items():
        value = settle(key, wanted, None)
        if value is not None:
            params[key] = value
    return params


def _net(spec: VmSpec) -> Properties:
    network = spec.network
    wanted: Properties = {"bridge": network.bridge, "tag": str(network.vlan) if network.vlan else None}
    return wanted | ({"macaddr": network.mac} if network.mac else {})


def system_disk(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts) -> str:
    """scsi0 as creation asks for it: an import of the image."""
    storage = node.storages.get(spec.disk.storage)
    options: dict[str, str | int | bool] = {"import-from": image_volid(spec, node_spec)}
    if storage is not None and storage.type in THIN_TYPES:
        options["discard"] = "on"
    options["iothread"] = True
    kinds = {disk.storage: disk.kind for disk in node_spec.disks}
    if kinds.get(spec.disk.storage) in {"ssd", "nvme"}:
        options["ssd"] = True
    return f"{spec.disk.storage}:0,{format_property_string(options)}"


def not_attached(spec: VmSpec, config: Mapping[str, ConfigValue]) -> tuple[str, ...]:
    """Sentences on devices that the spec asks for and the config has not: attaching is a step of its own."""
    present = {
        parse_property_string(str(value), "host").get("mapping")
        for key, value in config.items()
        if key.startswith(("hostpci", "usb"))
    }
    cards = [
        f"GPU {gpu.mapping}{f' ({gpu.model})' if gpu.model else ''} is not attached:"
        " the VM boots without it, vi-ops cannot attach it yet"
        for gpu in spec.gpus
        if gpu.mapping not in present
    ]
    sticks = [
        f"USB device {usb.mapping} ({usb.id}) is not attached: vi-ops cannot do that yet"
        for usb in spec.usb
        if usb.mapping not in present
    ]
    return (*cards, *sticks)


def cloud_init_drive(spec: VmSpec) -> str:
    """ide2 as creation asks for it."""
    return f"{spec.cloud_init.storage or spec.disk.storage}:cloudinit"


def changes(
    wanted: dict[str, Wanted], vm: VmFacts
) -> tuple[dict[str, Param], tuple[str, ...], tuple[Change, ...]]:
    """(parameters to set, keys to delete, the same in words) that bring a VM's config to `wanted`."""
    params: dict[str, Param] = {}
    deletes: list[str] = []
    told: list[Change] = []
    for key, want in wanted.items():
        now = vm.config.get(key)
        value = settle(key, want, now)
        if is_same(key, value, now) or (key == "cipassword" and now):
            continue  # the node never shows a password again, so one that is set is not compared
        if value is None:
            deletes.append(key)
        else:
            params[key] = value
        before, after = differing(key, now, value)
        told.append(Change(key, in_words(key, before), in_words(key, after), effect_of(key, value, vm)))
    return params, tuple(deletes), tuple(told)


def effect_of(key: str, value: str | int | bool | None, vm: VmFacts) -> Effect:
    """When a changed key takes effect in the guest. Cloud-init's keys do so at the next start.

    A value that is in force already, because another one still waits for a power cycle, is so at once.
    """
    in_force = vm.started_with.get(key, vm.running.get(key))
    is_at_once = key in _AT_ONCE or not vm.is_running or is_same(key, value, in_force)
    return Effect.NOW if is_at_once else Effect.POWER_CYCLE


def in_words(key: str, value: ConfigValue | bool | None) -> str | None:
    """A config value as a person reads it; secrets masked, sizes with their unit."""
    if value is None:
        return None
    text = str(int(value)) if isinstance(value, bool) else str(value).rstrip("\n")
    if key == "cipassword":
        return "***"
    if key == "memory":
        return f"{text.removeprefix('current=')} MiB"
    if key == "sshkeys":
        names = [
            " ".join(line.split()[2:]) or line.split()[0]
            for line in unquote(text).splitlines()
            if line.split()
        ]
        return ", ".join(names)
    return text
