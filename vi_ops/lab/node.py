"""The lab's node: everything a handler may touch, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Node:
    """One lab node. `home` is the lab's folder; `release` is 8.4 or 9.2."""

    home: Path
    release: str
    name: str = "pve1"
