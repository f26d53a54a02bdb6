"""The cloud-init drive: texts in Proxmox's layout, and the ISO that carries them.

The layout is what guests and tests see, so it is Proxmox's to the blank.
Source: qemu-server, PVE/QemuServer/Cloudinit.pm (nocloud).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.drive import is_cloudinit, parse_drive
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.nic import parse_nic
from vi_ops.lab.node import Node
from vi_ops.lab.program import Log, qemu_img, run
from vi_ops.lab.volume import CLOUDINIT_BYTES

Config = Mapping[str, str | int]

_DRIVE: Final = re.compile(r"(?:ide|sata|scsi)\d+")
_NET: Final = re.compile(r"net(\d+)")
_SNIPPET_BYTES: Final = 1024**2
_FILES_BYTES: Final = 3 * 1024**2


def user_data(config: Config, vmid: int) -> str:
    """The generated user-data; `sshkeys` is percent-encoded in the config, the password is as stored."""
    hostname, fqdn = _names(config, vmid)
    user = config.get("ciuser")
    lines = ["#cloud-config", f"hostname: {hostname}", "manage_etc_hosts: true", f"fqdn: {fqdn}"]
    if user is not None:
        lines.append(f"user: {user}")
    if user == "root":
        lines.append("disable_root: False")
    if "cipassword" in config:
        lines.append(f"password: {config['cipassword']}")
    if "sshkeys" in config:
        lines.append("ssh_authorized_keys:")
        lines += [f"  - {key}" for key in unquote(str(config["sshkeys"])).split("\n") if key.strip()]
    lines += ["chpasswd:", "  expire: False"]
    if user != "root":
        lines += ["users:", "  - default"]
    if str(config.get("ciupgrade", 1)) == "1":
        lines.append("package_upgrade: true")
    return "\n".join(lines) + "\n"


def network_config(config: Config, nameservers: Sequence[str] = ()) -> str:
    """Network version 1, cards matched by lower-case MAC; one without `ipconfigN` is left out.

    `nameservers` are the node's own, for a config that names none.
    """
    lines = ["version: 1", "config:"]
    for key in sorted(config):
        match = _NET.fullmatch(key)
        if match and (address := config.get(f"ipconfig{match[1]}")):
            lines += _interface(int(match[1]), str(config[key]), str(address))
    servers = str(config["nameserver"]).split() if "nameserver" in config else list(nameservers)
    lines.append("    - type: nameserver")
    lines += _quoted("address", servers)
    lines += _quoted("search", str(config.get("searchdomain", "")).split())
    return "\n".join(lines) + "\n"


def meta_data(user: str, network: str) -> str:
    """An instance-id made of the other two texts: any change of theirs is a new instance to cloud-init."""
    digest = hashlib.sha1((user + network).encode(), usedforsecurity=False).hexdigest()
    return f"instance-id: {digest}\n"


def cloudinit_drive(config: Config) -> str | None:
    """The volid of the cloud-init drive, None where the VM has none."""
    for key in sorted(config):
        if _DRIVE.fullmatch(key) and is_cloudinit(drive := parse_drive(str(config[key]))):
            return drive["file"]
    return None


def node_nameservers(node: Node) -> list[str]:
    """What guests resolve with when their config does not say: QEMU answers at the bridge's address."""
    cidrs = [str(bridge["cidr"]) for bridge in node.bridges.values() if "cidr" in bridge]
    return [str(ipaddress.ip_interface(cidr).ip) for cidr in cidrs[:1]]


def seed(node: Node, vmid: int, config: Config) -> dict[str, str]:
    """The four files of the drive by name; snippets of `cicustom` replace what is generated."""
    custom = {
        kind: _snippet(node, volid)
        for kind, volid in parse_property_string(str(config.get("cicustom", ""))).items()
    }
    user = custom.get("user", user_data(config, vmid))
    network = custom.get("network", network_config(config, node_nameservers(node)))
    files = {
        "user-data": user,
        "network-config": network,
        "meta-data": custom.get("meta", meta_data(user, network)),
        "vendor-data": custom.get("vendor", ""),
    }
    if sum(len(text.encode()) for text in files.values()) > _FILES_BYTES:
        raise GuestError("Cloud-Init sum of snippets too big (> 3 MiB)")
    return files


