"""This machine: its processes, memory and disks. The only importer of psutil outside the lab."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write below `path`, which need not exist yet."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return int(psutil.disk_usage(str(there)).free)


def memory_available_bytes() -> int:
    """Bytes that can be used without swapping: MemAvailable."""
    return int(psutil.virtual_memory().available)


def may_use_kvm(device: Path = Path("/dev/kvm")) -> bool:
    """Whether this user may open /dev/kvm. That it works is proven by a guest that boots, not by this."""
    return os.access(device, os.R_OK | os.W_OK)
