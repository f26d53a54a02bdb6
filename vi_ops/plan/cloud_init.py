"""Cloud-init's part of a VM's config: user, keys, addresses, DNS, snippets."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from vi_ops.plan.diff import Properties, Wanted
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
