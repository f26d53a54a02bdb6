"""The figures of the machine below, dressed as a node's: processor, memory, load."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil

CPUINFO_KEYS = {
    "model name": "model",
    "cpu MHz": "mhz",
    "flags": "flags",
    "vendor_id": "vendor",
    "cpu family": "family",
}


def cpu_info(cpus: int, sockets: int, major: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """`cpuinfo` of a node's status; the lab shows hardware virtualisation as present."""
    found: dict[str, Any] = {}
    for line in cpuinfo.read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        if name := CPUINFO_KEYS.get(key.strip()):
            found[name] = value.strip()
    if major == 8:  # both came with release 9
        found.pop("vendor", None)
        found.pop("family", None)
    return {
        **found,
        "cpus": cpus,
        "cores": max(1, cpus // sockets),
        "sockets": sockets,
        "hvm": "1",
        "user_hz": 100,
    }


def memory_info(total_bytes: int, major: int) -> dict[str, int]:
    """Memory of which as much is used as on the machine below; `available` came with release 9."""
    memory = psutil.virtual_memory()
    used = min(memory.total - memory.available, total_bytes)
    free = max(0, min(memory.free, total_bytes - used))
    figures = {"total": total_bytes, "used": used, "free": free}
    return figures if major == 8 else {**figures, "available": total_bytes - used}


def status(cpus: int, sockets: int, memory_bytes: int, version: str) -> dict[str, Any]:
    """GET /nodes/{node}/status."""
    system = platform.uname()
    major = int(version.split(".")[0])
    disk = shutil.disk_usage("/")
    swap = psutil.swap_memory()
    times = psutil.cpu_times_percent(interval=None)
    return {
        "cpu": round(psutil.cpu_percent(interval=None) / 100, 6),
        "idle": 0,
        "wait": round(times.iowait / 100, 6),
        "loadavg": [f"{load:.2f}" for load in os.getloadavg()],
        "cpuinfo": cpu_info(cpus, sockets, major),
        "memory": memory_info(memory_bytes, major),
        "swap": {"total": swap.total, "used": swap.used, "free": swap.free},
        "ksm": {"shared": 0},
        "rootfs": {
            "total": disk.total,
            "used": disk.used,
            "avail": disk.free,
            "free": disk.total - disk.used,
        },
        "uptime": uptime_s(),
        "kversion": f"{system.system} {system.release} {system.version}",
        "current-kernel": {
            "sysname": system.system,
            "release": system.release,
            "version": system.version,
            "machine": system.machine,
        },
        "boot-info": {"mode": "efi" if Path("/sys/firmware/efi").exists() else "legacy-bios"},
        "pveversion": f"pve-manager/{version}/0000000000000000",
    }


def uptime_s() -> int:
    """Seconds since the machine below was started."""
    return int(float(Path("/proc/uptime").read_text().split()[0]))
