"""A real guest, from the cached image to a clean shutdown: agent, address, growth, SSH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import platformdirs
import pytest

from vi_ops.lab import console, guest, hotplug, volume
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.store import write_json
from vi_ops.units import GIB

VMID = 106
CACHE = Path(os.environ.get("VI_OPS_CACHE_DIR", platformdirs.user_cache_path("vi-ops")))
IMAGE = CACHE / "images" / "debian-13.qcow2"
# A boot takes 40 s alone on two cores under TCG; the suite may share them with another guest.
BOOT_DEADLINE_S = 240.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(not IMAGE.exists(), reason="no guest image is built: vi-ops image build debian-13"),
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
    ),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def config(node: Node, key: str) -> dict[str, str | int]:
    efidisk, _ = await volume.allocate_efidisk(node, "local", VMID)
    disk, _ = await volume.import_from(node, str(IMAGE), "local", VMID)
    await volume.resize(node, disk, 6 * GIB)
    seed = await volume.allocate_cloudinit(node, "local", VMID)
    return {
        "agent": 1,
        "bios": "ovmf",
        "boot": "order=scsi0;ide2;net0",
        "ciupgrade": 0,
        "ciuser": "smith",
        "cores": 2,
        "efidisk0": f"{efidisk},efitype=4m,pre-enrolled-keys=0",
        "ide2": f"{seed},media=cdrom",
        "ipconfig0": "ip=192.168.1.106/24,gw=192.168.1.1",
        "machine": "q35",
        "memory": "1024",
        "name": "video-intelligence",
        "nameserver": "192.168.1.1",
        "net0": "virtio=BC:24:11:5D:A6:1C,bridge=vmbr0",
        "scsi0": f"{disk},discard=on,iothread=1",
        "scsihw": "virtio-scsi-single",
        "serial0": "socket",
        "sshkeys": quote(key, safe=""),
    }


async def wait_for_agent(node: Node) -> None:
    until = time.monotonic() + BOOT_DEADLINE_S
    while time.monotonic() < until:
        with contextlib.suppress(GuestError):
            await guest.agent(node, VMID, "guest-ping", timeout_s=2)
            return
        await asyncio.sleep(0.5)
    pytest.fail("no agent; the console's last lines:\n" + "\n".join(console.last_lines(node.log_dir, VMID)))


async def inside(node: Node, *argv: str) -> Any:
    """Run a command in the guest through its agent and give the exit status once it has ended."""
    started = await guest.agent(
        node, VMID, "guest-exec", {"path": argv[0], "arg": argv[1:], "capture-output": True}
    )
    until = time.monotonic() + BOOT_DEADLINE_S
    while True:
        ended = await guest.agent(node, VMID, "guest-exec-status", {"pid": started["pid"]})
        if ended["exited"]:
            return ended["exitcode"]
        assert time.monotonic() < until, f"{argv} does not end"
        await asyncio.sleep(0.5)


async def macs(node: Node) -> set[str]:
    cards = await guest.agent(node, VMID, "guest-network-get-interfaces")
    return {card["hardware-address"] for card in cards if "hardware-address" in card}


async def disks(node: Node) -> int:
    return len(await guest.agent(node, VMID, "guest-get-disks"))


async def becomes(ask: Callable[[], Awaitable[bool]], what: str) -> None:
    until = time.monotonic() + 60
    while not await ask():
        assert time.monotonic() < until, what
        await asyncio.sleep(0.5)


async def plug_and_unplug(node: Node, settings: dict[str, str | int]) -> None:
    """A card and a disk come to the running guest and go again; its port serves again."""
    mac, other = "bc:24:11:00:00:01", "bc:24:11:00:00:02"
    volid = await volume.allocate(node, "local", VMID, GIB)
    before = await disks(node)
    settings |= {"net1": f"virtio={mac.upper()},bridge=vmbr0", "scsi1": f"{volid},iothread=1"}

    await hotplug.plug(node, VMID, settings, "net1")
    await hotplug.plug(node, VMID, settings, "scsi1")
    await becomes(lambda: contains(node, mac), "the guest does not see its new card")
    await becomes(lambda: count(node, before + 1), "the guest does not see its new disk")
    await guest.resize_disk(node, VMID, "scsi1", volid, 2 * GIB)
    with pytest.raises(GuestError):
        await hotplug.plug(node, VMID, {**settings, "scsi2": f"{volid}"}, "scsi2")

    await hotplug.unplug(node, VMID, "net1")
    await hotplug.unplug(node, VMID, "scsi1")
    assert mac not in await macs(node)
    assert await disks(node) == before
    settings["net1"] = f"virtio={other.upper()},bridge=vmbr0"
    await hotplug.plug(node, VMID, settings, "net1")
    await becomes(lambda: contains(node, other), "the port was not free again")


async def count(node: Node, wanted: int) -> bool:
    return await disks(node) == wanted


async def contains(node: Node, mac: str) -> bool:
    return mac in await macs(node)


def test_a_guest_from_image_to_clean_shutdown(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    port = free_port()
    write_json(tmp_path / "lab" / "lab.json", {"ssh_port_base": port - VMID})
    node = Node(tmp_path / "lab", "9.2")

    async def live() -> None:
        settings = await config(node, (tmp_path / "key.pub").read_text())
        await guest.start(node, VMID, settings, lambda _text: None)
        await wait_for_agent(node)
        # 2 is done with remarks: cloud-init calls Proxmox's own `user: <name>` deprecated since 22.2.
        assert await inside(node, "cloud-init", "status", "--wait") in {0, 2}
        cards = await guest.agent(node, VMID, "guest-network-get-interfaces")
        (card,) = [c for c in cards if c.get("hardware-address") == "bc:24:11:5d:a6:1c"]
        assert "192.168.1.106" in [address["ip-address"] for address in card["ip-addresses"]]
        (root,) = [fs for fs in await guest.agent(node, VMID, "guest-get-fsinfo") if fs["mountpoint"] == "/"]
        assert root["total-bytes"] > 5 * GIB, "the root did not grow into its disk"
        await plug_and_unplug(node, settings)

    try:
        asyncio.run(live())
        said = subprocess.run(
            [
                *("ssh", "-q", "-i", tmp_path / "key", "-p", str(port), "-o", "BatchMode=yes"),
                *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
                *("smith@127.0.0.1", "hostname; sudo id -u"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert said.stdout.split() == ["video-intelligence", "0"], said.stderr
        asyncio.run(guest.shutdown(node, VMID, 120, agent=True))
        assert not asyncio.run(guest.is_running(node, VMID))
        assert any("Power" in line for line in console.last_lines(node.log_dir, VMID))
    finally:
        asyncio.run(guest.stop(node, VMID, 5))
