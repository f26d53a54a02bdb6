"""Drives of a VM as their property strings: what is a CD-ROM, what is cloud-init, what is to be made.

Source: qemu-server, PVE/QemuServer/Drive.pm (parse_drive, print_drive, NEW_DISK_RE, drive_is_cloudinit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

from vi_ops.facts.property_string import format_property_string, parse_property_string

_NAME: Final = re.compile(r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0")
_NEW_DISK: Final = re.compile(r"(?:(?P<storage>[^/:\s]+):)?(?P<size>\d+(?:\.\d+)?)")
_CLOUDINIT: Final = re.compile(r"(?:[^/:\s]+:)?cloudinit|.*[/:]vm-\d+-cloudinit(?:\.raw|\.qcow2)?")
_OWNER: Final = re.compile(r"(?:vm|base)-(\d+)-")
_BOOLEAN: Final = frozenset(
    {
        "backup",
        "detect_zeroes",
        "iothread",
        "pre-enrolled-keys",
        "replicate",
        "ro",
        "scsiblock",
        "shared",
        "snapshot",
        "ssd",
    }
)
_TRUE: Final = frozenset({"1", "on", "yes", "true"})
_ALIASES: Final = {"volume": "file"}
# Proxmox looks for the first disk and CD-ROM in this order (Drive.pm, valid_drive_names_for_boot).
_BOOT_BUSES: Final = (("ide", 4), ("scsi", 31), ("virtio", 16), ("sata", 6))

Drive = dict[str, str]


def is_drive(option: str) -> bool:
    """Whether an option names a drive; unusedN does not count."""
    return _NAME.fullmatch(option) is not None


def parse_drive(text: str) -> Drive:
    """Options of a drive, its volume as `file`. Raises FactError for what is no property string."""
    values = parse_property_string(text, "file")
    return {_ALIASES.get(key, key): _word(key, value) for key, value in values.items()}


def _word(key: str, value: str) -> str:
    if key in _BOOLEAN:
        return "1" if value.lower() in _TRUE else "0"
    return value


def print_drive(drive: Mapping[str, str]) -> str:
    """The canonical text: the volume first and bare, the options by name."""
    return format_property_string({key: drive[key] for key in sorted(drive)}, "file")


def is_cloudinit(drive: Mapping[str, str]) -> bool:
    """Whether this is (or asks for) the cloud-init drive."""
    return _CLOUDINIT.fullmatch(drive.get("file", "")) is not None


def is_cdrom(drive: Mapping[str, str]) -> bool:
    """Whether this is a CD-ROM; the cloud-init drive is one, also before it exists."""
    return drive.get("media") == "cdrom" or is_cloudinit(drive)


def new_disk(drive: Mapping[str, str]) -> tuple[str | None, float] | None:
    """(storage or None, GiB) where the volume is still to be made: `local:32`, `32`."""
    match = _NEW_DISK.fullmatch(drive.get("file", ""))
    return (match["storage"], float(match["size"])) if match else None


def storage_of(volid: str) -> str | None:
    """The storage of a volume id, None for a path or a bare word."""
    storage, colon, _ = volid.partition(":")
    return storage if colon and "/" not in storage else None


def owner_of(volid: str) -> int | None:
    """The VM that a volume's name belongs to. Source: pve-storage, naming of images."""
    match = _OWNER.match(volid.rpartition("/")[2].rpartition(":")[2])
    return int(match[1]) if match else None


def format_disk_size(size_bytes: int) -> str:
    """The largest unit that divides evenly, K M G T without B: `528K`, `2400M`, `3G`."""
    units = ["", "K", "M", "G", "T"]
    while len(units) > 1 and size_bytes >= 1024 and size_bytes % 1024 == 0:
        size_bytes //= 1024
        units.pop(0)
    return f"{size_bytes}{units[0]}"


def parse_disk_size(text: str) -> int:
    """Bytes of `528K` or `2.5G`; a bare number is bytes. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    if not match:
        raise ValueError(f"no disk size: {text!r}")
    return int(Decimal(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def drives(values: Mapping[str, str]) -> dict[str, Drive]:
    """All drives of a config, by name, in sorted order (the order in which Proxmox allocates them)."""
    return {key: parse_drive(values[key]) for key in sorted(values) if is_drive(key)}


def boot_order(values: Mapping[str, str]) -> list[str]:
    """The devices that the VM boots from, first first; the old letters (`cdn`) name none."""
    order = parse_property_string(values.get("boot", ""), "legacy").get("order", "")
    return [name for name in order.split(";") if name]


def boot_disk(values: Mapping[str, str]) -> str | None:
    """The drive whose size counts as the VM's: first in the boot order, else the first there is."""
    listed = [key for key in boot_order(values) if is_drive(key)]
    return _first(listed, values, cdrom=False) or _first(_boot_names(), values, cdrom=False)


def default_boot_order(values: Mapping[str, str]) -> str:
    """`order=` with the first disk, the first CD-ROM and the first NIC, as create sets it."""
    first_nic = next((f"net{index}" for index in range(32) if f"net{index}" in values), None)
    found = (_first(_boot_names(), values, cdrom=False), _first(_boot_names(), values, cdrom=True), first_nic)
    return "order=" + ";".join(name for name in found if name)


def _boot_names() -> list[str]:
    return [f"{bus}{index}" for bus, count in _BOOT_BUSES for index in range(count)]


def _first(names: Iterable[str], values: Mapping[str, str], *, cdrom: bool) -> str | None:
    return next((key for key in names if key in values and is_cdrom(parse_drive(values[key])) is cdrom), None)
