"""Where the files that are not code lie: at the top of a checkout, or inside an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def share_path(name: str) -> Path:
    """Path of `playbooks`, `templates`, `inventory/example` or `inventory/lab`."""
    packaged = _PACKAGE / "share" / name
    return packaged if packaged.exists() else _PACKAGE.parent / name
