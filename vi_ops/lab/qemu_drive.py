"""Drives of a VM as QEMU's arguments: backend, controller, device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from vi_ops.lab.drive import Drive, drives, is_cdrom
from vi_ops.lab.qemu_option import (
    Config,
    Surroundings,
    boot_index,
    boot_order,
    escape,
    is_q35,
    root_port,
    volume_format,
)

_SLOT: Final = re.compile(r"(ide|sata|scsi|virtio)(\d+)")
_CACHES: Final = {"writethrough": "writethrough", "directsync": "directsync", "unsafe": "unsafe"}
_SCSI_HARDWARE: Final = {"lsi": "lsi", "megasas": "megasas", "pvscsi": "pvscsi"}


def drive_arguments(config: Config, around: Surroundings) -> list[str]:
    """Arguments for every disk and CD-ROM; a guest that shall not boot has no disks."""
    values = {key: str(value) for key, value in config.items()}
    slots = {name: drive for name, drive in drives(values).items() if _SLOT.fullmatch(name)}
    argv = _shared_controllers(slots, str(config.get("scsihw", "lsi")))
    for name, drive in slots.items():
        if around.boots or is_cdrom(drive):
            argv += one_drive(name, drive, config, around)
    return argv


def one_drive(name: str, drive: Drive, config: Config, around: Surroundings) -> list[str]:
    """Arguments for one drive: what its controller needs, the backend `drive-<name>`, the device `<name>`."""
    controller, device = _attachment(name, drive, config)
    device += f",drive=drive-{name},id={name}{_traits(name, drive)}"
    device += boot_index(name, boot_order(config))
    return [*controller, "-drive", _backend(name, drive, around), "-device", device]


def _shared_controllers(disks: Mapping[str, Drive], hardware: str) -> list[str]:
    argv = ["-device", "ahci,id=ahci0"] if any(name.startswith("sata") for name in disks) else []
    if hardware != "virtio-scsi-single" and any(name.startswith("scsi") for name in disks):
        argv += ["-device", f"{_SCSI_HARDWARE.get(hardware, 'virtio-scsi-pci')},id=scsihw0"]
    return argv


def _backend(name: str, drive: Drive, around: Surroundings) -> str:
    words = [f"if=none,id=drive-{name}"]
    if drive["file"] not in {"none", "cdrom"}:
        path = around.locate(drive["file"])
        words += [f"file={escape(path)}", f"format={volume_format(path)}"]
    if is_cdrom(drive):
        return ",".join([*words, "media=cdrom"])
    # Proxmox's default is cache=none; not every file system that a lab may lie on knows O_DIRECT.
    words.append(f"cache={_CACHES.get(drive.get('cache', 'none'), 'writeback')}")
    if drive.get("discard") == "on":
        words.append("discard=unmap,detect-zeroes=unmap")
    if drive.get("ro") == "1":
        words.append("readonly=on")
    return ",".join(words)


def _traits(name: str, drive: Drive) -> str:
    if is_cdrom(drive):
        return ""
    traits = ",rotation_rate=1" if drive.get("ssd") == "1" and not name.startswith("virtio") else ""
    return traits + (f",serial={escape(unquote(drive['serial']))}" if "serial" in drive else "")


def _attachment(name: str, drive: Drive, config: Config) -> tuple[list[str], str]:
    """What a drive's own controller needs, and the device with its place on the bus."""
    match = _SLOT.fullmatch(name)
    assert match  # noqa: S101  only names that match get here
    bus, index = match[1], int(match[2])
    kind = "cd" if is_cdrom(drive) else "hd"
    if bus == "virtio":
        thread, of = _iothread(name, drive)
        port, place = _port(name, 100 + index, config)
        return [*port, *thread], f"virtio-blk-pci{of}{place}"
    if bus == "scsi" and config.get("scsihw") == "virtio-scsi-single":
        thread, of = _iothread(f"virtioscsi{index}", drive)
        port, place = _port(name, 50 + index, config)
        return [*port, *thread, "-device", f"virtio-scsi-pci,id=virtioscsi{index}{of}{place}"], (
            f"scsi-{kind},bus=virtioscsi{index}.0,channel=0,scsi-id=0,lun={index}"
        )
    if bus == "scsi":
        return [], f"scsi-{kind},bus=scsihw0.0,scsi-id={index}"
    if bus == "sata":
        return [], f"ide-{kind},bus=ahci0.{index}"
    # q35's own controller has one drive to a port, PIIX two.
    place = f"bus=ide.{index}" if is_q35(config) else f"bus=ide.{index // 2},unit={index % 2}"
    return [], f"ide-{kind},{place}"


def _port(name: str, chassis: int, config: Config) -> tuple[list[str], str]:
    """A port of its own, so that the disk may go while the guest runs; what the guest boots from stays."""
    if not is_q35(config) or name in boot_order(config):
        return [], ""
    return root_port(name, chassis), f",bus=port-{name},addr=0x0"


def _iothread(name: str, drive: Drive) -> tuple[list[str], str]:
    if drive.get("iothread") != "1":
        return [], ""
    return ["-object", f"iothread,id=iothread-{name}"], f",iothread=iothread-{name}"
