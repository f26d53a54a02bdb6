"""Network devices of a VM as their property strings: `virtio=BC:24:11:..,bridge=vmbr0`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from vi_ops.facts.property_string import parse_property_string

# Source: qemu-server, PVE/QemuServer/Network.pm (nic_models), as of 9.2.
MODELS: Final = frozenset(
    {
        "e1000",
        "e1000-82540em",
        "e1000-82544gc",
        "e1000-82545em",
        "e1000e",
        "i82551",
        "i82557b",
        "i82559er",
        "ne2k_isa",
        "ne2k_pci",
        "pcnet",
        "rtl8139",
        "virtio",
        "vmxnet3",
    }
)
# The datacenter's default prefix since 8.1; it is registered to Proxmox.
_MAC_PREFIX: Final = "BC:24:11"


def random_mac() -> str:
    """A new address under Proxmox's own prefix, upper case."""
    return ":".join([_MAC_PREFIX, *(f"{byte:02X}" for byte in secrets.token_bytes(3))])


def parse_nic(text: str) -> dict[str, str]:
    """`model`, `macaddr` (where given) and the rest, from either spelling. Raises FactError."""
    values = parse_property_string(text, "model")
    for model in MODELS & values.keys():
        values["model"], values["macaddr"] = model, values.pop(model)
    return values


def print_nic(values: Mapping[str, str]) -> str:
    """The canonical text, `<model>=<mac>` first; an address is made up where none is given."""
    rest = {key: values[key] for key in sorted(values) if key not in ("model", "macaddr")}
    first = f"{values['model']}={values.get('macaddr') or random_mac()}"
    return ",".join([first, *(f"{key}={value}" for key, value in rest.items())])


def canonical_nic(text: str) -> str:
    """A NIC as the node stores it."""
    return print_nic(parse_nic(text))


def access_path(text: str) -> str | None:
    """The path on which SDN.Use is asked for the NIC's bridge, None for a NIC without one."""
    values = parse_nic(text)
    if "bridge" not in values:
        return None
    path = f"/sdn/zones/localnetwork/{values['bridge']}"
    return f"{path}/{values['tag']}" if "tag" in values else path
