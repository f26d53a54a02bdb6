"""Sizes with their units. Proxmox counts in powers of 1024; so does everything here."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
TIB: Final = 1024**4

_NAMES: Final = {"TiB": TIB, "GiB": GIB, "MiB": MIB, "KiB": KIB}
_FACTORS: Final = {**_NAMES, **{name[0]: factor for name, factor in _NAMES.items()}}
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Bytes of `150 GiB`, `150GiB` or `150G`. Raises ValueError, with the remedy, for anything else.

    `GB` is refused on purpose: a disk maker's 150 GB are 139.7 GiB, and Proxmox's `memory` counts in MiB.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"expected a size with its unit, such as '16 GiB', got {text!r}")
    number, unit = match.groups()
    if unit not in _FACTORS:
        initial = unit[0].upper()
        meant = f"; did you mean '{number} {initial}iB'?" if initial in "KMGT" else ""
        raise ValueError(f"unknown unit {unit!r} in {text!r}: use {', '.join(reversed(_NAMES))}{meant}")
    size = Fraction(number) * _FACTORS[unit]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """For reading: the largest unit, rounded to one decimal: `150 GiB`, `1.5 GiB`, `754 MiB`, `12 B`."""
    for unit, factor in _NAMES.items():
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """For writing: the largest unit that needs no decimals, so that `parse_size` gives the same bytes back.

    Raises ValueError where that would need bytes.
    """
    for unit, factor in _NAMES.items():
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    raise ValueError(f"{size_bytes} bytes are not whole KiB")
