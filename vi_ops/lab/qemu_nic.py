"""Network cards of a VM as QEMU's arguments: the user-mode network of its bridge, and the card."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.nic import parse_nic
from vi_ops.lab.qemu_option import Config, Surroundings, boot_index, boot_order, is_q35, root_port

_NET: Final = re.compile(r"net(\d+)")
_NET_MODELS: Final = {"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139"}


def nic_arguments(config: Config, around: Surroundings) -> list[str]:
    """Arguments for every network card."""
    return [word for key in sorted(config) if _NET.fullmatch(key) for word in one_nic(key, config, around)]


def one_nic(name: str, config: Config, around: Surroundings) -> list[str]:
    """Arguments for one card: its port, the network `<name>`, the device `<name>-card`."""
    nic, index = parse_nic(str(config[name])), int(name.removeprefix("net"))
    if nic["model"] not in _NET_MODELS:
        raise GuestError(f"{name}: the lab has no network card of model '{nic['model']}'")
    backend = f"user,id={name}" + _user_network(index, nic.get("bridge", ""), config, around)
    # No boot ROM: there is no boot server behind a user-mode network.
    device = f"{_NET_MODELS[nic['model']]},netdev={name},id={name}-card,romfile="
    if "macaddr" in nic:
        device += f",mac={nic['macaddr']}"
    port, place = _port(name, index, config)
    return [*port, "-netdev", backend, "-device", device + place + boot_index(name, boot_order(config))]


def _port(name: str, index: int, config: Config) -> tuple[list[str], str]:
    # The slots are Proxmox's, so that one disk more does not rename a guest's interfaces.
    slot = f",addr={0x12 + index:#x}" if index < 6 else ""
    if not is_q35(config):
        return [], f",bus=pci.0{slot}"
    return root_port(name, 10 + index, slot), f",bus=port-{name},addr=0x0"


def _user_network(index: int, bridge: str, config: Config, around: Surroundings) -> str:
    """The bridge's network, made by QEMU for this guest alone.

    The bridge's address is the network's DNS address, which routes like any other: so a guest finds its
    gateway and its resolver there, as behind a home router. This machine's loopback is at the last address.
    """
    if bridge not in around.bridges:
        raise GuestError(f"bridge '{bridge}' does not exist")
    interface = ipaddress.IPv4Interface(around.bridges[bridge])
    network = interface.network
    loopback, first = network.broadcast_address - 1, network.network_address + 15
    text = f",net={network},host={loopback},dns={interface.ip},dhcpstart={first},ipv6=off"
    if index == 0 and around.ssh_port:
        address = guest_address(config) or first
        if address in network:
            text += f",hostfwd=tcp:127.0.0.1:{around.ssh_port}-{address}:22"
    return text


def guest_address(config: Config) -> ipaddress.IPv4Address | None:
    """The static IPv4 address of net0, if `ipconfig0` gives one."""
    address = parse_property_string(str(config.get("ipconfig0", ""))).get("ip", "dhcp")
    return None if address in {"dhcp", "manual"} else ipaddress.IPv4Interface(address).ip
