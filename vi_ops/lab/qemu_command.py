"""From a VM's config to QEMU's argument list. Pure: whatever has to be looked up is handed in.

Numbers were taken with QEMU 7.2 under TCG on two cores, other work going on, with a Debian 13 guest.
"""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass
from pathlib import Path

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.qemu_drive import drive_arguments
from vi_ops.lab.qemu_nic import nic_arguments
from vi_ops.lab.qemu_option import SPARE_PORTS, Config, Surroundings, escape, is_q35, root_port, volume_format


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


def qemu_command(
    vmid: int, config: Config, files: GuestFiles, host: Host, around: Surroundings
) -> tuple[str, ...]:
    """The argument list that runs the VM of `config` (options in force, volids in drives), daemonized.

    Raises GuestError, in Proxmox's words, for what QEMU could not run here: too many processors, a model
    or firmware that is absent.
    """
    return (
        "qemu-system-x86_64",
        *("-name", escape(str(config.get("name", f"VM {vmid}")))),
        *("-no-user-config", "-nodefaults", "-display", "none"),
        *("-daemonize", "-pidfile", str(files.pid), "-D", str(files.qemu_log)),
        *("-chardev", f"socket,id=qmp,path={escape(files.qmp)},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *_machine(config, host),
        *_firmware(config, files, host, around),
        *_processors(config, host),
        *("-m", str(memory_mib(config))),
        *("-rtc", "base=localtime" if _is_on(config, "localtime") else "base=utc"),
        *("-boot", "menu=off,strict=on,reboot-timeout=1000"),
        *_identity(config),
        *_serial(config, files),
        *_agent(config, files),
        *_small_devices(config),
        *drive_arguments(config, around),
        *nic_arguments(config, around),
        *_spare_ports(config),
        *shlex.split(str(config.get("args", ""))),
    )


def memory_mib(config: Config) -> int:
    """Configured memory: `memory` is a property string in both releases; Proxmox's default is 512 MiB."""
    return int(parse_property_string(str(config.get("memory", 512)), "current")["current"])


def _is_on(config: Config, key: str, default: int = 0) -> bool:
    return str(config.get(key, default)) in {"1", "on", "yes", "true"}


def _machine(config: Config, host: Host) -> list[str]:
    machine = "q35" if is_q35(config) else "pc"
    smm = "on" if _has_secure_boot(config) else "off"
    # Nothing more is to be won under TCG. User seconds of QEMU for kernel, 3 Python starts and 60 forks in
    # the guest: cpu max 22.3, without la57 22.9, without SMAP and PKU 23.1, Nehalem 31.2, tb-size=256 23.4.
    # OVMF to its boot menu: 3.2 s, and the same with VGA, with SMM, with three root ports.
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
    argv = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={escape(code)}"]
    argv += ["-drive", f"if=pflash,unit=1,id=drive-efidisk0,format={volume_format(variables)}"]
    argv[-1] += f",file={escape(variables)}"
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
        argv += ["-smbios", "type=1," + ",".join(f"{key}={escape(value)}" for key, value in fields.items())]
    if generation := config.get("vmgenid"):
        argv += ["-device", f"vmgenid,guid={generation}"]
    return argv


def _serial(config: Config, files: GuestFiles) -> list[str]:
    if config.get("serial0") != "socket":
        return []
    socket = f"socket,id=serial0,path={escape(files.serial)},server=on,wait=off"
    return [
        "-chardev",
        f"{socket},logfile={escape(files.console_log)}",
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
        *("-chardev", f"socket,id=qga0,path={escape(files.agent)},server=on,wait=off"),
        *("-device", "virtio-serial-pci,id=qga0"),
        *("-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"),
    ]


def _spare_ports(config: Config) -> list[str]:
    """Where a running q35 takes a card or a disk's controller; its own bus takes nothing while it runs."""
    if not is_q35(config):
        return []
    return [word for index, name in enumerate(SPARE_PORTS) for word in root_port(name, 1 + index)]


def _small_devices(config: Config) -> list[str]:
    # The generator is there unasked: a guest under TCG otherwise waits for entropy before it makes host keys.
    argv = ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    if str(config.get("balloon", "")) != "0":
        argv += ["-device", "virtio-balloon-pci,id=balloon0"]
    return argv
