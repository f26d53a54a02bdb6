"""What a node should be: a Proxmox host, its API endpoint and its hardware as bought."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vi_ops.specs.model import SizeBytes, Spec
from vi_ops.specs.ssh import SshTarget


class SecretSpec(Spec):
    """Where a secret is read from: exactly one of the four."""

    env: str | None = None
    file: str | None = None
    command: tuple[str, ...] | None = None
    keyring: str | None = None


class ApiSpec(Spec):
    """The node's API: `https://host:8006`, a token, and how its certificate is verified."""

    url: str
    token: str | None = None
    user: str | None = None
    secret: SecretSpec
    ca_file: str | None = None
    fingerprint: str | None = None


class DiskSpec(Spec):
    """A disk of the node and the Proxmox storage on it."""

    storage: str
    size: SizeBytes
    kind: Annotated[str, Field(pattern="^(hdd|ssd|nvme)$")]


class NodeSpec(Spec):
    """One Proxmox node. `host` is the inventory name and the node's name in Proxmox unless `name` says otherwise."""

    host: str
    name: str
    api: ApiSpec
    ssh: SshTarget
    memory: SizeBytes | None = None
    sockets: int | None = None
    disks: tuple[DiskSpec, ...] = ()
    image_storage: str = "local"
