"""A VM's config file in Proxmox's own format: parse, write, digest. Pure; `vm_file.py` does the reading.

Source: qemu-server, PVE/QemuServer.pm (parse_vm_config, write_vm_config); pve-common,
PVE/Tools.pm (encode_text).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from vi_ops.lab import options

_LINE: Final = re.compile(r"([a-z][a-z0-9_-]*):[ \t]*(.+)")
_SECTION: Final = re.compile(r"\[([A-Za-z][A-Za-z0-9_-]*|special:[a-z][a-z0-9-]*)\]")
_BLANKS: Final = " \t\r"


@dataclass
class VmConfig:
    """One VM's config. All values are text, as in the file.

    `values` is what is in force; `pending` waits for a power cycle, `pending_delete` too (True: the volume
    goes with it). `cloudinit` holds the values that the cloud-init drive was built with, where they differ,
    and under `added` the list of options that it lacks.
    """

    values: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    pending_delete: dict[str, bool] = field(default_factory=dict)
    cloudinit: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def is_template(self) -> bool:
        return self.values.get("template") == "1"

    def merged(self) -> dict[str, str]:
        """The config after the next power cycle: pending values in, pending deletions out."""
        values = {key: value for key, value in self.values.items() if key not in self.pending_delete}
        return values | self.pending


def digest(text: str) -> str:
    """What `GET config` calls the digest: SHA-1 of the file's text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def parse_config(text: str) -> VmConfig:
    """A config file's text as a value. Lines that Proxmox would not understand are dropped, as it does."""
    config = VmConfig()
    section = config.values
    for line in text.split("\n"):
        if line.startswith("#"):
            section["description"] = section.get("description", "") + unquote(line[1:].rstrip("\r")) + "\n"
        elif match := _SECTION.fullmatch(line.strip(_BLANKS)):
            section = _open(config, match[1])
        elif match := _LINE.fullmatch(line.strip(_BLANKS)):
            section[match[1]] = match[2]
    config.pending_delete = _parse_delete(config.pending.pop("delete", ""))
    return _known(config)


def _open(config: VmConfig, name: str) -> dict[str, str]:
    if name == "PENDING":
        return config.pending
    if name == "special:cloudinit":
        return config.cloudinit
    if name.startswith("special:"):
        return {}
    return config.snapshots.setdefault(name, {})


def _known(config: VmConfig) -> VmConfig:
    """Drop unknown options, spell booleans as 0 and 1, end descriptions without a newline."""
    for section in (config.values, config.pending, *config.snapshots.values()):
        if "description" in section:
            section["description"] = section["description"].rstrip()
        for key in list(section):
            if not options.exists(key) and key not in options.STATE:
                del section[key]
            elif key in options.BOOLEAN:
                section[key] = str(int(options.parse_boolean(section[key])))
    return config


def _parse_delete(text: str) -> dict[str, bool]:
    words = [word for word in re.split(r"[,;\s]+", text) if word]
    return {word.removeprefix("!"): word.startswith("!") for word in words}


def write_config(config: VmConfig) -> str:
    """The file's text, options sorted, sections in Proxmox's order."""
    pending = dict(config.pending)
    if config.pending_delete:
        pending["delete"] = ",".join(
            ("!" if force else "") + key for key, force in sorted(config.pending_delete.items())
        )
    sections: list[tuple[str, Mapping[str, str]]] = [("PENDING", pending)] if pending else []
    if config.cloudinit:
        sections.append(("special:cloudinit", config.cloudinit))
    sections += sorted(config.snapshots.items())
    texts = ["".join(_lines(config.values))]
    texts += [f"[{name}]\n" + "".join(_lines(values)) for name, values in sections]
    return "\n".join(texts)


def _lines(values: Mapping[str, str]) -> Iterator[str]:
    for line in values.get("description", "").rstrip().split("\n") if values.get("description") else ():
        yield f"#{encode_text(line)}\n"
    for key in sorted(values):
        if key != "description":
            yield f"{key}: {values[key]}\n"


def encode_text(text: str) -> str:
    """Percent-encode controls, everything beyond ASCII, `:` and `%`."""
    plain = set(range(0x20, 0x7F)) - {ord(":"), ord("%")}
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in text.encode())
