"""A guest as a QEMU process: everything below the API. Knows nothing of HTTP, users or tasks.

Nothing is remembered here about a guest: what runs is read from its pid file each time, so guests outlive the
process that started them and the next one finds them again. All failures are GuestError with Proxmox's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from vi_ops.lab import accelerator, cloudinit, console, volume
from vi_ops.lab import agent as guest_agent
from vi_ops.lab.guest_error import AgentRefused, GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.process import find, is_alive, is_gone, kill, launch, usage
from vi_ops.lab.program import Log, silent
from vi_ops.lab.qemu_command import GuestFiles, Host, qemu_command
from vi_ops.lab.qemu_option import Config, Surroundings
from vi_ops.lab.qmp import Monitor, monitor

__all__ = ["AgentRefused", "GuestError", "agent", "is_running", "shutdown", "start", "status", "stop"]

# Source of both: qemu-server, PVE/QemuServer/Agent.pm and PVE/QemuServer/Helpers.pm (config_aware_timeout).
_PING_S: Final = 3.0
_START_S: Final = 30.0
_LAST_PORT: Final = 65535
_starting: set[Path] = set()


async def start(node: Node, vmid: int, config: Config, log: Log, timeout_s: float = _START_S) -> None:
    """Start the guest with these options: cloud-init drive first, then QEMU, which lives on by itself.

    QEMU's own words go to the log. Returns when the machine is made, before its firmware has run.
    """
    files = _files(node, vmid)
    if files.pid in _starting or await is_running(node, vmid):
        raise GuestError(f"VM {vmid} already running")
    _starting.add(files.pid)
    try:
        await cloudinit.build_iso(node, vmid, config, log)
        await _prepare(files, config, log)
        host = Host(await accelerator.has_kvm(node.home), node.host.cpus, volume.FIRMWARE)
        boots = node.faults.take("no-boot", vmid) is None
        around = replace(surroundings(node, vmid, log), boots=boots)
        argv = qemu_command(vmid, config, files, host, around)
        await launch(argv, files.pid, files.qemu_log, log, timeout_s)
    finally:
        _starting.discard(files.pid)


async def stop(node: Node, vmid: int, timeout_s: float = 60.0, log: Log = silent) -> None:
    """Pull the plug: QMP `quit`, then TERM, then KILL. A guest that is stopped is fine."""
    process = _process(node, vmid)
    if process is None:
        return
    with contextlib.suppress(GuestError):
        async with monitor(vmid, _files(node, vmid).qmp, min(timeout_s, 5.0)) as qemu:
            await qemu.ask("quit")
    if not await is_gone(process, timeout_s):
        await kill(process, log)


async def shutdown(
    node: Node,
    vmid: int,
    timeout_s: float,
    force: bool = False,
    log: Log = silent,
    agent: bool = False,
) -> None:
    """Ask the guest to power off, by its agent where `agent` is set and it answers, else by ACPI, and wait.

    After `timeout_s` seconds the guest is killed with `force`, else this fails.
    """
    process = _process(node, vmid)
    if process is None:
        return
    deadline = time.monotonic() + timeout_s
    try:
        await _ask_to_power_off(node, vmid, log, agent)
        if await is_gone(process, deadline - time.monotonic()):
            return
        raise GuestError("VM quit/powerdown failed - got timeout")
    except GuestError:
        if not is_alive(process):  # it went while it was being asked
            return
        if not force:
            raise
    await kill(process, log)


async def reset(node: Node, vmid: int) -> None:
    """The reset button: same process, same memory size, from the firmware on."""
    await _ask_running(node, vmid, "system_reset")


async def suspend(node: Node, vmid: int) -> None:
    """Stop the processors; memory stays."""
    await _ask_running(node, vmid, "stop")


async def resume(node: Node, vmid: int) -> None:
    """Let a paused or sleeping guest go on."""
    async with running(node, vmid) as qemu:
        is_asleep = (await qemu.ask("query-status"))["status"] == "suspended"
        await qemu.ask("system_wakeup" if is_asleep else "cont")


async def is_running(node: Node, vmid: int) -> bool:
    """Whether the guest's QEMU process is there, whatever the guest does in it."""
    return _process(node, vmid) is not None


async def status(node: Node, vmid: int) -> dict[str, Any]:
    """What can be seen of the guest from outside, in the keys and units of Proxmox's `status/current`.

    `cpu` is the used share of the guest's processors since the last call, 0 at first; `mem` is the
    process's resident memory in bytes. What QEMU does not tell in time is left out.
    """
    process = _process(node, vmid)
    if process is None:
        return {"status": "stopped", "qmpstatus": "stopped"}
    seen: dict[str, Any] = {"status": "running", "qmpstatus": "running"}
    cpus = 1
    with contextlib.suppress(GuestError):
        async with monitor(vmid, _files(node, vmid).qmp, 3.0) as qemu:
            seen |= await _seen_by_qemu(qemu)
            cpus = len(await qemu.ask("query-cpus-fast"))
    with contextlib.suppress(psutil.Error):
        seen |= usage(process, cpus)
    return seen


async def is_console_taken(node: Node, vmid: int) -> bool:
    """Whether a client is attached to `serial0`; QEMU lets the next one wait without a word.

    Raises GuestError where the guest does not run or its monitor does not answer.
    """
    async with running(node, vmid) as qemu:
        ports = {one["label"]: str(one["filename"]) for one in await qemu.ask("query-chardev")}
    return "serial0" in ports and not ports["serial0"].startswith("disconnected:")


