"""A site: every node and guest of one inventory, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vi_ops.specs.node import NodeSpec
from vi_ops.specs.vm import VmSpec


@dataclass(frozen=True)
class Site:
    """One inventory folder, validated. Keys are inventory names."""

    path: Path
    nodes: Mapping[str, NodeSpec]
    vms: Mapping[str, VmSpec]
