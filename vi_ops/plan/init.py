"""The files of an inventory that describes what a node tells of itself and its VMs."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from vi_ops.errors import FactError
from vi_ops.facts.property_string import parse_property_string
from vi_ops.facts.site import SiteFacts
from vi_ops.facts.vm import ConfigValue
from vi_ops.specs.check import check_site, check_vm
from vi_ops.specs.model import INVENTORY
from vi_ops.specs.node import NODE_NAME
from vi_ops.specs.vm import UnmanagedVmSpec
from vi_ops.units import MIB, exact_size, parse_size

_DISKS: Final = tuple(f"{bus}{n}" for bus in ("scsi", "virtio", "sata", "ide") for n in range(4))
_NEVER_SHOWN: Final = frozenset({"cipassword", "digest", "vmgenid", "meta", "smbios1"})
_REQUIRED: Final = frozenset({"host", "managed", "node", "vmid"})
_JINJA: Final = ("{{", "{%", "{#")
_SCHEMA_LINE: Final = "---\n# yaml-language-server: $schema=../.schema/{kind}.json\n"

_HOSTS: Final = """\
---
# One inventory folder describes one site, for Ansible and for vi-ops alike.
# Written by `vi-ops init` from what the node told.
"""
_GUESTS: Final = """\
---
# What guests share. Ansible replaces a mapping such as `vm:` as a whole, it
# does not merge two of them: so share single values under a name of your own,
# and use them in host_vars as "{{ site_user }}".
site_user:
  name: ops
  # `auto` takes the public halves of your own keys; where
  # ansible_ssh_private_key_file is set, the public half of exactly that key.
  ssh_keys: auto
