"""The least rights that vi-ops needs on a node, and the commands by which root grants them once.

Sources: the `permissions` of each call in the published API schema; pve-access-control,
src/PVE/AccessControl.pm, for privileges and how an entry nearer to a path replaces one further up.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vi_ops.facts.access import Rights
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site

DEFAULT_TOKEN: Final = "ops@pve!viops"  # noqa: S105  (a token's id, not its secret)

_GUESTS: Final = (
    *("VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.PowerMgmt", "VM.Snapshot"),
    *("VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.HWType"),
    *("VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"),
)
_SPACE: Final = ("Datastore.AllocateSpace", "Datastore.Audit")
_IMAGES: Final = (*_SPACE, "Datastore.AllocateTemplate")
_NODE: Final = ("Sys.AccessNetwork", "Sys.Audit")
# Release 9 split VM.Monitor; neither release knows the other's privileges, so a role fits one of them only.
_AGENT: Final = {
    8: ("VM.Monitor",),
    9: (
        *("VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileSystemMgmt"),
        *("VM.GuestAgent.FileWrite", "VM.GuestAgent.Unrestricted"),
    ),
}
RELEASES: Final = tuple(_AGENT)


@dataclass(frozen=True)
class Grant:
    """One role on one path, and why it is needed. `reaches_down` is Proxmox's `propagate`."""

    path: str
    role: str
    privileges: tuple[str, ...]
    because: str
    reaches_down: bool = True


_NETWORK: Final = Grant(
    "/sdn/zones/localnetwork", "ViOpsNetwork", ("SDN.Use",), "guests on the node's bridges"
)


@dataclass(frozen=True)
class Lack:
    """Privileges that the present login does not have on a path where a grant would put them."""

    path: str
    privileges: tuple[str, ...]


def least_grants(site: Site, node: NodeSpec, major: int, pool: str | None = None) -> tuple[Grant, ...]:
    """What vi-ops needs on a node to do what the site describes, on releases 8 and 9.

    With `pool`, rights over guests are limited to that pool; seeing all guests remains, because memory is
    shared among all of them. Raises KeyError for another release.
    """
    here = [vm for vm in site.vms.values() if vm.node == node.host]
    devices = {
        (kind, one.mapping)
        for vm in here
        for kind, all_ in (("pci", vm.gpus), ("usb", vm.usb))
        for one in all_
    }
    storages = {vm.disk.storage for vm in here} | {
        vm.cloud_init.storage for vm in here if vm.cloud_init.storage
    }
    grants = [
        *_over_guests(major, pool),
        *(
            Grant(f"/storage/{storage}", "ViOpsStorage", _SPACE, "disks of guests")
            for storage in sorted(storages - {node.image_storage})
        ),
        Grant(f"/storage/{node.image_storage}", "ViOpsImages", _IMAGES, "cloud images, fetched and imported"),
        Grant(f"/nodes/{node.name}", "ViOpsNode", _NODE, "the node's memory and tasks; downloads"),
        _NETWORK,
    ]
    if devices:
        grants.append(Grant("/", "ViOpsAudit", ("Sys.Audit",), "the list of PCI devices", reaches_down=False))
    for kind, mapping in sorted(devices):
        path = f"/mapping/{kind}/{mapping}"
        grants.append(Grant(path, "ViOpsDevices", ("Mapping.Use",), "a device passed through"))
    return tuple(grants)


def first_grants(major: int, pool: str | None = None) -> tuple[Grant, ...]:
    """What vi-ops needs before an inventory names nodes and storages: on all of them, and no device."""
    return (
        *_over_guests(major, pool),
        Grant("/storage", "ViOpsImages", _IMAGES, "disks of guests; cloud images, fetched and imported"),
        Grant("/nodes", "ViOpsNode", _NODE, "the node's memory and tasks; downloads"),
        _NETWORK,
    )


def _over_guests(major: int, pool: str | None) -> Iterable[Grant]:
    privileges = tuple(sorted((*_GUESTS, *_AGENT[major])))
    if pool is None:
        yield Grant("/vms", "ViOpsGuests", privileges, "guests: made, changed, started, backed up")
        return
    in_pool = tuple(sorted((*privileges, "Pool.Audit")))
    yield Grant(f"/pool/{pool}", "ViOpsGuests", in_pool, "guests of the pool: changed, started, backed up")
    yield Grant("/vms", "ViOpsSee", ("VM.Audit",), "all guests are seen: they share the node's memory")


def root_commands(grants: Iterable[Grant], token: str = DEFAULT_TOKEN) -> tuple[str, ...]:
    """What root types once on the node: roles, a user of its own, its token, and one ACL entry for each path.

    The token has no rights apart from its user's (`privsep 0`): both would need the same entries.
    """
    user, _, name = token.partition("!")
    roles = {grant.role: grant.privileges for grant in grants}
    lines = [["role", "add", role, "--privs", " ".join(privileges)] for role, privileges in roles.items()]
    lines.append(["user", "add", user, "--comment", "vi-ops"])
    lines.append(["user", "token", "add", user, name, "--privsep", "0"])
    for grant in grants:
        entry = ["acl", "modify", grant.path, "--users", user, "--roles", grant.role]
        lines.append(entry if grant.reaches_down else [*entry, "--propagate", "0"])
    return tuple(shlex.join(["pveum", *line]) for line in lines)


def own_token(node: NodeSpec) -> str:
    """The token to make: the inventory's, or the usual one where the site still works as root."""
    token = node.api.token
    return DEFAULT_TOKEN if token is None or token.startswith("root@") else token


def lacking(grants: Iterable[Grant], rights: Rights) -> tuple[Lack, ...]:
    """What of the grants a login does not have, by path."""
    gaps = (
        Lack(grant.path, tuple(one for one in grant.privileges if not rights.allows(grant.path, one)))
        for grant in grants
    )
    return tuple(gap for gap in gaps if gap.privileges)
