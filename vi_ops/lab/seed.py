"""What a fresh lab holds: root, and the token of an ordinary user with just the rights that vi-ops needs."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from vi_ops.lab.acl import Acl
from vi_ops.lab.auth import hash_secret
from vi_ops.lab.certificate import ensure_certificates
from vi_ops.lab.node import Node
from vi_ops.lab.store import write_text

USER, TOKEN = "ops@pve", "viops"
ROLE = "ViOps"

# The least that provisioning needs, path by path.
VM_PRIVILEGES = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.PowerMgmt",
    "VM.Snapshot",
    *(
        f"VM.Config.{part}"
        for part in ("CDROM", "CPU", "Cloudinit", "Disk", "HWType", "Memory", "Network", "Options")
    ),
]
AGENT_PRIVILEGES = {
    8: ["VM.Monitor"],
    9: [
        f"VM.GuestAgent.{part}"
        for part in ("Audit", "Unrestricted", "FileRead", "FileWrite", "FileSystemMgmt")
    ],
}
GRANTS = {
    "/": ("Node", ["Sys.Audit"]),
    "/nodes": ("Nodes", ["Sys.Audit", "Sys.AccessNetwork"]),
    "/storage": (
        "Storage",
        ["Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"],
    ),
    "/sdn/zones/localnetwork": ("Network", ["SDN.Use"]),
    "/mapping": ("Mapping", ["Mapping.Audit", "Mapping.Modify", "Mapping.Use"]),
}


def ensure_seeded(node: Node) -> None:
    """Certificates, `token` and `root-password` (0600) and the users behind them, where they are missing."""
    ensure_certificates(node.home, node.name)
    if (node.home / "token").exists():
        return
    secret = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    password = secrets.token_urlsafe(12)
    add_user(node.acl, "root@pam", password=password)
    add_user(node.acl, USER, tokens={TOKEN: (secret, False)})
    grants = {**GRANTS, "/vms": ("", VM_PRIVILEGES + AGENT_PRIVILEGES[node.major])}
    for path, (suffix, privileges) in grants.items():
        node.acl.state["roles"][f"{ROLE}{suffix}"] = sorted(privileges)
        grant(node.acl, path, USER, f"{ROLE}{suffix}")
    node.acl.save()
    write_text(node.home / "root-password", password + "\n")
    write_text(node.home / "token", secret + "\n")


def add_user(
    acl: Acl, userid: str, password: str | None = None, tokens: dict[str, tuple[str, bool]] | None = None
) -> None:
    """A user with an optional password, and tokens by name: (secret, whether its rights are its own)."""
    user: dict[str, Any] = {"enable": 1, "expire": 0, "tokens": {}}
    if password:
        user["password"] = hash_secret(password)
    for name, (secret, privsep) in (tokens or {}).items():
        user["tokens"][name] = {"secret": hash_secret(secret), "privsep": int(privsep), "expire": 0}
    acl.state["users"][userid] = user


def grant(acl: Acl, path: str, authid: str, role: str) -> None:
    """Give a user or token a role at a path and below it."""
    kind = "token" if "!" in authid else "user"
    acl.state["acl"].append({"path": path, "type": kind, "ugid": authid, "roleid": role, "propagate": 1})
