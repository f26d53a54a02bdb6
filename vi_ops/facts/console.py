"""What a guest's serial console says: how far the boot is, and its last lines as plain text."""

from __future__ import annotations

import re
from enum import IntEnum

# Control sequences of a terminal (ECMA-48 CSI and OSC), the way firmware and boot loaders send them.
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_()][0-9A-Za-z]?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_KERNEL = re.compile(r"Linux version |^\s*\[ *\d+\.\d{6}\] |systemd\[1\]|Welcome to ", re.MULTILINE)
# A boot that gave up has nothing more to say: older lines are of an earlier one.
_LAST_LINES = 12
_LOGIN = re.compile(r"^\S+ login: *$", re.MULTILINE)
# What OVMF, SeaBIOS, the UEFI shell and GRUB print when they go no further by themselves.
_NO_BOOT = re.compile(
    r"No bootable (?:option or )?device[^\n.]*|UEFI Interactive Shell|^Shell>|^grub(?: rescue)?>",
    re.MULTILINE,
)


class BootStage(IntEnum):
    """How far a boot is. A later stage includes the earlier ones."""

    SILENT = 0
    FIRMWARE = 1
    KERNEL = 2
    LOGIN = 3


def plain_lines(text: str, count: int | None = None) -> list[str]:
    """The last `count` lines that are not blank (all with None), without control sequences."""
    bare = _CONTROL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    lines = [line.rstrip() for line in bare.split("\n") if line.strip()]
    return lines if count is None else lines[-count:]


def boot_stage(text: str) -> BootStage:
    """How far the boot is whose console text this is; anything printed at all comes from the firmware."""
    lines = "\n".join(plain_lines(text))
    if _LOGIN.search(lines):
        return BootStage.LOGIN
    if _KERNEL.search(lines):
        return BootStage.KERNEL
    return BootStage.FIRMWARE if lines else BootStage.SILENT


def no_boot(text: str) -> str | None:
    """Where firmware or boot loader gave up, in its own words; None while it is at work."""
    found = _NO_BOOT.findall("\n".join(plain_lines(text, _LAST_LINES)))
    return str(found[-1]).strip() if found else None
