"""Whose certificate a node shows: verified by a CA file, or by a fingerprint confirmed once and pinned."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vi_ops.errors import Refused, SpecError, Unreachable
from vi_ops.specs.node import ApiSpec, NodeSpec

CONNECT_DEADLINE_S: Final = 5.0
PROXMOX_PORT: Final = 8006
PINS: Final = "fingerprints.json"
ON_NODE: Final = "openssl x509 -noout -fingerprint -sha256 -in /etc/pve/local/pve-ssl.pem"


@dataclass(frozen=True)
class Trust:
    """How the server's certificate is verified: exactly one of the two."""

    ca_file: Path | None = None
    fingerprint: str | None = None


def parse_fingerprint(text: str) -> str:
    """Bring a SHA-256 fingerprint into the form `AA:BB:…`. Raises SpecError unless it has 32 bytes."""
    digits = re.sub(r"^sha-?256( Fingerprint)?[:=]", "", text.strip(), flags=re.IGNORECASE)
    digits = re.sub(r"[:\s]", "", digits).upper()
    if not re.fullmatch(r"[0-9A-F]{64}", digits):
        raise SpecError(
            "tls-fingerprint-format", f"expected a SHA-256 fingerprint (32 bytes, AA:BB:…), got {text!r}"
        )
    return ":".join(digits[at : at + 2] for at in range(0, 64, 2))


def endpoint(url: str) -> tuple[str, int]:
    """Host and port of an API URL. Raises SpecError for anything but `https://host[:port][/prefix]`."""
    parts = urlsplit(url)
    try:
        port = parts.port or PROXMOX_PORT
    except ValueError:
        port = 0
    if parts.scheme != "https" or not parts.hostname or not port or parts.username or parts.query:
        raise SpecError("pve-url", f"expected an address such as https://pve1:8006, got {url!r}")
    return parts.hostname, port


def shown_fingerprint(url: str) -> str:
    """The SHA-256 fingerprint of the certificate that the server at `url` shows now. Sends nothing else."""
    host, port = endpoint(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only looked at here; nothing is sent over this connection
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise Unreachable("pve-unreachable", f"{url}: no TLS connection: {error}") from error
    return parse_fingerprint(hashlib.sha256(certificate).hexdigest())


def read_pin(state_dir: Path, url: str) -> str | None:
    """The fingerprint pinned for this endpoint, if there is one."""
    return _read_pins(state_dir / PINS).get(_key(url))


def write_pin(state_dir: Path, url: str, fingerprint: str) -> None:
    """Pin a fingerprint for this endpoint."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = state_dir / PINS
    pins = _read_pins(path) | {_key(url): parse_fingerprint(fingerprint)}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(pins, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.chmod(0o600)
    fresh.replace(path)


def pin_shown(
    node: NodeSpec, state_dir: Path, expected: str | None, confirm: Callable[[str], bool] | None = None
) -> str:
    """Pin the fingerprint that the node shows now: when it is the expected one, or `confirm` says yes.

    Raises Refused where it is another, SpecError where the inventory already says whom to trust.
    """
    if node.api.ca_file or node.api.fingerprint:
        field = "ca_file" if node.api.ca_file else "fingerprint"
        raise SpecError(
            "tls-from-inventory",
            f"{node.host}: a pin would change nothing, because the inventory has api.{field}",
            hint=f"correct or remove api.{field} in host_vars/{node.host}.yml",
        )
    if expected is None:
        pinned = read_pin(state_dir, node.api.url)
        shown = _first_contact(node.api.url, node.host, confirm, pinned)
    elif (shown := shown_fingerprint(node.api.url)) != parse_fingerprint(expected):
        raise Refused(
            "tls-changed",
            f"{node.host} at {node.api.url} shows {shown}, not the expected {parse_fingerprint(expected)}",
            hint="compare on the node itself; somebody may stand in between",
        )
    write_pin(state_dir, node.api.url, shown)
    return shown


def establish_trust(
    api: ApiSpec, name: str, state_dir: Path, confirm: Callable[[str], bool] | None = None
) -> Trust:
    """How to verify the node's certificate. On first contact shows its fingerprint to `confirm` and pins it.

    Raises Refused where nobody confirms, SpecError for a CA file that is absent, Unreachable.
    """
    if api.ca_file:
        ca_file = Path(api.ca_file).expanduser()
        if not ca_file.is_file():
            raise SpecError("tls-ca-missing", f"{name}: the CA file {ca_file} does not exist")
        return Trust(ca_file=ca_file)
    if api.fingerprint:
        return Trust(fingerprint=parse_fingerprint(api.fingerprint))
    pinned = read_pin(state_dir, api.url)
    if pinned is None:
        pinned = _first_contact(api.url, name, confirm)
        write_pin(state_dir, api.url, pinned)
    return Trust(fingerprint=pinned)


def _first_contact(
    url: str, name: str, confirm: Callable[[str], bool] | None, pinned: str | None = None
) -> str:
    shown = shown_fingerprint(url)
    if shown == pinned:
        return shown
    met = (
        f"First contact with {name} at {url}."
        if pinned is None
        else f"{name} at {url} changed: was {pinned}."
    )
    asked = (
        f"{met}\nIts certificate has the SHA-256 fingerprint\n  {shown}\n"
        f"Compare with what this prints on the node:\n  {ON_NODE}\nIs it the same?"
    )
    if confirm is None or not confirm(asked):
        why = "nobody is there to confirm it" if confirm is None else "it was not confirmed"
        raise Refused(
            "tls-first-contact",
            f"{name} at {url} shows a certificate that is not known yet, and {why}; fingerprint {shown}",
            hint=f"compare it on the node ({ON_NODE}), then `vi-ops node trust {name} --fingerprint {shown}`",
        )
    return shown


def _key(url: str) -> str:
    host, port = endpoint(url)
    return f"{host}:{port}"


def _read_pins(path: Path) -> dict[str, str]:
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Refused(
            "tls-pins", f"{path} cannot be read: {error}", hint="repair it, or remove it and compare again"
        ) from error
    return {str(key): parse_fingerprint(str(value)) for key, value in dict(pins).items()}
