"""Making the volumes that new drives ask for: empty, imported, cloud-init, EFI variables.

Source: qemu-server, PVE/API2/Qemu.pm (create_disks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vi_ops.lab import volume
from vi_ops.lab.api.qemu_rights import Caller
from vi_ops.lab.drive import (
    Drive,
    drives,
    format_disk_size,
    is_cloudinit,
    is_drive,
    new_disk,
    parse_drive,
    print_drive,
    storage_of,
)
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal
from vi_ops.lab.task import Log
from vi_ops.units import GIB, MIB

# Source: qemu-server, PVE/QemuServer/Drive.pm (TPMSTATE_DISK_SIZE).
_TPM_BYTES: Final = 4 * MIB


@dataclass
class _Work:
    """Drives being made for one VM. `made` are volids to be freed should a later one fail."""

    caller: Caller
    default_storage: str | None
    log: Log
    made: list[str] = field(default_factory=list)

    @property
    def node(self) -> Node:
        return self.caller.node

    def storage(self, name: str | None) -> str:
        chosen = name or self.default_storage
        if not chosen:
            raise Refusal(500, "no storage ID specified (and no default storage)")
        self.node.storage(chosen)
        return chosen


async def make_drives(
    settings: Mapping[str, str],
    existing: Mapping[str, str],
    caller: Caller,
    default_storage: str | None,
    log: Log,
) -> dict[str, str]:
    """Make what the drives in `settings` ask for, in sorted order; gives their values with volids and sizes.

    `existing` are the VM's options so far. When one fails, what was made before it is freed again.
    """
    work = _Work(caller, default_storage, log)
    done: dict[str, str] = {}
    try:
        for option in sorted(filter(is_drive, settings)):
            done[option] = await _make(option, parse_drive(settings[option]), {**existing, **done}, work)
    except BaseException:
        for volid in work.made:
            await volume.free(work.node, volid)
        raise
    return done


async def _make(option: str, drive: Drive, existing: Mapping[str, str], work: _Work) -> str:
    wanted = new_disk(drive)
    if drive["file"] in ("none", "cdrom"):
        return print_drive({key: value for key, value in drive.items() if key != "size"})
    if is_cloudinit(drive):
        _check_single_cloudinit(option, existing)
    if drive["file"].rpartition(":")[2] == "cloudinit":
        return await _make_cloudinit(option, drive, work)
    if not wanted:
        return await _attach(drive, work)
    storage = work.storage(wanted[0])
    source = drive.pop("import-from", None)
    if source:
        drive["file"], size_bytes = await _import(source, storage, drive, work)
    else:
        drive["file"], size_bytes = await _allocate(option, int(wanted[1] * GIB), storage, drive, work)
    work.made.append(drive["file"])
    drive.pop("format", None)
    text = print_drive({**drive, "size": format_disk_size(size_bytes)})
    work.log(f"{option}: successfully created disk '{text}'")
    return text


def _check_single_cloudinit(option: str, existing: Mapping[str, str]) -> None:
    for other, drive in drives(existing).items():
        if other != option and is_cloudinit(drive):
            raise GuestError(f"{option} - cloud-init drive is already attached at '{other}'")


async def _import(source: str, storage: str, drive: Drive, work: _Work) -> tuple[str, int]:
    return await volume.import_from(
        work.node, source, storage, work.caller.vmid, work.log, volume_format=drive.get("format")
    )


async def _allocate(option: str, size_bytes: int, storage: str, drive: Drive, work: _Work) -> tuple[str, int]:
    # A directory's default format is raw; sparse, so as thin as qcow2.
    suffix = drive.get("format", "raw")
    node, vmid = work.node, work.caller.vmid
    if option == "efidisk0":
        enrolled = drive.get("pre-enrolled-keys") == "1"
        return await volume.allocate_efidisk(
            node, storage, vmid, volume_format=suffix, enrolled=enrolled, log=work.log
        )
    if option == "tpmstate0":
        size_bytes = _TPM_BYTES
    volid = await volume.allocate(node, storage, vmid, size_bytes, volume_format=suffix, log=work.log)
    return volid, size_bytes


async def _make_cloudinit(option: str, drive: Drive, work: _Work) -> str:
    storage, suffix = work.storage(storage_of(drive["file"])), drive.pop("format", "qcow2")
    drive["file"] = await volume.allocate_cloudinit(
        work.node, storage, work.caller.vmid, volume_format=suffix, log=work.log
    )
    work.made.append(drive["file"])
    text = print_drive({**drive, "media": "cdrom"})
    work.log(f"{option}: successfully created disk '{text}'")
    return text


async def _attach(drive: Drive, work: _Work) -> str:
    if not volume.path(work.node, drive["file"]).exists():
        raise Refusal(500, f"volume {drive['file']} does not exist")
    size_bytes = await volume.size(work.node, drive["file"])
    return print_drive({**drive, "size": format_disk_size(size_bytes)})
