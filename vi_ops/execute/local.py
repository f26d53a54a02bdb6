"""This machine, seen from outside the lab: the only importer of psutil there."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write below `path`, which need not exist yet."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return int(psutil.disk_usage(str(there)).free)


def may_use_kvm(device: Path = Path("/dev/kvm")) -> bool:
    """Whether this user may open /dev/kvm. That it works is proven by a guest that boots, not by this."""
    return os.access(device, os.R_OK | os.W_OK)
