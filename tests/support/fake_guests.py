"""Guests that are nothing but a state: what the lab's API needs of QEMU, without QEMU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vi_ops.lab import cloudinit, guest, hotplug, volume
from vi_ops.lab.guest_error import AgentRefused, GuestError
from vi_ops.lab.node import Node

Log = Callable[[str], None]


@dataclass
class FakeGuests:
    """The guests that run, by vmid. `deaf` ones do not power off when asked; `agents` answer by command,
    unless their guest is `unbooted`: it runs, and nothing in it.

    An agent's answer may be an exception, which is then raised.
    """

    running: dict[int, dict[str, str]] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)
    deaf: set[int] = field(default_factory=set)
    unbooted: set[int] = field(default_factory=set)
    agents: dict[int, dict[str, Any]] = field(default_factory=dict)
    media: list[tuple[int, str, str]] = field(default_factory=list)
    plugged: list[tuple[str, int, str]] = field(default_factory=list)
    patience_s: float = 0.05
    began: dict[int, float] = field(default_factory=dict)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put these guests in the place of QEMU's."""
        for name in ("start", "stop", "shutdown", "reset", "suspend", "resume", "is_running", "status"):
            monkeypatch.setattr(guest, name, getattr(self, name))
        for name in ("agent", "resize_disk", "change_medium"):
            monkeypatch.setattr(guest, name, getattr(self, name))
        for name in ("plug", "unplug"):
            monkeypatch.setattr(hotplug, name, getattr(self, name))

    async def plug(self, node: Node, vmid: int, config: Mapping[str, str], name: str) -> None:
        if vmid in self.deaf:
            raise GuestError("the guest is deaf")
        self.plugged.append(("plug", vmid, name))
        self.running[vmid][name] = config[name]

    async def unplug(self, node: Node, vmid: int, name: str) -> None:
        if vmid in self.deaf:
            raise GuestError(f"error unplugging device '{name}'")
        self.plugged.append(("unplug", vmid, name))
        del self.running[vmid][name]

    async def start(
        self, node: Node, vmid: int, config: Mapping[str, str], log: Log, timeout_s: float = 30
    ) -> None:
        await cloudinit.build_iso(node, vmid, config, log)
        self.unbooted.discard(vmid)
        if node.faults.take("no-boot", vmid):
            self.unbooted.add(vmid)
            self.deaf.add(vmid)
        self.running[vmid] = dict(config)
        self.began[vmid] = time.monotonic()

    async def stop(self, node: Node, vmid: int, timeout_s: float = 60, log: Log = print) -> None:
        self.running.pop(vmid, None)
        self.paused.discard(vmid)

    async def shutdown(
        self,
        node: Node,
        vmid: int,
        timeout_s: float,
        force: bool = False,
        log: Log = print,
        agent: bool = False,
    ) -> None:
        if agent and vmid not in self.agents:
            log(f"QEMU Guest Agent is not running - VM {vmid} qga command 'guest-ping' failed - got timeout")
        if vmid in self.deaf:
            await asyncio.sleep(min(timeout_s, self.patience_s))
            if not force:
                raise GuestError("VM quit/powerdown failed - got timeout")
            log("VM still running - terminating now with SIGTERM")
        await self.stop(node, vmid)

    async def reset(self, node: Node, vmid: int) -> None:
        self.began[vmid] = time.monotonic()

    async def suspend(self, node: Node, vmid: int) -> None:
        self.paused.add(vmid)

    async def resume(self, node: Node, vmid: int) -> None:
        self.paused.discard(vmid)

    async def is_running(self, node: Node, vmid: int) -> bool:
        return vmid in self.running

    async def status(self, node: Node, vmid: int) -> dict[str, Any]:
        if vmid not in self.running:
            return {"status": "stopped", "qmpstatus": "stopped"}
        uptime = int(time.monotonic() - self.began[vmid])
        qmpstatus = "paused" if vmid in self.paused else "running"
        return {"qmpstatus": qmpstatus, "pid": 4242, "uptime": uptime, "mem": 1024**2, "cpu": 0.0}

    async def agent(
        self,
        node: Node,
        vmid: int,
        command: str,
        arguments: Mapping[str, object] | None = None,
        timeout_s: float = 5,
    ) -> Any:
        nobody = vmid in self.unbooted or vmid not in self.agents
        if node.faults.take("agent-silent", vmid) or nobody:
            raise GuestError(f"VM {vmid} qga command '{command}' failed - got timeout")
        if command == "guest-ping":
            return {}
        answer = self.agents[vmid].get(command)
        if answer is None:
            raise AgentRefused(
                {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}
            )
        answer = answer(arguments) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def resize_disk(self, node: Node, vmid: int, drive: str, volid: str, size_bytes: int) -> None:
        await volume.resize(node, volid, size_bytes)

    async def change_medium(self, node: Node, vmid: int, drive: str, path: Path, volume_format: str) -> None:
        self.media.append((vmid, drive, path.name))
