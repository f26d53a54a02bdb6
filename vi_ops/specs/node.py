"""What a node should be: a Proxmox host, its API endpoint and its hardware as bought."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from vi_ops.specs.model import Matches, SizeBytes, Spec, StorageId
from vi_ops.specs.ssh import SshTarget

# Proxmox: pve-access-control, src/PVE/AccessControl.pm, and pve-common, src/PVE/JSONSchema.pm.
Url = Annotated[
    str,
    Matches(
        r"https://([^/\s:@?#\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?",
        "a URL such as 'https://pve1.example.net:8006'",
    ),
]
TokenId = Annotated[
    str, Matches(r"[^\s:/@!]+@[A-Za-z][\w.\-]+![A-Za-z][\w.\-]+", "a token id such as 'ops@pve!viops'")
]
UserId = Annotated[str, Matches(r"[^\s:/@!]+@[A-Za-z][\w.\-]+", "a user with its realm such as 'ops@pve'")]
Fingerprint = Annotated[
    str,
    Matches(
        r"([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}", "a SHA-256 fingerprint: 32 pairs of hex digits, 'AA:BB:...'"
    ),
]

NODE_NAME: Final = Matches(r"[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?", "a host name such as 'pve1'")


class SecretSpec(Spec):
    """Where a secret is read from: exactly one of the four."""

    env: str | None = None
    """Name of an environment variable."""
    file: str | None = None
    """Path of a file with mode 0600; relative paths start at the inventory folder."""
    command: tuple[str, ...] | None = None
    """A program and its arguments; the secret is its first line of output."""
    keyring: str | None = None
    """`service/name` in the system's keyring."""

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretSpec:
        given = sorted(key for key in type(self).model_fields if getattr(self, key))
        if len(given) != 1:
            raise PydanticCustomError(
                "secret-source",
                "expected exactly one of env, file, command and keyring, got {given}",
                {"given": " and ".join(given) or "none"},
            )
        return self


class ApiSpec(Spec):
    """The node's API: where, as whom, and how its certificate is verified."""

    url: Url
    """`https://host:8006`"""
    token: TokenId | None = None
    """API token, `user@realm!name`; the default way in."""
    user: UserId | None = None
    """User for a ticket, `user@realm`: only where the node demands it. Instead of `token`."""
    secret: SecretSpec
    """Where the token's secret, or the user's password, is read from."""
    ca_file: str | None = None
    """PEM file of the CA that signed the node's certificate. Or `fingerprint`."""
    fingerprint: Fingerprint | None = None
    """SHA-256 of the node's certificate, as `pvenode cert info` shows it. Or `ca_file`."""

    @model_validator(mode="after")
    def _one_login_one_trust(self) -> ApiSpec:
        if (self.token is None) == (self.user is None):
            raise PydanticCustomError("api-login", "expected exactly one of token and user")
        if self.ca_file is not None and self.fingerprint is not None:
            raise PydanticCustomError(
                "api-trust", "expected at most one of ca_file and fingerprint, got both"
            )
        return self


class DiskSpec(Spec):
    """A disk of the node and the Proxmox storage on it."""

    storage: StorageId
    size: SizeBytes
    kind: Literal["hdd", "ssd", "nvme"]


class NodeSpec(Spec):
    """One Proxmox node. `host` is its inventory name."""

    host: str
    name: Annotated[str, NODE_NAME]
    """The node's name in Proxmox; the inventory name when left out."""
    api: ApiSpec
    ssh: SshTarget
    memory: SizeBytes | None = None
    """RAM as bought."""
    sockets: int | None = Field(default=None, ge=1, le=16)
    """CPU packages."""
    disks: tuple[DiskSpec, ...] = ()
    image_storage: StorageId = "local"
    """Storage that holds cloud images (content types `import` or `iso`)."""
