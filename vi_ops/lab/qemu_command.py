"""From a VM's config to QEMU's argument list. Pure: whatever has to be looked up is handed in.

What the numbers rest on (QEMU 7.2, TCG, two cores, Debian 13 guest) is written where each is used.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.drive import Drive, drives, is_cdrom
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.nic import parse_nic

Config = Mapping[str, str | int]

_SLOT: Final = re.compile(r"(ide|sata|scsi|virtio)(\d+)")
_NET: Final = re.compile(r"net(\d+)")
_FORMATS: Final = {".qcow2": "qcow2", ".raw": "raw", ".vmdk": "vmdk", ".iso": "raw", ".img": "raw"}
_NET_MODELS: Final = {"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139"}
_CACHES: Final = {"writethrough": "writethrough", "directsync": "directsync", "unsafe": "unsafe"}
_SCSI_HARDWARE: Final = {"lsi": "lsi", "megasas": "megasas", "pvscsi": "pvscsi"}


@dataclass(frozen=True)
class GuestFiles:
    """One guest's files outside its storage. Socket paths are under the 107 bytes that Linux allows."""

    pid: Path
    qmp: Path
    agent: Path
    serial: Path
    console_log: Path
    qemu_log: Path
    temporary_vars: Path


@dataclass(frozen=True)
class Host:
    """What this machine can do. `firmware` is where Debian and Ubuntu put OVMF."""

    has_kvm: bool
    cpus: int
    firmware: Path = Path("/usr/share/OVMF")


@dataclass(frozen=True)
class Surroundings:
    """What a config refers to: volumes, bridges (name to its CIDR), and the local port that leads to SSH."""

    locate: Callable[[str], Path]
    bridges: Mapping[str, str]
    ssh_port: int | None
    boots: bool = True


def qemu_command(
    vmid: int, config: Config, files: GuestFiles, host: Host, around: Surroundings
) -> tuple[str, ...]:
    """The argument list that runs the VM of `config` (options in force, volids in drives), daemonized.

    Raises GuestError, in Proxmox's words, for what QEMU could not run here: too many processors, a model
    or firmware that is absent.
    """
    order = boot_order(config)
    return (
        "qemu-system-x86_64",
        *("-name", _escape(str(config.get("name", f"VM {vmid}")))),
        *("-no-user-config", "-nodefaults", "-display", "none"),
        *("-daemonize", "-pidfile", str(files.pid), "-D", str(files.qemu_log)),
        *("-chardev", f"socket,id=qmp,path={_escape(files.qmp)},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *_machine(config, host),
        *_firmware(config, files, host, around),
        *_processors(config, host),
        *("-m", str(memory_mib(config))),
        *("-rtc", "base=localtime" if _is_on(config, "localtime") else "base=utc,driftfix=slew"),
        *("-boot", "menu=off,strict=on,reboot-timeout=1000"),
        *_identity(config),
        *_serial(config, files),
        *_agent(config, files),
        *_small_devices(config),
        *_drives(config, order, around),
        *_nets(config, order, around),
        *shlex.split(str(config.get("args", ""))),
    )


def memory_mib(config: Config) -> int:
    """Configured memory: `memory` is a property string in both releases; Proxmox's default is 512 MiB."""
    return int(parse_property_string(str(config.get("memory", 512)), "current")["current"])


def is_q35(config: Config) -> bool:
    """Whether the machine is a q35; versions such as `pc-q35-9.2+pve1` are not pinned in the lab."""
    return "q35" in str(config.get("machine", "pc"))


def boot_order(config: Config) -> tuple[str, ...]:
    """Devices the firmware may boot from, first first. Only those listed are bootable."""
    return tuple(filter(None, re.sub(r"^order=", "", str(config.get("boot", ""))).split(";")))


def volume_format(path: Path) -> str:
    """QEMU's name for a volume's format, from its suffix, as Proxmox tells it on a directory storage."""
    return _FORMATS.get(path.suffix, "raw")


def _escape(value: object) -> str:
    # QEMU's own quoting in option lists: a comma is written twice.
    return str(value).replace(",", ",,")


def _is_on(config: Config, key: str, default: int = 0) -> bool:
    return str(config.get(key, default)) in {"1", "on", "yes", "true"}


def _machine(config: Config, host: Host) -> list[str]:
    machine = "q35" if is_q35(config) else "pc"
    smm = "on" if _has_secure_boot(config) else "off"
    accel = "kvm" if host.has_kvm else "tcg,thread=multi"
    return ["-machine", f"{machine},smm={smm},vmport=off", "-accel", accel]


def _has_secure_boot(config: Config) -> bool:
    efidisk = parse_property_string(str(config.get("efidisk0", "")), "file")
    return config.get("bios") == "ovmf" and is_q35(config) and efidisk.get("pre-enrolled-keys") == "1"


def _firmware(config: Config, files: GuestFiles, host: Host, around: Surroundings) -> list[str]:
    if config.get("bios") != "ovmf":
        return []
    secure = _has_secure_boot(config)
    code = host.firmware / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
    efidisk = parse_property_string(str(config.get("efidisk0", "")), "file").get("file")
    variables = around.locate(efidisk) if efidisk else files.temporary_vars
    argv = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escape(code)}"]
    argv += ["-drive", f"if=pflash,unit=1,id=drive-efidisk0,format={volume_format(variables)}"]
    argv[-1] += f",file={_escape(variables)}"
    return [*argv, "-global", "driver=cfi.pflash01,property=secure,value=on"] if secure else argv


