"""Named formats and property strings: which texts they accept, and Proxmox's words when they do not.

Source: pve-common, PVE/JSONSchema.pm (check_format, parse_property_string); the named formats come as data.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

LIST_SEPARATOR = re.compile(r"[,;\s\0]+")
BOOLEAN_WORDS = {"1": "1", "on": "1", "yes": "1", "true": "1", "0": "0", "off": "0", "no": "0", "false": "0"}


class FormatError(Exception):
    """A text that does not fit its format; the message ends with a newline, as Perl's `die` texts do."""


@dataclass(frozen=True)
class Formats:
    """The named formats: `simple` scalars and `property_strings`, as in formats.json; `release` is 8 or 9."""

    simple: dict[str, dict[str, Any]] = field(default_factory=dict)
    property_strings: dict[str, dict[str, Any]] = field(default_factory=dict)
    indexed: dict[str, int] = field(default_factory=dict)
    major: int = 9

    def keys_of(self, name: str) -> dict[str, Any] | None:
        """The keys of a named property string; None when the name is not one."""
        if name not in self.property_strings:
            return None
        keys: dict[str, Any] = self.property_strings[name]["keys"]
        return {key: entry for key, entry in keys.items() if self.major >= int(entry.get("since", 8))}

    def check(self, name: str, text: str) -> None:
        """Raise FormatError unless `text` is of the format; a format that is not known accepts all."""
        if name.endswith("-opt"):
            if text:
                self.check(name.removesuffix("-opt"), text)
        elif name.endswith("-list") and name not in self.simple:
            for item in LIST_SEPARATOR.split(text):
                if item:
                    self.check(name.removesuffix("-list"), item)
        elif name in COMPUTED:
            COMPUTED[name](text)
        elif name in self.simple:
            self._check_simple(name, text)

    def _check_simple(self, name: str, text: str) -> None:
        entry = self.simple[name]
        fits = "regex" not in entry or re.fullmatch(entry["regex"], text) is not None
        fits = fits and len(text) >= entry.get("minLength", 0)
        fits = fits and ("values" not in entry or text in entry["values"])
        if not fits:
            words = entry.get(
                "error", f"value '{text}' does not look like a valid {name.removeprefix('pve-')}"
            )
            raise FormatError(words.replace("<v>", text) + "\n")


def split_property_string(keys: dict[str, Any], text: str) -> dict[str, str]:
    """`virtio=AA:..,bridge=vmbr0` by key; aliases resolved, boolean words as 0 and 1; or FormatError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals:
            key, value = _default_key(keys), part
        elif not key or not value:
            raise FormatError("missing key in comma-separated list property\n")
        if key in found:
            raise FormatError(f"duplicate key in comma-separated list property: {key}\n")
        key = _resolve_alias(keys, key, found)
        if key not in keys:
            raise FormatError(f"invalid key in comma-separated list property: {key}\n")
        found[key] = BOOLEAN_WORDS.get(value.lower(), value) if keys[key].get("type") == "boolean" else value
    return found


def _default_key(keys: dict[str, Any]) -> str:
    for key, entry in keys.items():
        if entry.get("default_key"):
            return key
    raise FormatError("value without key, but schema does not define a default key\n")


def _resolve_alias(keys: dict[str, Any], key: str, found: dict[str, str]) -> str:
    entry = keys.get(key, {})
    if "alias" not in entry:
        return key
    if name := entry.get("keyAlias"):
        if name in found:
            raise FormatError(f"key alias '{name}' is already defined\n")
        found[name] = key
    return str(entry["alias"])


def _check_ip(version: int, words: tuple[str, ...], shortest_prefix: int, error: str, text: str) -> None:
    if text in words:
        return
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise FormatError(error) from None
    if "/" not in text or address.version != version or address.network.prefixlen < shortest_prefix:
        raise FormatError(error)


def _ipv4_config(text: str) -> None:
    error = "value does not look like a valid ipv4 network configuration\n"
    _check_ip(4, ("dhcp", "manual"), 8, error, text)


def _ipv6_config(text: str) -> None:
    error = "value does not look like a valid ipv6 network configuration\n"
    _check_ip(6, ("auto", "dhcp", "manual"), 8, error, text)


def _cidr(text: str) -> None:
    _check_ip(6 if ":" in text else 4, (), 8, "value does not look like a valid CIDR network\n", text)


def _ipv6(text: str) -> None:
    _check_address(6, "value does not look like a valid IPv6 address\n", text)


def _ip(text: str) -> None:
    _check_address(6 if ":" in text else 4, "value does not look like a valid IP address\n", text)


def _check_address(version: int, error: str, text: str) -> None:
    try:
        if ipaddress.ip_address(text).version == version:
            return
    except ValueError:
        pass
    raise FormatError(error)


def _hotplug_features(text: str) -> None:
    """`0`, `1`, or a list of what may be plugged. Source: qemu-server, PVE/QemuServer.pm."""
    features = ("network", "disk", "cpu", "memory", "usb", "cloudinit")
    for word in filter(None, LIST_SEPARATOR.split(text) if text not in ("0", "1") else []):
        if word not in features:
            raise FormatError(f"invalid hotplug feature '{word}'\n")


COMPUTED = {
    "pve-hotplug-features": _hotplug_features,
    "pve-ipv4-config": _ipv4_config,
    "pve-ipv6-config": _ipv6_config,
    "CIDR": _cidr,
    "ipv6": _ipv6,
    "ip": _ip,
}
