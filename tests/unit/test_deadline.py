"""The node's own timeouts, by its own arithmetic."""

from __future__ import annotations

import pytest

from vi_ops.plan.deadline import (
    MARGIN_S,
    copy_deadline_s,
    shutdown_deadline_s,
    start_deadline_s,
    start_timeout_s,
    stop_deadline_s,
)
from vi_ops.units import GIB


@pytest.mark.parametrize(
    ("config", "expected_s"),
    [
        ({}, 30),
        ({"memory": "30720"}, 30),
        ({"memory": "30721"}, 30),
        ({"memory": "31744"}, 31),
        ({"memory": "65536", "net0": "virtio", "net1": "virtio"}, 64 + 10),
        ({"memory": "16384", "hostpci0": "mapping=gpu", "net0": "virtio"}, 125),
        ({"memory": "32768", "hostpci0": "mapping=gpu", "hostpci1": "mapping=b", "net0": "virtio"}, 133),
        ({"memory": "current=65536", "hostpci0": "mapping=gpu", "net0": "virtio"}, 261),
        ({"memory": "2048", "hugepages": "2"}, 150),
        ({"memory": "2048", "hugepages": "2", "lock": "suspended"}, 300),
        ({"memory": "524288", "hostpci0": "x", "hugepages": "1024", "lock": "suspended"}, 2048),
        ({"memory": 2048, "netmask": "x", "hostpci": "x"}, 30),
    ],
)
def test_a_start_gets_what_the_node_gives_it_and_a_margin(
    config: dict[str, str | int | float], expected_s: int
) -> None:
    # Values worked out by hand from qemu-server, src/PVE/QemuServer/Helpers.pm, config_aware_timeout.
    assert start_deadline_s(config) == expected_s + MARGIN_S


def test_a_start_by_numbers() -> None:
    assert start_timeout_s(32768, nets=1, hostpci=1) == 133


def test_we_never_give_up_before_the_node_does() -> None:
    assert stop_deadline_s() > 60 + 10
    assert shutdown_deadline_s(180) > 180 + 60 + 10
    assert copy_deadline_s(0) > 60
    assert copy_deadline_s(150 * GIB) > 150 * GIB / 20e6