async def agent(
    node: Node, vmid: int, command: str, arguments: Mapping[str, object] | None = None, timeout_s: float = 5.0
) -> Any:
    """Run a command of the guest agent (`guest-ping`) and give what it returns.

    Raises AgentRefused with the agent's error; GuestError when the guest is off or nobody answers in time.
    """
    if _process(node, vmid) is None:
        raise GuestError(f"VM {vmid} is not running")
    peer = "qga" if node.major > 8 else "qmp"
    if node.faults.take("agent-silent", vmid):
        await asyncio.sleep(timeout_s)
        raise GuestError(f"VM {vmid} {peer} command '{command}' failed - got timeout")
    answers = not command.startswith(("guest-shutdown", "guest-suspend"))
    return await guest_agent.ask(
        vmid, _files(node, vmid).agent, command, arguments, timeout_s, answers=answers, peer=peer
    )


async def resize_disk(node: Node, vmid: int, drive: str, volid: str, size_bytes: int) -> None:
    """Grow a drive, also under a running guest, which sees the new size at once."""
    if size_bytes < await volume.size(node, volid):
        raise GuestError("shrinking disks is not supported")
    if _process(node, vmid) is None:
        await volume.resize(node, volid, size_bytes)
    else:
        await _ask_running(node, vmid, "block_resize", device=f"drive-{drive}", size=size_bytes)


async def change_medium(node: Node, vmid: int, drive: str, path: Path, volume_format: str) -> None:
    """Put another file into a CD-ROM drive of a running guest: the cloud-init drive after it was rebuilt."""
    await _ask_running(
        node,
        vmid,
        "blockdev-change-medium",
        id=drive,
        filename=str(path),
        format=volume_format,
        force=True,
        read_only_mode="read-only",
    )


def _files(node: Node, vmid: int) -> GuestFiles:
    sockets = console.socket_dir(node.run_dir)
    return GuestFiles(
        pid=node.run_dir / f"{vmid}.pid",
        qmp=sockets / f"{vmid}.qmp",
        agent=sockets / f"{vmid}.qga",
        serial=console.socket_path(node.run_dir, vmid),
        console_log=console.log_path(node.log_dir, vmid),
        qemu_log=node.log_dir / "guests" / f"{vmid}.qemu",
        temporary_vars=node.run_dir / f"{vmid}.vars",
    )


def _process(node: Node, vmid: int) -> psutil.Process | None:
    return find(_files(node, vmid).pid)


async def _prepare(files: GuestFiles, config: Config, log: Log) -> None:
    files.pid.parent.chmod(0o700)
    files.qemu_log.parent.mkdir(parents=True, exist_ok=True)
    for stale in (files.pid, files.qmp, files.agent, files.serial, files.console_log, files.qemu_log):
        stale.unlink(missing_ok=True)
    files.console_log.touch(mode=0o600)
    if config.get("bios") == "ovmf" and "efidisk0" not in config:
        log("WARN: no efidisk configured! Using temporary efivars disk.")
        shutil.copyfile(volume.FIRMWARE / "OVMF_VARS_4M.fd", files.temporary_vars)


def surroundings(node: Node, vmid: int, log: Log) -> Surroundings:
    """What a VM's config refers to on this node; the log hears of an SSH forward that cannot be."""
    port = node.ssh_port_base + vmid
    if port > _LAST_PORT:
        log(f"no port is left for SSH to VM {vmid}: {node.ssh_port_base} + {vmid} is above {_LAST_PORT}")
    return Surroundings(
        locate=lambda volid: volume.path(node, volid),
        bridges={name: str(bridge["cidr"]) for name, bridge in node.bridges.items() if "cidr" in bridge},
        ssh_port=port if port <= _LAST_PORT else None,
    )


@contextlib.asynccontextmanager
async def running(node: Node, vmid: int, timeout_s: float = 5.0) -> AsyncIterator[Monitor]:
    """The monitor of a guest that runs. Raises GuestError `VM 106 not running` when it does not."""
    if _process(node, vmid) is None:
        raise GuestError(f"VM {vmid} not running")
    async with monitor(vmid, _files(node, vmid).qmp, timeout_s) as qemu:
        yield qemu


async def _ask_running(node: Node, vmid: int, command: str, **arguments: object) -> None:
    async with running(node, vmid) as qemu:
        await qemu.ask(command, **arguments)


async def _ask_to_power_off(node: Node, vmid: int, log: Log, use_agent: bool) -> None:
    async with running(node, vmid) as qemu:
        if (await qemu.ask("query-status"))["status"] == "paused":
            raise GuestError("VM is paused - cannot shutdown")
    if use_agent:
        try:
            await agent(node, vmid, "guest-ping", timeout_s=_PING_S)
            await agent(node, vmid, "guest-shutdown", timeout_s=_PING_S)
            return
        except GuestError as error:
            log(f"QEMU Guest Agent is not running - {error}")
    await _ask_running(node, vmid, "system_powerdown")


async def _seen_by_qemu(qemu: Monitor) -> dict[str, Any]:
    blocks = [entry["stats"] for entry in await qemu.ask("query-blockstats")]
    version = (await qemu.ask("query-version"))["qemu"]
    machine = str(await qemu.ask("qom-get", path="/machine", property="type"))
    return {
        "qmpstatus": (await qemu.ask("query-status"))["status"],
        "diskread": sum(int(stats["rd_bytes"]) for stats in blocks),
        "diskwrite": sum(int(stats["wr_bytes"]) for stats in blocks),
        "running-machine": machine.removesuffix("-machine"),
        "running-qemu": f"{version['major']}.{version['minor']}.{version['micro']}",
    }