"""
_UNMANAGED: Final = """
# Found on the node. `managed: false`: vi-ops counts this VM (vmid, name,
# address, memory) and never touches it. To hand it over, complete the
# description (`image` and `user` at least; `vi-ops schema vm` prints every key)
# and set `managed: true`.
"""
_REACH: Final = """
# Ansible and vi-ops reach the guest at the address that stands below.
ansible_host: "{{ vm.network.address.split('/')[0] }}"
"""


def site_files(site: SiteFacts, api: Mapping[str, Any]) -> dict[str, str]:
    """Relative path and text of each file; `api` is the mapping `node.api` as it shall be written.

    Every VM is described as unmanaged, by what the inventory has words for; the rest stands in comments. The
    result loads without a finding. Raises FactError for a node whose name is no host name: it names a file.
    """
    if not re.fullmatch(NODE_NAME.pattern, site.node):
        raise FactError("node-name", f"expected {NODE_NAME.expected}, the node calls itself {site.node!r}")
    guests = _describable(site)
    names = {f"vm{vmid}": None for vmid in sorted(site.guests)}
    groups: dict[str, Any] = {"nodes": {"hosts": {site.node: None}}, "guests": {"hosts": names or None}}
    files = {
        "hosts.yml": _HOSTS + dump_yaml({"all": {"children": groups}}),
        "group_vars/guests.yml": _GUESTS,
        f"host_vars/{site.node}.yml": _node_text(site, api),
    }
    for vmid, described in guests.items():
        left = {key: value for key, value in site.guests[vmid].items() if key not in _words_for(described)}
        address = described.get("network", {}).get("address", "dhcp")
        reach = "" if address == "dhcp" else _REACH
        text = _SCHEMA_LINE.format(kind="vm") + reach + _UNMANAGED + dump_yaml({"vm": described})
        text += _left_out(left)
        files[f"host_vars/vm{vmid}.yml"] = text
    return files


def _node_text(site: SiteFacts, api: Mapping[str, Any]) -> str:
    node: dict[str, Any] = {"api": dict(api), "memory": exact_size(site.memory_total_bytes // MIB * MIB)}
    if site.sockets:
        node["sockets"] = site.sockets
    stores = [store.name for store in site.storages if store.content & {"import", "iso"}]
    if stores:
        node["image_storage"] = "local" if "local" in stores else stores[0]
    host = urlsplit(str(api["url"])).hostname
    text = _SCHEMA_LINE.format(kind="node") + dump_yaml({"ansible_host": host, "ansible_user": "root"})
    text += "\n" + dump_yaml({"node": node})
    if site.storages:
        text += (
            "\n# Its storages; `disks` under `node` tells what they lie on: hdd, ssd or nvme.\n#   disks:\n"
        )
    for store in site.storages:
        if not re.fullmatch(r"[\w.\-]+", store.name + store.type):
            continue
        size = exact_size(store.total_bytes // MIB * MIB) if store.total_bytes >= MIB else "1 GiB"
        text += f"#     - {{storage: {store.name}, size: {size}, kind: ssd}}  # {store.type}\n"
    return text


def _describable(site: SiteFacts) -> dict[int, dict[str, Any]]:
    """What can be said of each VM without a finding: a value that the inventory refuses is left out."""
    described = {
        vmid: {"managed": False, "node": site.node, "vmid": vmid, **_describe(site.guests[vmid])}
        for vmid in sorted(site.guests)
    }
    while findings := _refused(site.node, described):
        for vmid, key in findings:
            if described[vmid].pop(key, None) is None:
                # Its name is the default, `vm101`, and another VM is called so: that one goes by its default.
                for other in described.values():
                    if str(other.get("name", "")).lower() == f"vm{vmid}":
                        del other["name"]
    return described


def _refused(node: str, described: Mapping[int, Mapping[str, Any]]) -> set[tuple[int, str]]:
    """Each key (with its VM) that the inventory would refuse."""
    refused: set[tuple[int, str]] = set()
    specs: list[UnmanagedVmSpec] = []
    for vmid, values in described.items():
        raw = {"host": f"vm{vmid}", "name": f"vm{vmid}", **values}
        try:
            specs.append(UnmanagedVmSpec.model_validate(raw, context=INVENTORY))
        except ValidationError as error:
            refused |= {(vmid, str(detail["loc"][0])) for detail in error.errors()}
    if unusable := {(vmid, key) for vmid, key in refused if key in _REQUIRED}:
        raise FactError("node-answer", f"the node tells of VMs that cannot be: {sorted(unusable)}")
    findings = [finding for spec in specs for finding in check_vm(spec)] + list(check_site({node}, specs))
    return refused | {(int(each.host.removeprefix("vm")), str(each.path[1])) for each in findings}


def _describe(config: Mapping[str, ConfigValue]) -> dict[str, Any]:
    """A VM's config in the inventory's words, as far as it has words."""
    described: dict[str, Any] = {}
    for key, read in _READERS.items():
        try:
            value = read(config)
        except (FactError, ValueError, KeyError):
            continue  # it stays among the comments
        if value not in (None, {}, []):
            described[key] = value
    return described


def _name(config: Mapping[str, ConfigValue]) -> str | None:
    return str(config["name"]) if config.get("name") else None


def _description(config: Mapping[str, ConfigValue]) -> str | None:
    return str(config["description"]).rstrip("\n") if config.get("description") else None


def _tags(config: Mapping[str, ConfigValue]) -> list[str]:
    return str(config.get("tags", "")).replace(";", " ").replace(",", " ").split()


def _cpu(config: Mapping[str, ConfigValue]) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if config.get("cpu"):
        cpu["type"] = parse_property_string(str(config["cpu"]), "cputype")["cputype"]
    return cpu | {key: int(config[key]) for key in ("sockets", "cores") if key in config}


def _memory(config: Mapping[str, ConfigValue]) -> str | None:
    if "memory" not in config:
        return None
    return exact_size(int(parse_property_string(str(config["memory"]), "current")["current"]) * MIB)


def _machine(config: Mapping[str, ConfigValue]) -> str:
    return "q35" if "q35" in str(config.get("machine", "")) else "i440fx"


def _firmware(config: Mapping[str, ConfigValue]) -> str:
    return str(config.get("bios", "seabios"))


def _balloon(config: Mapping[str, ConfigValue]) -> bool | None:
    return bool(int(config["balloon"])) if "balloon" in config else None


def _disk(config: Mapping[str, ConfigValue]) -> dict[str, str] | None:
    key = _system_disk(config)
    if key is None:
        return None
    drive = parse_property_string(str(config[key]), "file")
    return {"storage": drive["file"].split(":", 1)[0], "size": exact_size(parse_size(drive["size"]))}


def _system_disk(config: Mapping[str, ConfigValue]) -> str | None:
    """The first disk of the boot order; else the first of all disks."""
    order = parse_property_string(str(config.get("boot", "")), "legacy").get("order", "").split(";")
    disks = [key for key in (*order, str(config.get("bootdisk", "")), *_DISKS) if key in config]
    return next((key for key in disks if key in _DISKS and "media=cdrom" not in str(config[key])), None)


def _network(config: Mapping[str, ConfigValue]) -> dict[str, Any]:
    if "net0" not in config:
        return {}
    nic = parse_property_string(str(config["net0"]))
    mac = nic.get("macaddr") or next((value for value in nic.values() if value.count(":") == 5), None)
    address = _ipconfig(config)
    network = {
        "bridge": nic.get("bridge"),
        "mac": mac,
        "vlan": int(nic["tag"]) if "tag" in nic else None,
        "address": address.get("ip"),
        "gateway": address.get("gw"),
        "nameservers": str(config.get("nameserver", "")).replace(",", " ").split() or None,
        "search_domain": config.get("searchdomain"),
    }
    return {key: value for key, value in network.items() if value is not None}


def _ipconfig(config: Mapping[str, ConfigValue]) -> dict[str, str]:
    try:
        return parse_property_string(str(config.get("ipconfig0", "")))
    except FactError:
        return {}  # the NIC is worth describing without its address


def _user(config: Mapping[str, ConfigValue]) -> dict[str, Any]:
    if not config.get("ciuser"):
        return {}
    keys = unquote(str(config.get("sshkeys", ""))).splitlines()
    return {"name": str(config["ciuser"]), "ssh_keys": [key for key in keys if key.strip()]}


def _gpus(config: Mapping[str, ConfigValue]) -> list[dict[str, str]]:
    cards = [
        parse_property_string(str(config[key]), "host") for key in sorted(config) if key[:7] == "hostpci"
    ]
    return [{"mapping": card["mapping"]} for card in cards if "mapping" in card]


def _flag(key: str) -> Callable[[Mapping[str, ConfigValue]], bool | None]:
    return lambda config: bool(int(config[key])) if key in config else None


_READERS: Final[Mapping[str, Callable[[Mapping[str, ConfigValue]], Any]]] = {
    "name": _name,
    "description": _description,
    "tags": _tags,
    "cpu": _cpu,
    "machine": _machine,
    "firmware": _firmware,
    "memory": _memory,
    "balloon": _balloon,
    "disk": _disk,
    "network": _network,
    "user": _user,
    "gpus": _gpus,
    "start_on_boot": _flag("onboot"),
    "protection": _flag("protection"),
}
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu": ("cpu", "sockets", "cores"),
    "firmware": ("bios",),
    "disk": (),
    "network": ("net0", "ipconfig0", "nameserver", "searchdomain"),
    "user": ("ciuser", "sshkeys"),
    "gpus": (),
    "start_on_boot": ("onboot",),
}


def _words_for(described: Mapping[str, Any]) -> set[str]:
    """The options of Proxmox that a description covers."""
    return {option for key in described for option in _OPTIONS.get(key, (key,))}


def _left_out(config: Mapping[str, ConfigValue]) -> str:
    lines = [
        f"#   {key}: {json.dumps(str(value))[1:-1][:90]}"
        for key, value in sorted(config.items())
        if key not in _NEVER_SHOWN
    ]
    return "".join(f"{line}\n" for line in ("# Also in its config on the node:", *lines)) if lines else ""


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML that Ansible reads back as the same values: by the rules of YAML 1.1, and never as a template.

    What a node tells is data: a description with `{{ }}` in it must not be carried out when the inventory is
    read, so it is marked `!unsafe`.
    """
    yaml = YAML()
    yaml.version = (1, 1)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "")
    )
    text = io.StringIO()
    yaml.dump(_safe(values), text)
    return text.getvalue().split("---\n", 1)[1]


def _safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_safe(item) for item in value]
    if isinstance(value, str) and any(mark in value for mark in _JINJA):
        return TaggedScalar(value, style='"', tag="!unsafe")
    if isinstance(value, str) and not value.isprintable():
        return DoubleQuotedScalarString(value)  # plain, U+0085 and its like would be read as a line's end
    return value
