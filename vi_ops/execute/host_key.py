"""Host keys that somebody vouched for, in a known_hosts file of our own.

OpenSSH, paramiko and Ansible all read it; nothing is ever added on first sight.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vi_ops.errors import FactError

# What sshd offers, strongest first; one that the guest has is enough.
KEY_FILES = tuple(f"/etc/ssh/ssh_host_{kind}_key.pub" for kind in ("ed25519", "ecdsa", "rsa"))


@dataclass(frozen=True)
class HostKey:
    """A public host key: `type` as in known_hosts (`ssh-ed25519`), `blob` in base64."""

    type: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def parse_public_key(text: str) -> HostKey:
    """Parse `ssh-ed25519 AAAA... comment`. Raises FactError unless the blob names the same type."""
    words = text.split()
    try:
        kind, blob = words[0], words[1]
        raw = base64.b64decode(blob, validate=True)
        length = int.from_bytes(raw[:4], "big")
        is_key = raw[4 : 4 + length] == kind.encode("ascii")
    except (IndexError, binascii.Error, UnicodeEncodeError):
        is_key = False
    if not is_key:
        raise FactError("ssh-host-key", f"expected a public host key, got {text[:80]!r}")
    return HostKey(kind, blob)


def host_pattern(host: str, port: int) -> str:
    """The name under which known_hosts knows a host: bare for port 22, else `[host]:port`."""
    return host if port == 22 else f"[{host}]:{port}"


def pinned(path: Path, host: str, port: int) -> tuple[HostKey, ...]:
    """The keys pinned for a host; empty when there are none."""
    name = host_pattern(host, port)
    return tuple(HostKey(*line.split()[1:3]) for line in _lines(path) if line.split()[0] == name)


def pin(path: Path, host: str, port: int, keys: Iterable[HostKey]) -> None:
    """Let these be the keys of a host; the ones pinned before are gone."""
    name = host_pattern(host, port)
    with _alone(path):
        others = [line for line in _lines(path) if line.split()[0] != name]
        _replace(path, [*others, *(f"{name} {key.type} {key.blob}" for key in keys)])


def unpin(path: Path, host: str, port: int) -> bool:
    """Forget the keys of a host. Gives whether there were any."""
    if not pinned(path, host, port):
        return False
    pin(path, host, port, ())
    return True


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Several VMs are provisioned at once, and each adds its line."""
    with path.with_name(f"{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace(path: Path, lines: list[str]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
    fresh.replace(path)