def _processors(config: Config, host: Host) -> list[str]:
    sockets, cores = int(config.get("sockets", 1)), int(config.get("cores", 1))
    total = sockets * cores
    if total > host.cpus:
        raise GuestError(f"MAX {host.cpus} vcpus allowed per VM on this node")
    online = int(config.get("vcpus", total))
    return [
        "-smp",
        f"{online},sockets={sockets},cores={cores},maxcpus={total}",
        "-cpu",
        _cpu_model(config, host),
    ]


def _cpu_model(config: Config, host: Host) -> str:
    """The processor. TCG has no `host`; `max` is all it can emulate, whatever model the config names."""
    if not host.has_kvm:
        return "max"
    model = parse_property_string(str(config.get("cpu", "kvm64")), "cputype").get("cputype", "kvm64")
    # x86-64-v* are models of Proxmox's own build of QEMU.
    return "host" if model.startswith("x86-64-") else model


def _identity(config: Config) -> list[str]:
    argv = []
    if smbios := parse_property_string(str(config.get("smbios1", ""))):
        is_encoded = smbios.pop("base64", "0") == "1"
        fields = {
            key: base64.b64decode(value).decode() if is_encoded and key != "uuid" else value
            for key, value in smbios.items()
        }
        argv += ["-smbios", "type=1," + ",".join(f"{key}={_escape(value)}" for key, value in fields.items())]
    if generation := config.get("vmgenid"):
        argv += ["-device", f"vmgenid,guid={generation}"]
    return argv


def _serial(config: Config, files: GuestFiles) -> list[str]:
    if config.get("serial0") != "socket":
        return []
    socket = f"socket,id=serial0,path={_escape(files.serial)},server=on,wait=off"
    return [
        "-chardev",
        f"{socket},logfile={_escape(files.console_log)}",
        "-device",
        "isa-serial,chardev=serial0",
    ]


def agent_is_enabled(config: Config) -> bool:
    """Whether the config gives the guest an agent port: `1`, `enabled=1,...`."""
    agent = parse_property_string(str(config.get("agent", 0)), "enabled")
    return agent.get("enabled") in {"1", "on", "yes", "true"}


def _agent(config: Config, files: GuestFiles) -> list[str]:
    if not agent_is_enabled(config):
        return []
    return [
        *("-chardev", f"socket,id=qga0,path={_escape(files.agent)},server=on,wait=off"),
        *("-device", "virtio-serial-pci,id=qga0"),
        *("-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"),
    ]


def _small_devices(config: Config) -> list[str]:
    # The generator is there unasked: a guest under TCG otherwise waits for entropy before it makes host keys.
    argv = ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    if str(config.get("balloon", "")) != "0":
        argv += ["-device", "virtio-balloon-pci,id=balloon0"]
    return argv


def _drives(config: Config, order: tuple[str, ...], around: Surroundings) -> list[str]:
    values = {key: str(value) for key, value in config.items()}
    disks = {name: drive for name, drive in drives(values).items() if _SLOT.fullmatch(name)}
    argv = _shared_controllers(disks, str(config.get("scsihw", "lsi")))
    for name, drive in disks.items():
        if around.boots or is_cdrom(drive):
            controller, device = _attachment(name, drive, config)
            argv += [*controller, "-drive", _backend(name, drive, around)]
            argv += ["-device", f"{device},drive=drive-{name},id={name}{_traits(name, drive)}"]
            argv[-1] += _boot_index(name, order)
    return argv


def _shared_controllers(disks: Mapping[str, Drive], hardware: str) -> list[str]:
    argv = ["-device", "ahci,id=ahci0"] if any(name.startswith("sata") for name in disks) else []
    if hardware != "virtio-scsi-single" and any(name.startswith("scsi") for name in disks):
        argv += ["-device", f"{_SCSI_HARDWARE.get(hardware, 'virtio-scsi-pci')},id=scsihw0"]
    return argv


