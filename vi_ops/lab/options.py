"""The options of a VM: which exist, how their values are typed, and who may set them.

Source: qemu-server, PVE/QemuServer.pm (confdesc) and PVE/API2/Qemu.pm (check_vm_modify_config_perm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.drive import is_drive
from vi_ops.lab.route import Refusal, parameter_error


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEAN: Final = _words(
    "acpi allow-ksm autostart ciupgrade freeze keephugepages kvm localtime numa onboot protection reboot"
    " tablet tdf template"
)
INTEGER: Final = _words("balloon cores cpuunits migrate_speed shares smp sockets vcpus")
_TEXT: Final = _words(
    "affinity agent amd-sev arch args audio0 bios boot bootdisk cdrom cicustom cipassword citype ciuser cpu"
    " cpulimit description efidisk0 hookscript hotplug hugepages intel-tdx ivshmem keyboard lock machine"
    " memory migrate_downtime name nameserver ostype rng0 scsihw searchdomain smbios1 spice_enhancements"
    " sshkeys startdate startup tags tpmstate0 vga vmgenid vmstatestorage watchdog"
)
# Written by the node itself; nobody sets them through the API.
STATE: Final = _words("meta parent vmstate runningmachine runningcpu snaptime snapstate")
_SLOTS: Final = {
    "net": 32,
    "ipconfig": 32,
    "hostpci": 16,
    "usb": 14,
    "scsi": 31,
    "ide": 4,
    "sata": 6,
    "virtio": 16,
    "serial": 4,
    "parallel": 3,
    "numa": 8,
    "virtiofs": 10,
    "unused": 256,
}
CLOUDINIT: Final = _words("cicustom cipassword citype ciuser ciupgrade nameserver searchdomain sshkeys")

_PRIVILEGE: Final[dict[str, tuple[str, ...]]] = {
    "VM.Config.CPU": (
        "cores",
        "cpu",
        "runningcpu",
        "cpulimit",
        "cpuunits",
        "numa",
        "smp",
        "sockets",
        "vcpus",
    ),
    "VM.Config.Memory": ("memory", "balloon", "shares", "allow-ksm"),
    "VM.Config.HWType": (
        *("acpi", "hotplug", "kvm", "machine", "runningmachine", "scsihw", "smbios1", "tablet", "vga"),
        *("watchdog", "audio0", "rng0"),
    ),
    "VM.Config.Options": (
        *("agent", "autostart", "bios", "description", "keyboard", "localtime", "migrate_downtime"),
        *("migrate_speed", "name", "onboot", "ostype", "protection", "reboot", "startdate", "startup"),
        *("tdf", "template", "tags"),
    ),
    "VM.PowerMgmt": ("freeze",),
    "VM.Config.Disk": ("boot", "bootdisk", "vmstatestorage"),
}
_PRIVILEGE_OF: Final = {option: privilege for privilege, options in _PRIVILEGE.items() for option in options}
_INDEXED: Final = re.compile(r"([a-z]+)(\d+)")
_TRUE: Final = frozenset({"1", "on", "yes", "true"})
_FALSE: Final = frozenset({"0", "off", "no", "false"})


@dataclass(frozen=True)
class Need:
    """What a change asks for. `path` None means the VM itself (or, at creation, its pool)."""

    privileges: tuple[str, ...]
    path: str | None = None
    any: bool = False


def split_index(option: str) -> tuple[str, int] | None:
    """`net0` as ("net", 0) where that slot exists, else None."""
    match = _INDEXED.fullmatch(option)
    if match and match[1] in _SLOTS and int(match[2]) < _SLOTS[match[1]] and str(int(match[2])) == match[2]:
        return match[1], int(match[2])
    return None


def exists(option: str) -> bool:
    """Whether Proxmox knows an option of this name."""
    return option in BOOLEAN or option in INTEGER or option in _TEXT or split_index(option) is not None


def parse_boolean(text: str) -> bool:
    """Proxmox's words for yes and no, in files and property strings. Raises ValueError for others."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"expected a boolean, got {text!r}")
    return word in _TRUE


def typed(option: str, text: str) -> str | int:
    """The value as the API's JSON has it: whole numbers and booleans are numbers, everything else text.

    `memory` and `cpulimit` are text. Source: qemu-server, PVE/QemuServer.pm, check_type.
    """
    if option in BOOLEAN:
        return int(parse_boolean(text))
    return int(text) if option in INTEGER or option == "snaptime" else text


def needs(option: str) -> tuple[Need, ...]:
    """What setting or deleting an option asks for; nothing where its value decides (see `value_needs`).

    Raises Refusal(500) for an option of root alone.
    """
    slot = split_index(option)
    family = slot[0] if slot else option
    if is_drive(option) or family in ("cdrom", "unused", "serial", "usb", "hostpci", "virtiofs"):
        return ()
    if option == "startup":
        return Need(("VM.Config.Options",)), Need(("Sys.Modify",), "/")
    if family == "numa":
        return (Need(("VM.Config.CPU",)),)
    if family == "net":
        return (Need(("VM.Config.Network",)),)
    if option in CLOUDINIT or family == "ipconfig":
        return (Need(("VM.Config.Cloudinit", "VM.Config.Network"), any=True),)
    if option in _PRIVILEGE_OF:
        return (Need((_PRIVILEGE_OF[option],)),)
    raise Refusal(500, f"only root can set '{option}' config")


def value_needs(option: str, value: str, verb: str = "set") -> Iterator[Need]:
    """What a device's value asks for. Raises Refusal for real devices: those are root's.

    `verb` is the word in the refusal for serial ports: set at creation, modify or delete later.
    """
    family = (split_index(option) or (option, 0))[0]
    if family == "serial":
        if value != "socket":
            raise Refusal(500, f"only root can {verb} '{option}' config for real devices")
        yield Need(("VM.Config.HWType",))
    elif family == "usb":
        yield from _usb_needs(option, value)
    elif family == "hostpci":
        yield from _hostpci_needs(option, value)
    elif family == "virtiofs":
        yield Need(("VM.Config.Disk",))
        yield Need(("Mapping.Use",), f"/mapping/dir/{parse_property_string(value, 'dirid')['dirid']}")
    elif option == "rng0" and parse_property_string(value, "source").get("source") == "/dev/hwrng":
        yield Need(("Mapping.Use",), "/mapping/hwrng")


def _usb_needs(option: str, value: str) -> Iterator[Need]:
    yield Need(("VM.Config.HWType",))
    device = parse_property_string(value, "host")
    if "host" in device:
        if device["host"].lower() != "spice":
            raise Refusal(500, f"only root can set '{option}' config for real devices")
    elif "mapping" in device:
        yield Need(("Mapping.Use",), f"/mapping/usb/{device['mapping']}")
    else:
        raise Refusal(500, "either 'host' or 'mapping' must be set.")


def _hostpci_needs(option: str, value: str) -> Iterator[Need]:
    device = parse_property_string(value, "host")
    if "host" in device:
        raise Refusal(500, f"only root can set '{option}' config for non-mapped devices")
    if "mapping" not in device:
        raise Refusal(500, "either 'host' or 'mapping' must be set.")
    yield Need(("Mapping.Use",), f"/mapping/pci/{device['mapping']}")
    yield Need(("VM.Config.HWType",))
    if "romfile" in device:
        raise parameter_error(**{option: "only root@pam can set 'romfile' option"})
