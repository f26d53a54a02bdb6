"""What looking asks beyond the node: the rest of the cluster, and only where a VM is absent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_pve import FakePve, node_spec, serve_fake
from vi_ops.execute.look import look_around
from vi_ops.execute.pve import Pve, connect
from vi_ops.facts.node import NodeFacts
from vi_ops.facts.vm import VmFacts

NODE = NodeFacts("pve1", "9.2", "9.2.4", 2, 2**34, 2**30)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as serving:
        serving.on("GET", "/cluster/resources", [{"type": "qemu", "vmid": 106, "node": "pve2", "name": "x"}])
        yield serving


@pytest.fixture
def pve(fake: FakePve) -> Iterator[Pve]:
    with connect(node_spec(fake, ca_file=str(fake.home / "node.pem")), state_dir=fake.home) as api:
        yield api


def test_an_absent_vm_may_be_elsewhere(fake: FakePve, pve: Pve) -> None:
    assert look_around(pve, NODE, [VmFacts(105, "pve1", "running"), None]).taken == {106: "VM x on pve2"}
    assert [seen.params for seen in fake.seen] == [{"type": "vm"}]


def test_where_every_vm_is_there_nothing_more_is_asked(fake: FakePve, pve: Pve) -> None:
    assert look_around(pve, NODE, [VmFacts(106, "pve1", "running")]) is NODE
    assert fake.seen == []
