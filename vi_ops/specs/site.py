"""A site: every node and guest of one inventory, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vi_ops.errors import SpecError
from vi_ops.specs.check import SpecFinding
from vi_ops.specs.nearest import did_you_mean
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec


@dataclass(frozen=True)
class Site:
    """One inventory folder, validated. Keys are inventory names.

    `unmanaged` are VMs that are counted and never touched; `advice` are findings that block nothing.
    """

    path: Path
    nodes: Mapping[str, NodeSpec]
    vms: Mapping[str, VmSpec]
    unmanaged: Mapping[str, UnmanagedVmSpec] = field(default_factory=dict)
    advice: tuple[SpecFinding, ...] = ()

    def vmids_on(self, node: str) -> list[int]:
        """Of every VM that is described there, managed or not."""
        described: list[VmSpec | UnmanagedVmSpec] = [*self.vms.values(), *self.unmanaged.values()]
        return [one.vmid for one in described if one.node == node]

    def vm(self, host: str) -> VmSpec:
        """A managed VM by inventory name. Raises SpecError with the nearest name."""
        if vm := self.vms.get(host):
            return vm
        if host in self.unmanaged:
            raise SpecError(
                "vm-unmanaged",
                f"{host} is described with 'managed: false': vi-ops counts it and never touches it",
                hint=f"to hand it over, complete host_vars/{host}.yml and set 'managed: true'",
            )
        raise SpecError(
            "vm-unknown",
            f"no VM {host!r} in the group 'guests' of {self.path}",
            hint=did_you_mean(host, {**self.vms, **self.unmanaged}) or "add a host to 'guests' in hosts.yml",
        )

    def node(self, host: str) -> NodeSpec:
        """A node by inventory name. Raises SpecError with the nearest name."""
        if node := self.nodes.get(host):
            return node
        raise SpecError(
            "node-unknown",
            f"no node {host!r} in the group 'nodes' of {self.path}",
            hint=did_you_mean(host, self.nodes) or "add a host to 'nodes' in hosts.yml",
        )
