"""/version and /nodes/{node}: what the node is and what it has."""

from __future__ import annotations

import ipaddress
import json
import platform
import time
from importlib.resources import files
from typing import Any

from vi_ops.lab import host
from vi_ops.lab.certificate import fingerprint
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, route

HIDDEN_CLASSES = ("05", "06", "0b")  # memory, bridges, processors
QEMU_VERSIONS = {
    "8.4": ("9.2", "9.1", "9.0", "8.2", "8.1", "8.0", "7.2", "7.1"),
    "9.2": ("11.0", "10.2", "10.1", "10.0", "9.2", "9.1", "9.0", "8.2"),
}
RRD_FOLDERS = {8: ("pve2-node", "pve2-vm"), 9: ("pve-node-9.0", "pve-vm-9.0")}


@route("GET", "/version")
@route("GET", "/nodes/{node}/version")
async def get_version(request: Request, node: Node) -> dict[str, str]:
    """Which release this is."""
    return {"version": node.version, "release": node.release, "repoid": "0000000000000000"}


@route("GET", "/nodes")
async def list_nodes(request: Request, node: Node) -> list[dict[str, Any]]:
    """The one node; its figures only for those with Sys.Audit on it."""
    entry = {"id": f"node/{node.name}", "node": node.name, "type": "node", "status": "online"}
    entry["ssl_fingerprint"] = fingerprint(node.home)
    if not node.acl.may(request.user, f"/nodes/{node.name}", "Sys.Audit"):
        return [entry]
    return [{**entry, **figures(node)}]


def figures(node: Node) -> dict[str, Any]:
    """Load, memory and disk of the node as lists show them."""
    now = host.status(node.host.cpus, node.host.sockets, node.host.memory_bytes, node.version)
    return {
        "cpu": now["cpu"],
        "maxcpu": node.host.cpus,
        "mem": now["memory"]["used"],
        "maxmem": now["memory"]["total"],
        "disk": now["rootfs"]["used"],
        "maxdisk": now["rootfs"]["total"],
        "uptime": now["uptime"],
        "level": "",
    }


@route("GET", "/nodes/{node}/status")
async def get_status(request: Request, node: Node) -> dict[str, Any]:
    """Processor, memory, load, disk and kernel."""
    return host.status(node.host.cpus, node.host.sockets, node.host.memory_bytes, node.version)


@route("GET", "/nodes/{node}/network")
async def list_network(request: Request, node: Node) -> list[dict[str, Any]]:
    """The bridges; the lab has no other interfaces."""
    kind = request.text("type", "bridge")
    bridges = [_bridge(name, settings) for name, settings in sorted(node.bridges.items())]
    return bridges if kind in ("bridge", "any_bridge", "any_local_bridge", "include_sdn") else []


def _bridge(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    interface = ipaddress.ip_interface(settings["cidr"])
    return {
        "iface": name,
        "type": "bridge",
        "active": 1,
        "autostart": 1,
        "address": str(interface.ip),
        "cidr": str(interface),
        "netmask": str(interface.network.prefixlen),
        "bridge_fd": 0,
        "bridge_ports": "",
        "bridge_stp": "off",
        "families": ["inet"],
        "method": "static",
        "method6": "manual",
        "priority": 3,
    }


@route("GET", "/nodes/{node}/hardware/pci")
async def list_pci(request: Request, node: Node) -> list[dict[str, Any]]:
    """The PCI devices that lab.json lists, without the classes that are hidden by default."""
    hidden = [
        c
        for c in request.text("pci-class-blacklist", ",".join(HIDDEN_CLASSES)).replace(";", ",").split(",")
        if c
    ]
    seen = [d for d in node.devices["pci"] if not any(d["class"][2:].startswith(c) for c in hidden)]
    if request.flag("verbose", True):
        return seen
    return [{key: d[key] for key in ("id",) if key in d} for d in seen]


@route("GET", "/nodes/{node}/hardware/usb")
async def list_usb(request: Request, node: Node) -> list[dict[str, Any]]:
    """The USB devices that lab.json lists."""
    return node.devices["usb"]


@route("GET", "/nodes/{node}/capabilities/qemu/cpu")
async def list_cpu_models(request: Request, node: Node) -> list[dict[str, Any]]:
    """The processor models that a guest may be given."""
    models = json.loads(files("vi_ops.lab").joinpath("cpu_models.json").read_text())[node.release]
    return [
        {"name": name, "vendor": vendor, "custom": 0, **_abstract(name, node.major)}
        for vendor, names in models.items()
        for name in names
    ]


def _abstract(name: str, major: int) -> dict[str, int]:
    """Release 9 marks the micro-architecture levels, which name no processor."""
    return {"abstract": 1} if major >= 9 and name.startswith("x86-64-") else {}


@route("GET", "/nodes/{node}/capabilities/qemu/machines")
async def list_machines(request: Request, node: Node) -> list[dict[str, str]]:
    """The machine types, newest first."""
    return [
        {"id": f"pc-{kind}-{version}", "type": kind, "version": version}
        for kind in ("i440fx", "q35")
        for version in QEMU_VERSIONS[node.release]
    ]


@route("GET", "/nodes/{node}/apt/versions")
async def list_versions(request: Request, node: Node) -> list[dict[str, str]]:
    """The packages that make the node, as far as a tool asks for them."""
    qemu = QEMU_VERSIONS[node.release][0]
    kernel = platform.release()
    packages = {"proxmox-ve": f"{node.major}.0.0", "pve-manager": node.version, "pve-qemu-kvm": f"{qemu}.0-2"}
    extra = {"pve-manager": {"RunningKernel": kernel}, "proxmox-ve": {"RunningKernel": kernel}}
    common = {
        "Arch": "amd64",
        "CurrentState": "Installed",
        "Origin": "Proxmox",
        "Priority": "optional",
        "Section": "admin",
    }
    return [
        {
            **common,
            "Package": name,
            "Title": name,
            "Version": version,
            "OldVersion": version,
            **extra.get(name, {}),
        }
        for name, version in packages.items()
    ]


@route("GET", "/nodes/{node}/time")
async def get_time(request: Request, node: Node) -> dict[str, Any]:
    """The node's clock; the lab's is in UTC."""
    return {"time": int(time.time()), "localtime": int(time.time()), "timezone": "UTC"}


@route("GET", "/nodes/{node}/rrddata")
async def node_rrddata(request: Request, node: Node) -> list[Any]:
    """The lab keeps no history, and answers as a node whose statistics daemon has not written any yet."""
    raise no_history(f"{RRD_FOLDERS[node.major][0]}/{node.name}")


@route("GET", "/nodes/{node}/qemu/{vmid}/rrddata")
async def guest_rrddata(request: Request, node: Node) -> list[Any]:
    """See the node's."""
    raise no_history(f"{RRD_FOLDERS[node.major][1]}/{request.vmid}")


def no_history(file: str) -> Refusal:
    return Refusal(500, f"RRD error: opening '/var/lib/rrdcached/db/{file}': No such file or directory")
