"""Devices that come and go, with a real QEMU in its firmware; test_guest_boot.py has what needs a kernel."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from vi_ops.lab import accelerator, guest, hotplug, volume
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.units import GIB, MIB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
    ),
]
VMID = 106
SCSI: Mapping[str, str | int] = {"memory": 64, "scsihw": "virtio-scsi-pci"}
Q35: Mapping[str, str | int] = {"memory": 64, "machine": "q35"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    async def no(_home: Path) -> bool:
        return False

    monkeypatch.setattr(accelerator, "has_kvm", no)
    node = Node(tmp_path / "lab", "9.2")
    yield node
    asyncio.run(guest.stop(node, VMID, 5))


def start(node: Node, config: Mapping[str, str | int]) -> None:
    asyncio.run(guest.start(node, VMID, config, lambda _text: None))


def disk(node: Node, **more: str) -> dict[str, str | int]:
    return {**SCSI, "scsi0": asyncio.run(volume.allocate(node, "local", VMID, MIB)), **more}


def plug(node: Node, config: Mapping[str, str | int], name: str) -> None:
    asyncio.run(hotplug.plug(node, VMID, config, name))


def test_a_disk_comes_grows_goes_and_comes_back(node: Node) -> None:
    volid = asyncio.run(volume.allocate(node, "local", VMID, GIB))
    config = disk(node)
    start(node, config)
    config["scsi1"] = f"{volid},discard=on,size=1G"

    for _ in range(2):
        plug(node, config, "scsi1")
        with pytest.raises(GuestError):
            asyncio.run(volume.resize(node, volid, 4 * GIB))  # QEMU holds it: only through QEMU it grows
        asyncio.run(hotplug.unplug(node, VMID, "scsi1"))
        asyncio.run(volume.resize(node, volid, 2 * GIB))

    plug(node, config, "scsi1")
    asyncio.run(guest.resize_disk(node, VMID, "scsi1", volid, 3 * GIB))
    assert asyncio.run(volume.size(node, volid)) == 3 * GIB


def test_a_plug_that_fails_leaves_nothing_behind(node: Node) -> None:
    config = disk(node, scsi1="local:106/nope.raw")
    start(node, {key: value for key, value in config.items() if key != "scsi1"})

    for _ in range(2):
        with pytest.raises(GuestError, match="No such file or directory"):
            plug(node, config, "scsi1")
    config["scsi1"] = asyncio.run(volume.allocate(node, "local", VMID, MIB))
    plug(node, config, "scsi1")


def test_a_q35_takes_two_devices_more_and_says_when_it_is_full(node: Node) -> None:
    start(node, Q35)
    nics = {f"net{i}": f"virtio=BC:24:11:00:00:0{i},bridge=vmbr0" for i in range(4)}

    plug(node, {**Q35, **nics}, "net1")
    plug(node, {**Q35, **nics}, "net2")
    for _ in range(2):
        with pytest.raises(GuestError, match=r"occupied|ocuppied|in use|not available"):
            plug(node, {**Q35, **nics}, "net3")


def test_a_card_of_a_guest_without_a_kernel_does_not_go(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    # net1: no port of this machine is forwarded to it
    config = {**Q35, "net1": "virtio=BC:24:11:00:00:01,bridge=vmbr0"}
    start(node, config)
    monkeypatch.setattr(hotplug, "_UNPLUG_S", 0.5)

    with pytest.raises(GuestError, match=r"^error unplugging device 'net1-card'$"):
        asyncio.run(hotplug.unplug(node, VMID, "net1"))


def test_a_stopped_guest_takes_nothing(node: Node) -> None:
    with pytest.raises(GuestError, match=r"^VM 106 not running$"):
        plug(node, {**Q35, "net0": "virtio,bridge=vmbr0"}, "net0")
