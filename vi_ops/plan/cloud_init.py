"""Cloud-init's part of a VM's config: user, keys, addresses, DNS, snippets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from vi_ops.facts.vm import ConfigValue, VmFacts
from vi_ops.plan.diff import Properties, Wanted, is_same, parse_net
from vi_ops.plan.step import Param
from vi_ops.specs.vm import VmSpec

KEYS: Final = (
    "ciuser",
    "cipassword",
    "sshkeys",
    "ciupgrade",
    "ipconfig0",
    "nameserver",
    "searchdomain",
    "cicustom",
)
SECRET: Final = frozenset({"cipassword"})
# What the guest reads, and of which no node tells that it has changed. Source: qemu-server, PVE/API2/Qemu.pm,
# cloudinit_pending: of the options that a VM had before, it compares those of $cloudinitoptions only.
UNTOLD: Final = ("ipconfig0", "net0")


def wanted_cloud_init(spec: VmSpec) -> dict[str, Wanted]:
    """The cloud-init keys that the spec states. What it leaves open (DNS, password, snippets) is not in it.

    `sshkeys` is percent-encoded: the API stores that text as it is. `cipassword` is a hash, because on
    creation the node stores what it gets. Source: qemu-server, src/PVE/API2/Qemu.pm.
    """
    user, network = spec.user, spec.network
    wanted: dict[str, Wanted] = {
        "ciuser": user.name,
        "ciupgrade": spec.cloud_init.upgrade_packages,
        "ipconfig0": _ipconfig(spec),
    }
    if "ssh_keys" in user.model_fields_set:
        wanted["sshkeys"] = quote("\n".join(user.ssh_keys), safe="") or None
    if user.password_hash:
        wanted["cipassword"] = user.password_hash
    if "nameservers" in network.model_fields_set:
        wanted["nameserver"] = " ".join(network.nameservers) or None
    if "search_domain" in network.model_fields_set:
        wanted["searchdomain"] = network.search_domain
    if spec.cloud_init.model_fields_set & {"user_data", "vendor_data"}:
        wanted["cicustom"] = {"user": spec.cloud_init.user_data, "vendor": spec.cloud_init.vendor_data}
    return wanted


def _ipconfig(spec: VmSpec) -> Properties:
    gateway = spec.network.gateway if spec.network.address != "dhcp" else None
    return {"ip": spec.network.address, "gw": gateway}


def is_same_to_guest(key: str, one: Param | None, other: ConfigValue | None) -> bool:
    """Whether two values of a config key are one in cloud-init's data, which has of a NIC only the MAC."""
    if key.startswith("net"):
        return parse_net(str(one or "")).get("macaddr") == parse_net(str(other or "")).get("macaddr")
    return not isinstance(one, tuple) and is_same(key, one, other)


def unread(vm: VmFacts, params: Mapping[str, Param]) -> tuple[str, ...]:
    """Keys whose value a running guest reads at its next start only, once a config call has written `params`.

    Proxmox makes the drive with cloud-init's data anew at every start. Source: qemu-server,
    src/PVE/QemuServer/Cloudinit.pm.
    """
    if not vm.is_running:
        return ()
    seen = {**vm.config, **vm.started_with}
    deleted = str(params.get("delete", "")).split(",")
    new = {key: value for key, value in params.items() if key in {*KEYS, "net0"}}
    left = {key for key in vm.started_with if key not in new and key not in deleted}
    gone = {key for key in deleted if key in KEYS and seen.get(key) is not None}
    other = {key for key, value in new.items() if not is_same_to_guest(key, value, seen.get(key))}
    return tuple(sorted(left | gone | other))
