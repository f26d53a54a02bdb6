"""Property strings, `key=value,key=value`. Compared as maps, never as text: the node reorders them."""

from __future__ import annotations

from collections.abc import Mapping

from vi_ops.errors import FactError


def parse_property_string(text: str, default_key: str | None = None) -> dict[str, str]:
    """Parse `virtio=AA:..,bridge=vmbr0`; a first part without `=` belongs to `default_key`.

    Empty parts are skipped, as Proxmox does. Raises FactError for a part without a key where no default
    is left, and for a key given twice. Source: pve-common, src/PVE/JSONSchema.pm, parse_property_string.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals:
            if default_key is None or default_key in values:
                raise FactError("property-string", f"value without key in {text!r}: {part!r}")
            key, value = default_key, part
        if key in values:
            raise FactError("property-string", f"duplicate key {key!r} in {text!r}")
        values[key] = value
    return values


def format_property_string(values: Mapping[str, str | int | bool], default_key: str | None = None) -> str:
    """Print a map as a property string: the default key first and bare, the rest in the order given.

    Booleans become 0 and 1. Raises ValueError for a comma inside a value: the format cannot hold one.
    """
    parts: list[str] = []
    for key, value in values.items():
        word = str(int(value)) if isinstance(value, bool) else str(value)
        if "," in word:
            raise ValueError(f"a property string cannot hold a comma: {key}={word!r}")
        if key == default_key:
            parts.insert(0, word)
        else:
            parts.append(f"{key}={word}")
    return ",".join(parts)
