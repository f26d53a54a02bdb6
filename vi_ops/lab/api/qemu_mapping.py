"""Mapped devices at the start of a VM: there, as they were mapped, and not in another VM's hands.

Source: qemu-server, PVE/QemuServer/PCI.pm (parse_hostpci, reserve_pci_usage) and PVE/QemuServer/USB.pm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import guest, options, vm_file
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.mapping import faults_of
from vi_ops.lab.node import Node

# The node's text goes on with a line number that differs by release; clients match the beginning.
_NOT_Q35: Final = "q35 machine model is not enabled at /usr/share/perl5/PVE/QemuServer/PCI.pm line 0."


def devices_of(values: Mapping[str, str], family: str) -> dict[str, dict[str, str]]:
    """Options of one family (hostpci, usb) with their property strings taken apart, by name."""
    names = [key for key in sorted(values) if (options.split_index(key) or ("", 0))[0] == family]
    return {name: parse_property_string(values[name], "host") for name in names}


async def mapping_problem(node: Node, vmid: int, values: Mapping[str, str]) -> str | None:
    """Why a VM's passed-through devices keep it from starting, in the task's words; None when they do not."""
    taken = await _claims_of_others(node, vmid)
    for option, device in devices_of(values, "hostpci").items():
        if device.get("pcie") == "1" and "q35" not in values.get("machine", ""):
            return _NOT_Q35
        if "mapping" not in device:
            return f"no PCI device found for '{device.get('host', '')}'"
        problem = _pci_problem(node, device["mapping"]) or _claim(
            node, option, device["mapping"], vmid, taken
        )
        if problem:
            return problem
    mapped = [device["mapping"] for device in devices_of(values, "usb").values() if "mapping" in device]
    return next(filter(None, (_usb_problem(node, name) for name in mapped)), None)


def _pci_problem(node: Node, name: str) -> str | None:
    found = node.mappings.devices("pci", name, node.name)
    if not found:
        return f"PCI device mapping not found for '{name}'"
    for device in found:
        if fault := faults_of("pci", device, node.devices):
            return f"PCI device mapping invalid (hardware probably changed): {fault}"
    return None


def _usb_problem(node: Node, name: str) -> str | None:
    found = node.mappings.devices("usb", name, node.name)
    if not found:
        return f"USB device mapping not found for '{name}'"
    if len(found) > 1:
        return "More than one USB mapping per host not supported"
    fault = faults_of("usb", found[0], node.devices)
    return f"USB Mapping invalid (hardware probably changed): {fault}" if fault else None


def check_usb(node: Node, value: str) -> None:
    """Raise GuestError where a mapped USB device is not there to be plugged in."""
    device = parse_property_string(value, "host")
    if problem := "mapping" in device and _usb_problem(node, device["mapping"]):
        raise GuestError(problem)


def _claim(node: Node, option: str, name: str, vmid: int, taken: dict[str, int]) -> str | None:
    """Take the first free device of a mapping; why there is none."""
    found = node.mappings.devices("pci", name, node.name)
    for device in found:
        if device["path"] not in taken:
            taken[device["path"]] = vmid
            return None
    if len(found) > 1:
        return f"could not find a free device for '{option}'"
    path = found[0]["path"]
    if taken[path] == vmid:
        return f"device '{path}' assigned more than once"
    return f"PCI device '{path}' already in use by VMID '{taken[path]}'"


async def _claims_of_others(node: Node, vmid: int) -> dict[str, int]:
    taken: dict[str, int] = {}
    for other in node.vmids():
        if other != vmid and await guest.is_running(node, other):
            for option, device in devices_of(vm_file.load(node, other).values, "hostpci").items():
                if "mapping" in device and node.mappings.devices("pci", device["mapping"], node.name):
                    _claim(node, option, device["mapping"], other, taken)
    return taken
