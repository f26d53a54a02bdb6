"""What a VM should be; and what is known of a VM that vi-ops leaves alone."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from vi_ops.specs.model import ConfigId, Matches, SizeBytes, Spec, StorageId
from vi_ops.specs.ssh import PublicKey, SshTarget
from vi_ops.units import GIB, MIB

# A guest's name is its DNS name: Proxmox refuses anything else (qemu-server, format dns-name).
DnsName = Annotated[
    str,
    Matches(
        r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9\-]{0,61}[A-Za-z0-9])?)*",
        "a DNS name of letters, digits and '-' (no '_'), at most 63 characters, such as 'video-intelligence'",
    ),
]
# The second digit is even: a group address cannot belong to a NIC (pve-common, format mac-addr).
_Mac = Matches(
    r"[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
    "a unicast MAC address such as 'BC:24:11:00:01:06', in quotes",
)
UserName = Annotated[str, Matches(r"[a-z_][a-z0-9_\-]{0,31}", "a Linux user name such as 'smith'")]
Tag = Annotated[
    str, Matches(r"[A-Za-z0-9_][A-Za-z0-9_\-+.]*", "a tag of letters, digits, '_', '-', '+' and '.'")
]
Bridge = Annotated[str, Matches(r"[A-Za-z][A-Za-z0-9_.\-]{0,14}", "a bridge or vnet such as 'vmbr0'")]
# Both stand inside property strings, which cannot hold a comma (pve-common, parse_property_string).
Snippet = Annotated[
    str,
    Matches(r"[A-Za-z][\w.\-]*:snippets/[^\s,]+", "a snippet's volid such as 'local:snippets/extra.yaml'"),
]
Image = Annotated[
    str,
    Matches(
        r"[^\s,]+",
        "an image such as 'debian-13' or 'local:import/mine.qcow2', without blanks and commas",
    ),
]
SearchDomain = Annotated[
    str,
    Matches(r"[\w.\-]+( [\w.\-]+)*", "a domain such as 'example.net', or several with blanks in between"),
]
# What the node takes for a hash: any other text it would hash again when it sets it later, yescrypt's `$y$`
# included (qemu-server, src/PVE/API2/Qemu.pm, update_vm_api).
PasswordHash = Annotated[
    str,
    Matches(
        r"\$([156]|2[ay])(\$[^$\s]+){2,}", "a hash as `mkpasswd -m sha-512` prints it, beginning with '$6$'"
    ),
]


def _address(text: str) -> str:
    if text == "dhcp":
        return text
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        raise _refuse(
            "expected 'dhcp' or an IPv4 address with prefix length, such as '192.168.1.106/24'"
        ) from None
    network = interface.network
    if "/" not in text:
        raise _refuse("expected the prefix length too, such as '192.168.1.106/24'")
    if network.prefixlen < 8:  # pve-common, format CIDRv4
        raise _refuse(f"expected a prefix length of 8 to 32, got /{network.prefixlen}")
    if network.prefixlen < 31 and interface.ip in (network.network_address, network.broadcast_address):
        raise _refuse(f"{interface.ip} is the network's or broadcast address of {network}, not a host's")
    return str(interface)


def _ip(text: str) -> str:
    try:
        if "%" not in text:  # a zone means something on one machine only
            return str(ipaddress.ip_address(text))
        raise ValueError(text)
    except ValueError:
        raise _refuse("expected an IP address such as '192.168.1.1'") from None


def _disk_size(size_bytes: int) -> int:
    if size_bytes < GIB or size_bytes % MIB:
        raise _refuse("expected whole MiB, at least 1 GiB")
    return size_bytes


def _memory_size(size_bytes: int) -> int:
    if size_bytes < 16 * MIB or size_bytes % MIB:  # qemu-server, QemuServer/Memory.pm: at least 16 MiB
        raise _refuse("expected whole MiB, at least 16 MiB")
    return size_bytes


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("spec-invalid", "{reason}", {"reason": message})


_KEYS_SCHEMA: Final = {"anyOf": [{"const": "auto"}, {"type": "array", "items": {"type": "string"}}]}

IpAddress = Annotated[str, AfterValidator(_ip)]
Mac = Annotated[str, _Mac, AfterValidator(str.upper)]
MemorySize = Annotated[SizeBytes, AfterValidator(_memory_size)]
CpuType = Annotated[
    str, Matches(r"(custom-)?[A-Za-z0-9][\w.\-]*", "a QEMU CPU model such as 'host' or 'x86-64-v2-AES'")
]


class CpuSpec(Spec):
    """`sockets` times `cores` vCPUs of a QEMU CPU model."""

    type: CpuType = "host"
    sockets: int = Field(default=1, ge=1, le=4)
    cores: int = Field(default=1, ge=1, le=128)


class DiskSpec(Spec):
    """The system disk, scsi0. Grown when the size grows, never shrunk."""

    storage: StorageId
    size: Annotated[SizeBytes, AfterValidator(_disk_size)]


class NetworkSpec(Spec):
    """net0 and ipconfig0."""

    bridge: Bridge = "vmbr0"
    address: Annotated[str, AfterValidator(_address)] = "dhcp"
    """`dhcp`, or an IPv4 address with prefix length: `192.168.1.106/24`."""
    gateway: IpAddress | None = None
    mac: Mac | None = None
    """Chosen by the node when left out."""
    vlan: int | None = Field(default=None, ge=1, le=4094)
    nameservers: tuple[IpAddress, ...] = ()
    """The node's own when left out."""
    search_domain: SearchDomain | None = None


