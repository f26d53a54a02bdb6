"""What a VM should be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vi_ops.specs.model import SizeBytes, Spec
from vi_ops.specs.ssh import SshTarget


class CpuSpec(Spec):
    """`sockets` times `cores` vCPUs of a QEMU CPU model."""

    type: str = "host"
    sockets: int = Field(default=1, ge=1, le=4)
    cores: int = Field(default=1, ge=1, le=128)


class DiskSpec(Spec):
    """The system disk, scsi0. Grown when the size grows, never shrunk."""

    storage: str
    size: SizeBytes


class NetworkSpec(Spec):
    """net0 and ipconfig0. `address` is `dhcp` or an address with prefix length."""

    bridge: str = "vmbr0"
    address: str = "dhcp"
    gateway: str | None = None
    mac: str | None = None
    vlan: int | None = Field(default=None, ge=1, le=4094)
    nameservers: tuple[str, ...] = ()
    search_domain: str | None = None


class UserSpec(Spec):
    """The user that cloud-init makes. `ssh_keys` are public keys, or paths of `.pub` files."""

    name: str
    ssh_keys: tuple[str, ...] = ()
    password_hash: str | None = None


class CloudInitSpec(Spec):
    """Cloud-init beyond user and network. `user_data` and `vendor_data` are volids of snippets."""

    storage: str | None = None
    upgrade_packages: bool = False
    user_data: str | None = None
    vendor_data: str | None = None


class GpuSpec(Spec):
    """A card passed through by its resource mapping."""

    mapping: str
    model: str | None = None


class UsbSpec(Spec):
    """A USB device passed through by its resource mapping; `id` is vendor:product."""

    mapping: str
    id: Annotated[str, Field(pattern="^[0-9a-f]{4}:[0-9a-f]{4}$")]
    label: str | None = None
    mount: str | None = None


class VmSpec(Spec):
    """One guest. `host` is its inventory name; `node` the inventory name of its node."""

    host: str
    ssh: SshTarget
    node: str
    vmid: int = Field(ge=100, le=999_999_999)
    name: str
    image: str
    user: UserSpec
    disk: DiskSpec
    description: str = ""
    tags: tuple[str, ...] = ()
    cpu: CpuSpec = CpuSpec()
    machine: Literal["q35", "i440fx"] = "q35"
    firmware: Literal["ovmf", "seabios"] = "ovmf"
    memory: SizeBytes | Literal["auto"] = "auto"
    balloon: bool = False
    network: NetworkSpec = NetworkSpec()
    cloud_init: CloudInitSpec = CloudInitSpec()
    gpus: tuple[GpuSpec, ...] = ()
    usb: tuple[UsbSpec, ...] = ()
    start_on_boot: bool = False
    protection: bool = False
