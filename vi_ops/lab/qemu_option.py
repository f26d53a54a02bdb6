"""What every part of QEMU's argument list needs: the config, its surroundings, quoting, the boot order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Config = Mapping[str, str | int]

# Two devices may come to a running guest before it has to be power cycled; the rest waits as pending.
SPARE_PORTS: Final = ("spare0", "spare1")
_FORMATS: Final = {".qcow2": "qcow2", ".raw": "raw", ".vmdk": "vmdk", ".iso": "raw", ".img": "raw"}


@dataclass(frozen=True)
class Surroundings:
    """What a config refers to: volumes, bridges (name to its CIDR), and the local port that leads to SSH."""

    locate: Callable[[str], Path]
    bridges: Mapping[str, str]
    ssh_port: int | None
    boots: bool = True


def is_q35(config: Config) -> bool:
    """Whether the machine is a q35; versions such as `pc-q35-9.2+pve1` are not pinned in the lab."""
    return "q35" in str(config.get("machine", "pc"))


def boot_order(config: Config) -> tuple[str, ...]:
    """Devices the firmware may boot from, first first. Only those listed are bootable."""
    return tuple(filter(None, re.sub(r"^order=", "", str(config.get("boot", ""))).split(";")))


def boot_index(key: str, order: tuple[str, ...]) -> str:
    """The device property that gives `key` its place in the boot order; empty when it is not listed."""
    return f",bootindex={100 + order.index(key)}" if key in order else ""


def volume_format(path: Path) -> str:
    """QEMU's name for a volume's format, from its suffix, as Proxmox tells it on a directory storage."""
    return _FORMATS.get(path.suffix, "raw")


def escape(value: object) -> str:
    """A value inside one of QEMU's option lists, where a comma is written twice."""
    return str(value).replace(",", ",,")


def root_port(name: str, chassis: int, place: str = "") -> list[str]:
    """A PCI Express port of a q35, which takes one device, also while the guest runs. `chassis` is unique."""
    return ["-device", f"pcie-root-port,id=port-{name},chassis={chassis},slot={chassis}{place}"]