class UserSpec(Spec):
    """The user that cloud-init makes."""

    name: UserName
    ssh_keys: Annotated[tuple[PublicKey, ...], WithJsonSchema(_KEYS_SCHEMA)] = ()
    """`auto`, or a list of `auto`, key texts and paths of `.pub` files. After loading: key texts."""
    password_hash: PasswordHash | None = Field(default=None, repr=False)
    """For the console, as `mkpasswd -m sha-512` prints it; keep it in Ansible Vault."""


class CloudInitSpec(Spec):
    """Cloud-init beyond user and network."""

    storage: StorageId | None = None
    """Where the cloud-init drive lies; the system disk's storage when left out."""
    upgrade_packages: bool = False
    user_data: Snippet | None = None
    vendor_data: Snippet | None = None


class GpuSpec(Spec):
    """A card passed through by its resource mapping."""

    mapping: ConfigId
    model: str | None = None


class UsbSpec(Spec):
    """A USB device passed through by its resource mapping."""

    mapping: ConfigId
    id: Annotated[
        str, Matches("[0-9a-f]{4}:[0-9a-f]{4}", "vendor:product as `lsusb` shows it, such as '174c:55aa'")
    ]
    label: Annotated[str, Matches(r"[^\s/]{1,16}", "a file system label of at most 16 characters")] | None = (
        None
    )
    mount: Annotated[str, Matches(r"/[^\s]+", "an absolute path such as '/mnt/videos'")] | None = None


class VmSpec(Spec):
    """One guest. `host` is its inventory name; `node` the inventory name of its node."""

    host: str
    ssh: SshTarget
    managed: Literal[True] = True
    """`false` for a VM that vi-ops counts and never touches."""
    node: str
    vmid: int = Field(ge=100, le=999_999_999)
    name: DnsName
    """The VM's name and its host name; the inventory name when left out."""
    image: Image
    """Cloud image such as `debian-13` or `ubuntu-24.04`, or a volid on the node."""
    user: UserSpec
    disk: DiskSpec
    description: str = Field(default="", max_length=8192)
    tags: tuple[Tag, ...] = ()
    cpu: CpuSpec = CpuSpec()
    machine: Literal["q35", "i440fx"] = "q35"
    firmware: Literal["ovmf", "seabios"] = "ovmf"
    memory: MemorySize | Literal["auto"] = "auto"
    """A size, or `auto`: as much as the node can give safely."""
    balloon: bool = False
    network: NetworkSpec = NetworkSpec()
    cloud_init: CloudInitSpec = CloudInitSpec()
    gpus: tuple[GpuSpec, ...] = ()
    usb: tuple[UsbSpec, ...] = ()
    start_on_boot: bool = False
    protection: bool = False


class UnmanagedVmSpec(Spec):
    """A VM that is known and counted, but never created, changed, started or destroyed.

    The keys are VmSpec's, so that `managed: true` is all that it takes to hand a complete one over.
    """

    host: str
    managed: Literal[False]
    """`false`: vi-ops never touches this VM."""
    node: str
    vmid: int = Field(ge=100, le=999_999_999)
    name: DnsName
    image: Image | None = None
    user: UserSpec | None = None
    disk: DiskSpec | None = None
    description: str = Field(default="", max_length=8192)
    tags: tuple[Tag, ...] = ()
    cpu: CpuSpec | None = None
    machine: Literal["q35", "i440fx"] | None = None
    firmware: Literal["ovmf", "seabios"] | None = None
    memory: MemorySize | None = None
    balloon: bool | None = None
    network: NetworkSpec | None = None
    cloud_init: CloudInitSpec | None = None
    gpus: tuple[GpuSpec, ...] = ()
    usb: tuple[UsbSpec, ...] = ()
    start_on_boot: bool | None = None
    protection: bool | None = None
