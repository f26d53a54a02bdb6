"""A guest agent without a guest: what a small Debian's agent says, for tests of what lies above it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vi_ops.lab.guest_error import AgentRefused
from vi_ops.lab.node import Node

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJQsrPXz4ILcPaZR0aQsZCEYGlUiO2WW198Jw8z0WvXy root@guest\n"
OSINFO = {
    "id": "debian",
    "kernel-release": "6.12.117+deb13-cloud-amd64",
    "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)",
    "machine": "x86_64",
    "name": "Debian GNU/Linux",
    "pretty-name": "Debian GNU/Linux 13 (trixie)",
    "version": "13 (trixie)",
    "version-id": "13",
}
COUNTERS = {f"{way}-{what}": 0 for way in ("rx", "tx") for what in ("bytes", "dropped", "errs", "packets")}
LOOPBACK = {
    "name": "lo",
    "hardware-address": "00:00:00:00:00:00",
    "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}],
    "statistics": COUNTERS,
}
DISK = {
    "bus": 0,
    "bus-type": "scsi",
    "dev": "/dev/sda3",
    "pci-controller": {"bus": 9, "domain": 0, "function": 0, "slot": 1},
    "serial": "0QEMU_QEMU_HARDDISK_drive-scsi0",
    "target": 0,
    "unit": 0,
}
SIZES = {"total-bytes": 2193539072, "total-bytes-privileged": 2332114944, "used-bytes": 390082560}
FILE_SYSTEM = {"name": "sda3", "mountpoint": "/", "type": "ext4", "disk": [DISK], **SIZES}


class AgentStandIn:
    """Answers for one vmid; any other guest is asked for real. Files live in `files`."""

    def __init__(self, real: Callable[..., Awaitable[Any]], vmid: int) -> None:
        self.real = real
        self.vmid = vmid
        self.files = {"/etc/ssh/ssh_host_ed25519_key.pub": HOST_KEY.encode()}
        self.open: dict[int, tuple[str, bytearray]] = {}

    async def __call__(
        self,
        node: Node,
        vmid: int,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float = 5.0,
    ) -> Any:
        if vmid != self.vmid:
            return await self.real(node, vmid, command, arguments, timeout_s)
        given = dict(arguments or {})
        known = {
            "guest-ping": {},
            "guest-info": {
                "supported_commands": [{"enabled": True, "name": "guest-ping", "success-response": True}],
                "version": "10.0.13",
            },
            "guest-get-osinfo": OSINFO,
            "guest-get-host-name": {"host-name": "video-intelligence"},
            "guest-network-get-interfaces": [LOOPBACK],
            "guest-get-memory-blocks": [{"can-offline": True, "online": True, "phys-index": 0}],
            "guest-get-fsinfo": [FILE_SYSTEM],
            "guest-fsfreeze-status": "thawed",
            "guest-fstrim": {"paths": [{"minimum": 0, "path": "/", "trimmed": 0}]},
            "guest-shutdown": None,
        }
        if command in known:
            return known[command]
        return getattr(self, command.removeprefix("guest-").replace("-", "_"))(given)

    def exec_status(self, given: dict[str, Any]) -> Any:
        # The agent's own message has a printf fault: "ld" stands where the number should.
        raise AgentRefused({"class": "GenericError", "desc": "PID ld does not exist"})

    def file_open(self, given: dict[str, Any]) -> int:
        path, mode = given["path"], given.get("mode", "r")
        if mode.startswith("r") and path not in self.files:
            text = f"failed to open file '{path}' (mode: '{mode}'): No such file or directory"
            raise AgentRefused({"class": "GenericError", "desc": text})
        handle = len(self.open) + 1000
        self.open[handle] = (path, bytearray(self.files.get(path, b"") if mode.startswith("r") else b""))
        return handle

    def file_read(self, given: dict[str, Any]) -> dict[str, Any]:
        _, rest = self.open[given["handle"]]
        chunk = bytes(rest[: given.get("count", 4096)])
        del rest[: len(chunk)]
        return {"count": len(chunk), "buf-b64": base64.b64encode(chunk).decode(), "eof": not rest}

    def file_write(self, given: dict[str, Any]) -> dict[str, Any]:
        path, _ = self.open[given["handle"]]
        content = base64.b64decode(given["buf-b64"])
        self.files[path] = self.files.get(path, b"") + content
        return {"count": len(content), "eof": False}

    def file_flush(self, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def file_close(self, given: dict[str, Any]) -> dict[str, Any]:
        self.open.pop(given["handle"])
        return {}
