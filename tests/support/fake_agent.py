"""A guest agent for fake guests: its addresses by the MAC of the config, and files that can be read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.guest_error import AgentRefused


@dataclass
class FakeAgent:
    """Answers QEMU's agent protocol. `net` gives the `net0` of the config when it is asked for."""

    net: Callable[[], str]
    address: str = "192.168.1.106/24"
    files: dict[str, str] = field(default_factory=dict)
    _open: dict[int, str] = field(default_factory=dict)

    def answers(self) -> dict[str, Any]:
        """By command, as FakeGuests wants them."""
        return {
            "guest-network-get-interfaces": lambda _: self._interfaces(),
            "guest-file-open": self._file_open,
            "guest-file-read": self._file_read,
            "guest-file-close": lambda _: {},
        }

    def _interfaces(self) -> list[dict[str, Any]]:
        mac = next(iter(parse_property_string(self.net()).values()))
        ip, _, prefix = self.address.partition("/")
        entry = {"ip-address": ip, "ip-address-type": "ipv4", "prefix": int(prefix)}
        return [{"name": "ens18", "hardware-address": mac.lower(), "ip-addresses": [entry]}]

    def _file_open(self, arguments: Mapping[str, Any]) -> int:
        path = str(arguments["path"])
        if path not in self.files:
            desc = f"failed to open file '{path}' (mode: 'r'): No such file or directory"
            raise AgentRefused({"class": "GenericError", "desc": desc})
        handle = 1000 + len(self._open)
        self._open[handle] = path
        return handle

    def _file_read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        content = self.files[self._open[arguments["handle"]]].encode()
        return {"buf-b64": base64.b64encode(content).decode(), "count": len(content), "eof": True}
