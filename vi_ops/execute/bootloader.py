"""GRUB in a disk image, without mounts: the boot sector for BIOS and the files of the ESP."""

from __future__ import annotations

import struct
from typing import Final

SECTOR_BYTES: Final = 512

# Offsets in boot.img and diskboot.img: GRUB, include/grub/i386/pc/boot.h.
_BOOT_CODE_BYTES: Final = 440
_KERNEL_SECTOR: Final = 0x5C
_DRIVE_CHECK: Final = 0x66
_FIRST_BLOCKLIST: Final = 0x1F4


def boot_sector(boot_img: bytes, core_start_bytes: int) -> bytes:
    """The 440 bytes of boot code that load the core image found at that offset of the disk.

    The drive check is replaced by two NOPs, as grub-bios-setup does for hard disks: some BIOSes pass drive 0.
    """
    code = bytearray(boot_img[:_BOOT_CODE_BYTES])
    struct.pack_into("<Q", code, _KERNEL_SECTOR, core_start_bytes // SECTOR_BYTES)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(code)


def embedded_core(core_img: bytes, core_start_bytes: int) -> bytes:
    """The core image with its first block list pointing at the sector behind its own first one."""
    core = bytearray(core_img)
    struct.pack_into("<Q", core, _FIRST_BLOCKLIST, core_start_bytes // SECTOR_BYTES + 1)
    return bytes(core)
