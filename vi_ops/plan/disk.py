"""The system disk: grown when the spec grows, never shrunk, moved or replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.facts.vm import ConfigValue
from vi_ops.plan.step import Finding, PveCall, Step
from vi_ops.plan.vm_config import SYSTEM_DISK
from vi_ops.specs.vm import VmSpec
from vi_ops.units import GIB, KIB, MIB, TIB, format_size, parse_size

# Source: qemu-server, src/PVE/QemuServer/Drive.pm, drive_is_cloudinit.
_CLOUD_INIT: Final = re.compile(r"[:/](vm-\d+-)?cloudinit(\.\w+)?$")
# LVM rounds up to whole extents, of 4 MiB unless the volume group was made otherwise. Source: vgcreate(8).
_ROUNDED_BYTES: Final = 64 * MIB
_DISK_BUSES: Final = ("scsi", "virtio", "sata", "ide", "unused")


@dataclass(frozen=True)
class Disk:
    """One drive of a config. `size` is the node's text, such as `150G`; None where it does not say."""

    key: str
    volid: str
    size: str | None
    is_cdrom: bool

    @property
    def size_bytes(self) -> int | None:
        """A number without a unit is in bytes. Source: pve-common, src/PVE/JSONSchema.pm, parse_size."""
        if not self.size:
            return None
        return int(self.size) if self.size.isdecimal() else parse_size(self.size)

    def is_larger_than(self, size_bytes: int) -> bool:
        """Whether it is larger by more than what a storage rounds up."""
        return self.size_bytes is not None and self.size_bytes > size_bytes + _ROUNDED_BYTES

    @property
    def storage(self) -> str:
        return self.volid.partition(":")[0]

    @property
    def is_cloud_init(self) -> bool:
        return _CLOUD_INIT.search(self.volid) is not None

    @property
    def may_hold_data(self) -> bool:
        return not self.is_cdrom and not self.key.startswith(("efidisk", "tpmstate"))


def disks_of(config: Mapping[str, ConfigValue]) -> dict[str, Disk]:
    """The drives of a config by key, detached ones (`unusedN`) and EFI and TPM volumes included."""
    disks: dict[str, Disk] = {}
    for key, value in sorted(config.items()):
        bus = key.rstrip("0123456789")
        if key in {bus, "scsihw"} or bus not in (*_DISK_BUSES, "efidisk", "tpmstate"):
            continue
        options = parse_property_string(str(value), "file")
        is_cdrom = options.get("media") == "cdrom"
        disks[key] = Disk(key, options["file"], options.get("size"), is_cdrom)
    return disks


def system_disk_of(config: Mapping[str, ConfigValue]) -> Disk | None:
    """scsi0, where it is a disk."""
    disk = disks_of({key: config[key] for key in (SYSTEM_DISK,) if key in config}).get(SYSTEM_DISK)
    return disk if disk and not disk.is_cdrom else None


def resize_step(spec: VmSpec, node: str, why: str) -> Step:
    """Bring the system disk to its size. The node refuses to shrink and accepts an equal size."""
    return Step(
        key=f"{spec.host}/resize",
        do=PveCall(
            "PUT",
            f"/nodes/{node}/qemu/{spec.vmid}/resize",
            {"disk": SYSTEM_DISK, "size": node_size(spec.disk.size)},
        ),
        because=why,
        title=f"Ensure {SYSTEM_DISK} has {format_size(spec.disk.size)}",
    )


def node_size(size_bytes: int) -> str:
    """A size as Proxmox writes it: the largest unit that divides it, without `iB`."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def shrink_refused(spec: VmSpec, present_bytes: int) -> Finding:
    """Proxmox cannot shrink a disk, and the data at its end would be gone."""
    return Finding(
        "vm-disk-shrink",
        f"{SYSTEM_DISK} has {format_size(present_bytes)}, the inventory says"
        f" {format_size(spec.disk.size)}; a disk is never shrunk",
        hint=f"set disk.size to '{format_size(present_bytes)}' or more; for less, make a new VM",
    )
