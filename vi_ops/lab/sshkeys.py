"""SSH keys as Proxmox takes them: percent-encoded as a whole, and each line a key.

Source: pve-common, PVE/JSONSchema.pm (urlencoded) and PVE/Tools.pm (validate_ssh_public_keys).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote

from vi_ops.lab.route import Refusal, parameter_error

_ENCODED: Final = re.compile(r"[-%a-zA-Z0-9_.!~*'()]*")
_KEY: Final = re.compile(r"(?:^|[ \t])((?:ssh|ecdsa|sk)-[\w@.-]+)[ \t]+([A-Za-z0-9+/]+=*)(?:[ \t]|$)")


def check_sshkeys(text: str) -> None:
    """Refuse text that is not percent-encoded (400), or in which a line is no key (500)."""
    if not _ENCODED.fullmatch(text):
        raise parameter_error(sshkeys=f"invalid format - invalid urlencoded string: {text}\n")
    for line in unquote(text).split("\n"):
        if line.strip() and not line.startswith("#") and not _is_key(line):
            raise Refusal(500, "SSH public key validation error")


def _is_key(line: str) -> bool:
    """Whether a line holds a key whose inside names the same type as its outside (RFC 4253, 6.6)."""
    match = _KEY.search(line)
    if not match:
        return False
    try:
        blob = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return False
    length = int.from_bytes(blob[:4], "big")
    return len(blob) > 4 + length and blob[4 : 4 + length] == match[1].encode()
