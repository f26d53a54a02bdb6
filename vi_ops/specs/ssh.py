"""How SSH reaches a host: Ansible's own variables, read once; and public keys as texts."""

from __future__ import annotations

import binascii
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from vi_ops.specs.model import INVENTORY, Spec

# Names of key types: OpenSSH, sshkey.c. Proxmox's own check of `sshkeys` takes the same forms.
_KEY_TYPES: Final = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


class SshTarget(Spec):
    """From `ansible_host`, `ansible_port`, `ansible_user` and `ansible_ssh_private_key_file`."""

    host: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str | None = None
    key_file: str | None = None
    """Absolute path of the private key; None leaves the choice to SSH."""


def _of_inventory(text: str, info: ValidationInfo) -> str:
    return check_public_key(text) if info.context == INVENTORY else text


def check_public_key(text: str) -> str:
    """One line of an OpenSSH `.pub` file, without options, blanks at the ends removed.

    Raises PydanticCustomError `ssh-key-invalid`. The type inside the base64 must be the one in front of it
    (RFC 4253, section 6.6), so that a key cut by copying is noticed here and not in the guest.
    """
    if "PRIVATE KEY" in text:
        raise _refuse("this is a private key: give the public half, the text of the .pub file")
    words = text.split(None, 2)
    if len(words) < 2 or words[0] not in _KEY_TYPES or "\n" in text.strip():
        raise _refuse(
            "expected 'auto', a public key such as 'ssh-ed25519 AAAA... comment', or the path of a .pub file"
        )
    try:
        blob = binascii.a2b_base64(words[1], strict_mode=True)
    except binascii.Error:
        raise _refuse("the base64 of the key is damaged, perhaps cut while copying") from None
    name = words[0].encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or not _is_whole(blob):
        raise _refuse(f"the key's contents are not a whole {words[0]} key, perhaps cut while copying")
    return re.sub(r"\s+", " ", text.strip())


def _is_whole(blob: bytes) -> bool:
    """Whether the length-prefixed fields fill the blob exactly (RFC 4251, section 5)."""
    at = 0
    while at < len(blob):
        at += 4 + int.from_bytes(blob[at : at + 4], "big")
    return at == len(blob) and len(blob) > 40


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("ssh-key-invalid", "{reason}", {"reason": message})


PublicKey = Annotated[str, AfterValidator(_of_inventory)]
