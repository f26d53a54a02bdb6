"""Comparing a VM's config with what is wanted, key by key, as values: the node reorders and rewrites text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from vi_ops.facts.property_string import format_property_string, parse_property_string
from vi_ops.facts.vm import ConfigValue

Properties = dict[str, str | None]
"""Properties that must hold in a property string; None: must be absent. Others are left as they are."""

Wanted = str | int | bool | Properties | None
"""What a config key should be; None: absent."""

# What an absent key means. Source: qemu-server, src/PVE/QemuServer.pm, $confdesc.
DEFAULTS: Final[Mapping[str, str]] = {
    "agent": "0",
    "ciupgrade": "1",
    "cores": "1",
    "cpu": "kvm64",
    "memory": "512",
    "onboot": "0",
    "protection": "0",
    "sockets": "1",
}
# The property that a first part without `=` belongs to. Source: as above, `default_key`.
DEFAULT_KEYS: Final[Mapping[str, str]] = {"agent": "enabled", "cpu": "cputype", "memory": "current"}
NIC_MODELS: Final = frozenset(
    {
        *("e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b"),
        *("i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3"),
    }
)


def parse_net(text: str) -> dict[str, str]:
    """Properties of a `netN` value; `virtio=MAC` becomes `model` and `macaddr`, the MAC in upper case."""
    values = parse_property_string(text, "model")
    for model in NIC_MODELS & values.keys():
        values |= {"model": model, "macaddr": values.pop(model)}
    if "macaddr" in values:
        values["macaddr"] = values["macaddr"].upper()
    return values


def format_net(values: Mapping[str, str]) -> str:
    """The reverse of parse_net, in Proxmox's own short form."""
    rest = {key: value for key, value in values.items() if key not in {"model", "macaddr"}}
    model = values.get("model", "virtio")
    first = {model: values["macaddr"]} if "macaddr" in values else {"model": model}
    return format_property_string({**first, **rest}, "model")


def parse_value(key: str, text: str) -> dict[str, str]:
    """A property string of the config as a map."""
    return parse_net(text) if key.startswith("net") else parse_property_string(text, DEFAULT_KEYS.get(key))


def settle(key: str, wanted: Wanted, now: ConfigValue | None) -> str | int | bool | None:
    """The value to write for `key`: what it is now, brought to `wanted`; None to leave it out."""
    if not isinstance(wanted, dict):
        return wanted
    merged = parse_value(key, _text(key, now)) | {name: value for name, value in wanted.items() if value}
    merged = {name: value for name, value in merged.items() if wanted.get(name, value) is not None}
    if not merged:
        return None
    return (
        format_net(merged) if key.startswith("net") else format_property_string(merged, DEFAULT_KEYS.get(key))
    )


def is_same(key: str, wanted: str | int | bool | None, now: ConfigValue | None) -> bool:
    """Whether a settled value means what the config says already."""
    return _meaning(key, _text(key, wanted)) == _meaning(key, _text(key, now))


def differing(
    key: str, before: ConfigValue | None, after: ConfigValue | bool | None
) -> tuple[ConfigValue | None, ConfigValue | bool | None]:
    """Two values of a property string with only the properties in which they differ; others as they are."""
    if not _is_property_string(key) or before is None or after is None:
        return before, after
    old, new = parse_value(key, str(before)), parse_value(key, str(after))
    return _only(key, old, new) or None, _only(key, new, old) or None


def _only(key: str, values: dict[str, str], others: dict[str, str]) -> str:
    left = {name: value for name, value in values.items() if others.get(name) != value}
    if not key.startswith("net"):
        return format_property_string(left, DEFAULT_KEYS.get(key))
    if "macaddr" not in left:
        return format_property_string(left)
    return format_net(left | {"model": values.get("model", "virtio")})


def _is_property_string(key: str) -> bool:
    return key in DEFAULT_KEYS or key.startswith(("net", "ipconfig")) or key == "cicustom"


def _text(key: str, value: ConfigValue | bool | None) -> str:
    if value is None:
        return DEFAULTS.get(key, "")
    return str(int(value)) if isinstance(value, bool) else str(value)


def _meaning(key: str, text: str) -> object:
    if _is_property_string(key):
        return parse_value(key, text)
    if key == "tags":
        return frozenset(text.lower().replace(",", ";").replace(" ", ";").split(";")) - {""}
    if key == "sshkeys":
        return frozenset(line.strip() for line in unquote(text).splitlines()) - {""}
    if key in {"nameserver", "searchdomain"}:
        return tuple(text.replace(",", " ").replace(";", " ").split())
    return text.rstrip()  # a node drops what is blank at a description's end (qemu-server, parse_vm_config)
