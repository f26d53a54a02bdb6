"""Sizes with their units. Proxmox counts in powers of 1024; so does everything here."""

from __future__ import annotations

import re
from typing import Final

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
TIB: Final = 1024**4

_FACTORS: Final = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Bytes of `150 GiB`, `150GiB` or `150G`. Raises ValueError, with the remedy, for anything else.

    `GB` is refused on purpose: a disk maker's 150 GB are 139.7 GiB, and Proxmox's `memory` counts in MiB.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"expected a size with its unit, such as '16 GiB', got {text!r}")
    number, unit = match.groups()
    if unit not in _FACTORS:
        known = "KiB, MiB, GiB or TiB"
        meant = f"; did you mean '{number} {unit[0].upper()}iB'?" if unit[0].upper() in "KMGT" else ""
        raise ValueError(f"unknown unit {unit!r} in {text!r}: use {known} (powers of 1024){meant}")
    size = float(number) * _FACTORS[unit]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """The largest unit that needs at most one decimal: `150 GiB`, `1.5 GiB`, `754 MiB`."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"