def _backend(name: str, drive: Drive, around: Surroundings) -> str:
    words = [f"if=none,id=drive-{name}"]
    if drive["file"] not in {"none", "cdrom"}:
        path = around.locate(drive["file"])
        words += [f"file={_escape(path)}", f"format={volume_format(path)}"]
    if is_cdrom(drive):
        return ",".join([*words, "media=cdrom"])
    # Proxmox's default is cache=none; not every file system that a lab may lie on knows O_DIRECT.
    words.append(f"cache={_CACHES.get(drive.get('cache', 'none'), 'writeback')}")
    if drive.get("discard") == "on":
        words.append("discard=unmap,detect-zeroes=unmap")
    if drive.get("ro") == "1":
        words.append("readonly=on")
    return ",".join(words)


def _traits(name: str, drive: Drive) -> str:
    if is_cdrom(drive):
        return ""
    traits = ",rotation_rate=1" if drive.get("ssd") == "1" and not name.startswith("virtio") else ""
    return traits + (f",serial={_escape(unquote(drive['serial']))}" if "serial" in drive else "")


def _attachment(name: str, drive: Drive, config: Config) -> tuple[list[str], str]:
    """What a drive's own controller needs, and the device with its place on the bus."""
    match = _SLOT.fullmatch(name)
    assert match  # noqa: S101  only names that match get here
    bus, index = match[1], int(match[2])
    kind = "cd" if is_cdrom(drive) else "hd"
    if bus == "virtio":
        thread, of = _iothread(name, drive)
        return thread, f"virtio-blk-pci{of}"
    if bus == "scsi" and config.get("scsihw") == "virtio-scsi-single":
        thread, of = _iothread(f"virtioscsi{index}", drive)
        return [*thread, "-device", f"virtio-scsi-pci,id=virtioscsi{index}{of}"], (
            f"scsi-{kind},bus=virtioscsi{index}.0,channel=0,scsi-id=0,lun={index}"
        )
    if bus == "scsi":
        return [], f"scsi-{kind},bus=scsihw0.0,scsi-id={index}"
    if bus == "sata":
        return [], f"ide-{kind},bus=ahci0.{index}"
    # q35's own controller has one drive to a port, PIIX two.
    place = f"bus=ide.{index}" if is_q35(config) else f"bus=ide.{index // 2},unit={index % 2}"
    return [], f"ide-{kind},{place}"


def _iothread(name: str, drive: Drive) -> tuple[list[str], str]:
    if drive.get("iothread") != "1":
        return [], ""
    return ["-object", f"iothread,id=iothread-{name}"], f",iothread=iothread-{name}"


def _boot_index(key: str, order: tuple[str, ...]) -> str:
    return f",bootindex={100 + order.index(key)}" if key in order else ""


def _nets(config: Config, order: tuple[str, ...], around: Surroundings) -> list[str]:
    argv: list[str] = []
    for key, value in sorted(config.items()):
        if match := _NET.fullmatch(key):
            argv += _net(int(match[1]), str(value), config, order, around)
    return argv


def _net(index: int, text: str, config: Config, order: tuple[str, ...], around: Surroundings) -> list[str]:
    nic = parse_nic(text)
    if nic["model"] not in _NET_MODELS:
        raise GuestError(f"net{index}: the lab has no network card of model '{nic['model']}'")
    backend = f"user,id=net{index}" + _user_network(index, nic.get("bridge", ""), config, around)
    # No boot ROM: there is no boot server behind a user-mode network.
    device = f"{_NET_MODELS[nic['model']]},netdev=net{index},id=net{index}-card,romfile="
    if "macaddr" in nic:
        device += f",mac={nic['macaddr']}"
    if index < 6:  # where Proxmox places them, so that more disks do not rename a guest's interfaces
        device += f",bus={'pcie.0' if is_q35(config) else 'pci.0'},addr={0x12 + index:#x}"
    return ["-netdev", backend, "-device", device + _boot_index(f"net{index}", order)]


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
    text = f",net={network},host={loopback},dns={interface.ip},dhcpstart={first}"
    if index == 0 and around.ssh_port:
        address = guest_address(config) or first
        if address in network:
            text += f",hostfwd=tcp:127.0.0.1:{around.ssh_port}-{address}:22"
    return text


def guest_address(config: Config) -> ipaddress.IPv4Address | None:
    """The static IPv4 address of net0, if `ipconfig0` gives one."""
    address = parse_property_string(str(config.get("ipconfig0", ""))).get("ip", "dhcp")
    return None if address in {"dhcp", "manual"} else ipaddress.IPv4Interface(address).ip
