"""What of a VM's changed config holds at once and what waits for a power cycle. Pure.

Source: qemu-server, PVE/QemuServer.pm (vmconfig_hotplug_pending, vmconfig_apply_pending).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import options
from vi_ops.lab.drive import is_cdrom, is_drive, owner_of, parse_drive
from vi_ops.lab.nic import parse_nic
from vi_ops.lab.vm_config import VmConfig

_AT_ONCE: Final = frozenset(
    {
        *(
            "description",
            "hookscript",
            "hotplug",
            "lock",
            "migrate_downtime",
            "migrate_speed",
            "name",
            "onboot",
        ),
        *("protection", "shares", "startup", "tags", "vmstatestorage", "cpuunits", "cpulimit"),
        *options.CLOUDINIT,
    }
)
_DEFAULT_HOTPLUG: Final = frozenset({"network", "disk", "usb"})
# What QEMU can change on a drive without unplugging it.
_THROTTLES: Final = ("bps", "iops", "mbps")
# The drive's options that are notes for the node and mean nothing to QEMU.
_NOTES: Final = frozenset({"backup", "replicate", "shared", "size"})
# What of a NIC is settled at the bridge, outside the guest.
_BRIDGE_SIDE: Final = frozenset({"firewall", "rate", "tag", "trunks"})


def change(config: VmConfig, key: str, value: str) -> None:
    """Put a new value among the pending ones; a deletion that waited is forgotten."""
    config.pending[key] = value
    config.pending_delete.pop(key, None)


def delete(config: VmConfig, key: str, *, force: bool = False) -> None:
    """Put a deletion among the pending ones; a value that waited is forgotten."""
    config.pending.pop(key, None)
    config.pending_delete[key] = force


def clean(config: VmConfig) -> None:
    """Forget what is pending and changes nothing."""
    for key in [k for k, value in config.pending.items() if config.values.get(k) == value]:
        del config.pending[key]
    for key in [k for k in config.pending_delete if k not in config.values]:
        del config.pending_delete[key]


def revert(config: VmConfig, key: str, vmid: int) -> None:
    """Forget a pending value or deletion. A volume made for it becomes unused."""
    waiting = config.pending.pop(key, None)
    if waiting is not None and is_drive(key):
        release_volume(config, waiting, vmid, keep=config.values.get(key))
    config.pending_delete.pop(key, None)


def rows(config: VmConfig) -> Iterator[dict[str, Any]]:
    """Rows of `GET pending`: `value`, and `pending` or `delete` (1, or 2 for forced) where one waits."""
    for key in config.values:
        row: dict[str, Any] = {"key": key, "value": options.typed(key, config.values[key])}
        if key in config.pending_delete:
            row["delete"] = 2 if config.pending_delete[key] else 1
        elif key in config.pending:
            row["pending"] = options.typed(key, config.pending[key])
        yield row
    for key in config.pending.keys() - config.values.keys():
        yield {"key": key, "pending": options.typed(key, config.pending[key])}


def hotplug_features(values: Mapping[str, str]) -> frozenset[str]:
    """The words of `hotplug`; 1 (the default) stands for network, disk and usb."""
    text = values.get("hotplug", "1")
    if text == "1":
        return _DEFAULT_HOTPLUG
    return frozenset() if text == "0" else frozenset(re.split(r"[,;\s]+", text))


def holds_at_once(config: VmConfig, key: str) -> bool:
    """Whether the pending change of `key` needs nothing of the running guest's hardware."""
    old, new = config.values.get(key), config.pending.get(key)
    if key in _AT_ONCE or key.startswith("ipconfig"):
        return True
    if key == "balloon":
        return new is not None and old is not None and "0" not in (old, new)
    if key == "agent" and old and new:
        return _without(old, "fstrim_cloned_disks") == _without(new, "fstrim_cloned_disks")
    if is_drive(key) and old and new:
        return _is_note_or_throttle(parse_drive(old), parse_drive(new))
    if (options.split_index(key) or ("", 0))[0] == "net" and old and new:
        return _differing(parse_nic(old), parse_nic(new)) <= _BRIDGE_SIDE
    return False


