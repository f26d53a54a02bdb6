"""Rules across fields and hosts. Each finding has a code, a place and a remedy."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass

from vi_ops.specs.nearest import did_you_mean
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec

KeyPath = tuple[str | int, ...]
AnyVm = VmSpec | UnmanagedVmSpec


def format_path(path: KeyPath) -> str:
    """`vm.gpus[0].mapping`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


@dataclass(frozen=True)
class SpecFinding:
    """One thing wrong with a host's vars. `path` starts at the variable: `("vm", "gpus", 0, "mapping")`.

    A finding that does not block is advice.
    """

    code: str
    host: str
    path: KeyPath
    message: str
    hint: str | None = None
    blocks: bool = True


def check_vm(vm: AnyVm) -> Iterator[SpecFinding]:
    """Rules inside one VM."""
    yield from _check_passthrough(vm)
    if isinstance(vm, VmSpec):
        yield from _check_network(vm)
        yield from _check_login(vm)


def _check_passthrough(vm: AnyVm) -> Iterator[SpecFinding]:
    if not vm.gpus:
        return
    if vm.balloon:
        yield SpecFinding(
            "vm-balloon-passthrough",
            vm.host,
            ("vm", "balloon"),
            "a VM with a passed-through GPU cannot give memory back: VFIO pins all of it",
            "set 'balloon: false'",
        )
    if vm.machine == "i440fx":
        yield SpecFinding(
            "vm-gpu-i440fx",
            vm.host,
            ("vm", "machine"),
            "a GPU is passed through as a PCI Express device, and i440fx has no PCI Express",
            "set 'machine: q35'",
        )
    if vm.firmware == "seabios":
        yield SpecFinding(
            "vm-gpu-seabios",
            vm.host,
            ("vm", "firmware"),
            "with SeaBIOS a passed-through card needs a legacy video BIOS and often stays dark",
            "set 'firmware: ovmf' before the guest is installed",
            blocks=False,
        )


def _check_network(vm: VmSpec) -> Iterator[SpecFinding]:
    network = vm.network
    if network.address == "dhcp":
        if network.gateway:
            yield SpecFinding(
                "vm-gateway-with-dhcp",
                vm.host,
                ("vm", "network", "gateway"),
                "DHCP brings its own gateway, this one would not be used",
                "remove 'gateway', or give a static 'address'",
            )
        return
    interface = ipaddress.IPv4Interface(network.address)
    at = ("vm", "network", "gateway")
    if network.gateway is None:
        yield SpecFinding(
            "vm-gateway-missing",
            vm.host,
            ("vm", "network", "address"),
            f"no gateway: with {interface} the guest reaches nothing outside {interface.network}",
            "add 'gateway'",
            blocks=False,
        )
    elif ipaddress.ip_address(network.gateway) not in interface.network:
        yield SpecFinding(
            "vm-gateway-outside-network",
            vm.host,
            at,
            f"gateway {network.gateway} is outside {interface.network}, the network of address {interface}",
            "correct the gateway, the address or its prefix length",
        )
    elif network.gateway == str(interface.ip):
        yield SpecFinding(
            "vm-gateway-is-itself", vm.host, at, f"gateway {network.gateway} is the guest's own address"
        )
    if vm.ssh.host != str(interface.ip) and not _is_loopback(vm.ssh.host):
        yield SpecFinding(
            "vm-ansible-host-differs",
            vm.host,
            ("ansible_host",),
            f"Ansible connects to {vm.ssh.host}, the guest's address is {interface.ip}",
            "set \"ansible_host: '{{ vm.network.address.split('/')[0] }}'\" in group_vars/guests.yml",
            blocks=False,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_login(vm: VmSpec) -> Iterator[SpecFinding]:
    if not vm.user.ssh_keys and not vm.user.password_hash:
        yield SpecFinding(
            "vm-no-login",
            vm.host,
            ("vm", "user", "ssh_keys"),
            f"nobody could log in as {vm.user.name}: neither an SSH key nor a password",
            "set 'ssh_keys: auto' or list public keys",
        )
    if vm.user.name == "root":
        yield SpecFinding(
            "vm-user-root",
            vm.host,
            ("vm", "user", "name"),
            "cloud images lock root: cloud-init refuses its SSH logins",
            "name an ordinary user; it gets sudo",
        )


def check_site(nodes: Collection[str], vms: Iterable[AnyVm]) -> Iterator[SpecFinding]:
    """Rules between hosts; `nodes` are inventory names. A vmid belongs to the whole site, as to a cluster."""
    guests = tuple(vms)
    for vm in guests:
        if vm.node not in nodes:
            yield SpecFinding(
                "node-unknown",
                vm.host,
                ("vm", "node"),
                f"no host {vm.node!r} in the group 'nodes'",
                did_you_mean(vm.node, nodes) or "describe the node in host_vars",
            )
    yield from _twice(guests, "vmid-used-twice", ("vm", "vmid"), lambda vm: vm.vmid)
    yield from _twice(guests, "vm-name-used-twice", ("vm", "name"), lambda vm: vm.name.lower())
    yield from _twice(guests, "vm-address-used-twice", ("vm", "network", "address"), _static_ip)
    yield from _twice(guests, "vm-mac-used-twice", ("vm", "network", "mac"), _mac)
    yield from _gateway_taken(guests)


def _static_ip(vm: AnyVm) -> str | None:
    if vm.network is None or vm.network.address == "dhcp":
        return None
    return vm.network.address.split("/")[0]


def _mac(vm: AnyVm) -> str | None:
    return vm.network.mac if vm.network else None


def _gateway_taken(guests: tuple[AnyVm, ...]) -> Iterator[SpecFinding]:
    gateways = {vm.network.gateway for vm in guests if vm.network and vm.network.gateway}
    for vm in guests:
        own_gateway = vm.network.gateway if vm.network else None
        if (address := _static_ip(vm)) in gateways and address != own_gateway:
            yield SpecFinding(
                "vm-address-is-gateway",
                vm.host,
                ("vm", "network", "address"),
                f"{address} is the gateway of other guests",
            )


def _twice(
    guests: tuple[AnyVm, ...], code: str, path: KeyPath, key: Callable[[AnyVm], Hashable | None]
) -> Iterator[SpecFinding]:
    owners: defaultdict[Hashable, list[str]] = defaultdict(list)
    for vm in guests:
        if (value := key(vm)) is not None:
            owners[value].append(vm.host)
    for value, hosts in owners.items():
        for host in hosts[1:]:
            yield SpecFinding(code, host, path, f"{value} is already used by {hosts[0]}")
