"""Resource mappings: names for a node's devices, so that users need not be root to pass them through.

Source: pve-guest-common, PVE/Mapping/PCI.pm and USB.pm; pve-manager, PVE/API2/Cluster/Mapping.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vi_ops.lab.route import Refusal
from vi_ops.lab.store import read_json, write_json

KINDS = ("pci", "usb", "dir")


@dataclass(frozen=True)
class Mappings:
    """The mappings of one lab, kept in one file: kind to id to {map: [texts], description?, mdev?}."""

    path: Path

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = read_json(self.path, {}).get(kind, {})
        return entries

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The mapping of that name, as `{"map": ["node=pve1,path=...,id=..."]}`; None when there is none."""
        return self.all(kind).get(name)

    def devices(self, kind: str, name: str, node: str) -> list[dict[str, str]]:
        """The mapping's devices on `node`, each as a dict of its property string; empty when it has none."""
        texts = (self.get(kind, name) or {}).get("map", [])
        return [device for device in map(parse_map, texts) if device.get("node") == node]

    def put(self, kind: str, name: str, entry: dict[str, Any] | None) -> None:
        """Write or, with None, remove one mapping."""
        state = read_json(self.path, {})
        entries = state.setdefault(kind, {})
        if entry is None:
            entries.pop(name)
        else:
            entries[name] = entry
        write_json(self.path, state)

    def digest(self, kind: str) -> str:
        """Changes with every change of that kind's mappings."""
        return hashlib.sha1(repr(sorted(self.all(kind).items())).encode()).hexdigest()  # noqa: S324


def parse_map(text: str) -> dict[str, str]:
    """`node=pve1,path=0000:01:00,id=10de:1b06` as a dict."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def faults_of(kind: str, device: dict[str, str], host: dict[str, list[dict[str, Any]]]) -> str | None:
    """Why a mapped device cannot be used on this host, in Proxmox's words; None when it can.

    `host` has `pci` (entries as in hardware/pci) and `usb` (entries as in hardware/usb).
    """
    return {"pci": _pci_fault, "usb": _usb_fault}.get(kind, lambda d, h: None)(device, host.get(kind, []))


def check_unknown(kind: str, name: str, entry: dict[str, Any] | None, verb: str) -> dict[str, Any]:
    """The entry; 500 when there is none."""
    if entry is None:
        raise Refusal(500, f"{verb} hardware mapping failed: {kind} '{name}' does not exist")
    return entry


def _pci_fault(device: dict[str, str], present: list[dict[str, Any]]) -> str | None:
    for path in device["path"].split(";"):
        address = path if "." in path else f"{path}.0"
        found = next((d for d in present if d["id"] == address), None)
        if found is None:
            return f"pci device '{address}' not found\n"
        actual = f"{found['vendor'][2:]}:{found['device'][2:]}"
        if actual != device["id"].lower():
            return f"'id' does not match for '{device_name(device)}' ({actual} != {device['id']})\n"
        group = str(found.get("iommugroup", -1))
        if device.get("iommugroup", group) != group:
            wanted = device["iommugroup"]
            return f"'iommugroup' does not match for '{device_name(device)}' ({group} != {wanted})\n"
    return None


def _usb_fault(device: dict[str, str], present: list[dict[str, Any]]) -> str | None:
    if "path" in device:
        found = next((d for d in present if f"{d['busnum']}-{d.get('usbpath')}" == device["path"]), None)
        if found is None:
            return f"usb device '{device['path']}' not found\n"
        actual = f"{found['vendid']}:{found['prodid']}"
        return None if actual == device["id"] else f"'id' does not match ({actual} != {device['id']})\n"
    if any(f"{d['vendid']}:{d['prodid']}" == device["id"] for d in present):
        return None
    return f"usb device '{device['id']}' not found\n"


def device_name(device: dict[str, str]) -> str:
    return device.get("path", device.get("id", ""))
