"""Cards and disks that come and go while the guest runs. What QEMU or the guest refuses is a GuestError.

The arguments of a start serve again, as lines of QEMU's human monitor: they take the same option lists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from vi_ops.lab.drive import parse_drive
from vi_ops.lab.guest import running, surroundings
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.program import silent
from vi_ops.lab.qemu_drive import one_drive
from vi_ops.lab.qemu_nic import one_nic
from vi_ops.lab.qemu_option import SPARE_PORTS, Config
from vi_ops.lab.qmp import Monitor

_VERBS: Final = {
    "-object": "object_add",
    "-netdev": "netdev_add",
    "-drive": "drive_add auto",
    "-device": "device_add",
}
# The guest's kernel has to let go of a device: a second under KVM, several under TCG.
_UNPLUG_S: Final = 30.0
# QEMU lets go of a name a moment after the device that had it is gone from its list.
_RELEASE_S: Final = 3.0


async def plug(node: Node, vmid: int, config: Config, name: str) -> None:
    """Give a running guest the card or disk `name` of `config` (its volume exists). All of it or nothing."""
    around = surroundings(node, vmid, silent)
    if name.startswith("net"):
        argv = one_nic(name, config, around)
    else:
        argv = one_drive(name, parse_drive(str(config[name])), config, around)
    async with running(node, vmid, _UNPLUG_S) as qemu:
        present = await _devices(qemu)
        try:
            for option, text in _pairs(argv):
                if not text.startswith("pcie-root-port"):
                    await _add(qemu, _VERBS[option], text, present)
        except GuestError:
            await _remove(qemu, name, present)
            raise


async def unplug(node: Node, vmid: int, name: str) -> None:
    """Take the card or disk `name` from a running guest and wait until its kernel has let go."""
    async with running(node, vmid, 2 * _UNPLUG_S) as qemu:
        present = await _devices(qemu)
        await _leave(qemu, f"{name}-card" if name.startswith("net") else name, present)
        await _remove(qemu, name, set())


async def _add(qemu: Monitor, verb: str, text: str, present: set[str]) -> None:
    """Add one thing; a PCI device whose own port was not made at the start goes into a spare one."""
    port = next((part.removeprefix("bus=") for part in text.split(",") if part.startswith("bus=port-")), None)
    if port is None or port in present:
        await _say(qemu, f"{verb} {text}")
        return
    for spare in SPARE_PORTS:
        try:
            await _say(qemu, f"{verb} {text.replace(port, f'port-{spare}')}")
            return
        except GuestError as error:
            refusal = error
    raise refusal


async def _remove(qemu: Monitor, name: str, keep: set[str]) -> None:
    """Take away what stands behind a device that has gone: controller, backend, thread."""
    number = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    present = await _devices(qemu)
    controller = f"virtioscsi{number}"
    if name.startswith("scsi") and controller in present - keep:
        await _leave(qemu, controller, present)
    for line in (
        f"netdev_del {name}" if name.startswith("net") else f"drive_del drive-{name}",
        f"object_del iothread-virtioscsi{number}"
        if name.startswith("scsi")
        else f"object_del iothread-{name}",
    ):
        await qemu.ask("human-monitor-command", command_line=line)  # it may be gone with the device already


async def _leave(qemu: Monitor, device: str, present: set[str]) -> None:
    if device not in present:
        return
    await qemu.ask("device_del", id=device)
    until = time.monotonic() + _UNPLUG_S
    while device in await _devices(qemu):
        if time.monotonic() > until:
            raise GuestError(f"error unplugging device '{device}'")
        await asyncio.sleep(0.1)


async def _say(qemu: Monitor, line: str) -> None:
    """One line of the human monitor, which answers with nothing, or with what is wrong."""
    until = time.monotonic() + _RELEASE_S
    while True:
        answer = str(await qemu.ask("human-monitor-command", command_line=line)).strip()
        if answer in {"", "OK"}:
            return
        if "Duplicate ID" not in answer or time.monotonic() > until:
            raise GuestError(answer.removeprefix("Error: "))
        await asyncio.sleep(0.1)


async def _devices(qemu: Monitor) -> set[str]:
    return {entry["name"] for entry in await qemu.ask("qom-list", path="/machine/peripheral")}


def _pairs(argv: list[str]) -> Iterator[tuple[str, str]]:
    return zip(argv[::2], argv[1::2], strict=True)