def _without(agent: str, option: str) -> dict[str, str]:
    values = parse_property_string(agent, "enabled")
    return {key: value for key, value in values.items() if key != option}


def _is_note_or_throttle(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    return all(key in _NOTES or key.startswith(_THROTTLES) for key in _differing(old, new))


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def can_hotplug(config: VmConfig, key: str) -> bool:
    """Whether Proxmox plugs this device in or out while the guest runs: NICs, SCSI and virtio disks, USB.

    PCI devices, IDE, SATA, EFI disks, TPMs and serial ports always wait; so does a disk whose options change.
    """
    features = hotplug_features(config.values)
    if key.startswith("net"):
        return "network" in features
    if key.startswith("usb"):
        return "usb" in features and config.values.get("ostype") == "l26"
    if not key.startswith(("scsi", "virtio")) or not is_drive(key) or "disk" not in features:
        return False
    if key not in config.values or key not in config.pending:
        return not is_cdrom(parse_drive(config.values.get(key) or config.pending[key]))
    old, new = parse_drive(config.values[key]), parse_drive(config.pending[key])
    return old["file"] != new["file"] and not is_cdrom(old)


def is_medium_change(config: VmConfig, key: str) -> bool:
    """Whether the pending change puts another medium into a CD-ROM that stays."""
    old, new = config.values.get(key), config.pending.get(key)
    if not is_drive(key) or not old or not new:
        return False
    before, after = parse_drive(old), parse_drive(new)
    return is_cdrom(before) and is_cdrom(after) and after["file"] not in ("none", "cdrom", before["file"])


def apply(config: VmConfig, key: str, vmid: int, *, running: bool) -> list[str]:
    """Make one pending change hold. Gives the volids that are to be freed (a forced deletion).

    On a running VM the cloud-init drive is behind the config from then on; that is recorded.
    """
    old, new = config.values.get(key), config.pending.pop(key, None)
    force = config.pending_delete.pop(key, False)
    if running:
        record_cloudinit(config, key, old, new)
    freed: list[str] = []
    if new is None:
        config.values.pop(key, None)
    else:
        config.values[key] = new
    if old is not None and is_drive(key):
        freed = release_volume(config, old, vmid, keep=new, force=force)
    return freed


def apply_all(config: VmConfig, vmid: int) -> list[str]:
    """Make every pending change hold, as a stop or a start does. Gives the volids that are to be freed."""
    keys = [*sorted(config.pending_delete), *sorted(config.pending)]
    return [volid for key in keys for volid in apply(config, key, vmid, running=False)]


def release_volume(
    config: VmConfig, value: str, vmid: int, *, keep: str | None = None, force: bool = False
) -> list[str]:
    """Let go of a drive's volume: its own becomes `unusedN`, or (forced, or cloud-init) is to be freed."""
    drive = parse_drive(value)
    volid = drive["file"]
    if owner_of(volid) != vmid or (keep is not None and parse_drive(keep)["file"] == volid):
        return []
    if force or is_cdrom(drive):
        return [volid]
    if volid not in {config.values[key] for key in config.values if key.startswith("unused")}:
        slot = next(index for index in range(256) if f"unused{index}" not in config.values)
        config.values[f"unused{slot}"] = volid
    return []


def record_cloudinit(config: VmConfig, key: str, old: str | None, new: str | None) -> None:
    """Note in `[special:cloudinit]` how the drive's content differs from the config now.

    The drive has the value that was recorded, or none where `added` lists the option, or else the old one.
    """
    family = (options.split_index(key) or (key, 0))[0]
    if key not in options.CLOUDINIT and family not in ("name", "ipconfig", "net"):
        return
    added = {word for word in config.cloudinit.pop("added", "").split(",") if word}
    built_with = None if key in added else config.cloudinit.pop(key, old)
    added.discard(key)
    if new != built_with and built_with is None:
        added.add(key)
    elif new != built_with and built_with is not None:
        config.cloudinit[key] = built_with
    if added:
        config.cloudinit["added"] = ",".join(sorted(added))
