"""How long the node itself gives a task, so that a client never gives up before the node does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.units import MIB

# The node's clock starts when the worker does; it also rebuilds the cloud-init drive and binds devices first.
MARGIN_S: Final = 30.0
# qemu-server, src/PVE/QemuServer.pm, vm_stop: quit, `timeout` (60 s), TERM, 10 s, KILL.
STOP_S: Final = 70.0
# qemu-server's default `timeout` of shutdown and reboot.
SHUTDOWN_S: Final = 60.0
# A shared HDD under load was taken as the slowest store worth waiting for.
_SLOWEST_STORE_BYTES_PER_S: Final = 10 * MIB


def start_timeout_s(
    memory_mib: int, *, nets: int = 0, hostpci: int = 0, hugepages: bool = False, resumes: bool = False
) -> int:
    """Seconds that the node gives QEMU to start.

    Source: qemu-server, src/PVE/QemuServer/Helpers.pm, config_aware_timeout.
    """
    timeout_s = memory_mib // 1024 if memory_mib > 30720 else 30
    if hostpci:
        timeout_s *= 4
    if resumes:
        timeout_s = max(timeout_s, 300)
    if hugepages:
        timeout_s = max(timeout_s, 150)
    return timeout_s + 5 * nets


def start_deadline_s(config: Mapping[str, str | int | float]) -> float:
    """Seconds to wait for a start task of a VM with this config: the node's own timeout and a margin."""
    return MARGIN_S + start_timeout_s(
        _memory_mib(config),
        nets=_count(config, "net"),
        hostpci=_count(config, "hostpci"),
        hugepages=bool(config.get("hugepages")),
        resumes=config.get("lock") == "suspended",
    )


def stop_deadline_s() -> float:
    """Seconds to wait for a hard stop."""
    return STOP_S + MARGIN_S


def shutdown_deadline_s(timeout_s: float = SHUTDOWN_S) -> float:
    """Seconds to wait for a shutdown that was given `timeout_s`; forceStop adds a stop."""
    return timeout_s + STOP_S + MARGIN_S


def copy_deadline_s(size_bytes: int) -> float:
    """Seconds to wait for a task that writes `size_bytes` to a storage: import, clone, restore, download."""
    return 300 + size_bytes / _SLOWEST_STORE_BYTES_PER_S


def _count(config: Mapping[str, object], key: str) -> int:
    return sum(re.fullmatch(rf"{key}\d+", name) is not None for name in config)


def _memory_mib(config: Mapping[str, object]) -> int:
    # A property string since release 8: `8192` or `current=8192`; 512 is Proxmox's default.
    text = parse_property_string(str(config.get("memory", "")), "current").get("current", "512")
    return int(float(text))