async def build_iso(node: Node, vmid: int, config: Config, log: Log) -> Path | None:
    """Write the cloud-init volume anew, in one step, and give its path; None without such a drive.

    A guest that runs keeps the old file open until its medium is changed.
    """
    volid = cloudinit_drive(config)
    if volid is None:
        return None
    if str(config.get("citype", "nocloud")) != "nocloud":
        raise GuestError(f"missing cloudinit methods for format '{config['citype']}'")
    files = seed(node, vmid, config)
    log("generating cloud-init ISO")
    volume = node.volume(volid)
    volume.path.parent.mkdir(parents=True, exist_ok=True)
    # The ISO may hold a password: everything is made inside a 0700 folder beside its place.
    with tempfile.TemporaryDirectory(prefix=".cloudinit-", dir=volume.path.parent) as scratch:
        iso, image = Path(scratch) / "seed.iso", Path(scratch) / "seed.image"
        await _make_iso(files, iso)
        await qemu_img("convert", "-f", "raw", "-O", volume.format, iso, image)
        image.chmod(0o600)
        image.replace(volume.path)
    return volume.path


async def _make_iso(files: Mapping[str, str], iso: Path) -> None:
    folder = iso.parent / "files"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    program = ["genisoimage"] if shutil.which("genisoimage") else ["xorriso", "-as", "mkisofs"]
    await run(*program, "-quiet", "-iso-level", "3", "-J", "-R", "-V", "cidata", "-o", str(iso), str(folder))
    with iso.open("r+b") as file:  # the drive is 4 MiB on a node too
        file.truncate(CLOUDINIT_BYTES)


def _names(config: Config, vmid: int) -> tuple[str, str]:
    name = str(config.get("name", f"VM{vmid}"))
    if "." in name:
        return name.partition(".")[0], name
    domain = config.get("searchdomain")
    return name, f"{name}.{domain}" if domain else name


def _interface(index: int, nic: str, address: str) -> list[str]:
    mac = parse_nic(nic).get("macaddr")
    if mac is None:
        raise GuestError(f"network interface 'net{index}' has no mac address")
    ip = parse_property_string(address)
    lines = [
        "    - type: physical",
        f"      name: eth{index}",
        f"      mac_address: '{mac.lower()}'",
        "      subnets:",
    ]
    if "ip" in ip:
        lines += _subnet4(ip["ip"], ip.get("gw"))
    if "ip6" in ip:
        lines += _subnet6(ip["ip6"], ip.get("gw6"))
    return lines


def _subnet4(address: str, gateway: str | None) -> list[str]:
    if address == "dhcp":
        return ["      - type: dhcp4"]
    if "/" not in address:
        raise GuestError(f"not a CIDR: {address}")
    interface = ipaddress.IPv4Interface(address)
    lines = [
        "      - type: static",
        f"        address: '{interface.ip}'",
        f"        netmask: '{interface.netmask}'",
    ]
    return [*lines, f"        gateway: '{gateway}'"] if gateway else lines


def _subnet6(address: str, gateway: str | None) -> list[str]:
    if address in {"dhcp", "auto"}:
        return ["      - type: dhcp6" if address == "dhcp" else "      - type: ipv6_slaac"]
    lines = ["      - type: static6", f"        address: '{address}'"]
    return [*lines, f"        gateway: '{gateway}'"] if gateway else lines


def _quoted(key: str, values: Sequence[str]) -> list[str]:
    return [f"      {key}:", *(f"      - '{value}'" for value in values)] if values else []


def _snippet(node: Node, volid: str) -> str:
    volume = node.volume(volid)
    if volume.content != "snippets":
        raise GuestError(f"{volid} is not in the snippets directory")
    if not volume.path.is_file():
        raise GuestError(f"volume '{volid}' does not exist")
    if volume.path.stat().st_size > _SNIPPET_BYTES:
        raise GuestError(f"'{volume.path}' is too big (> 1 MiB)")
    return volume.path.read_text()
