"""The guest user's password as a node stores it: SHA-256 crypt, unless it already is a hash."""

from __future__ import annotations

import ctypes
import re
import secrets
from typing import Final

# What Proxmox takes for a hash; `$y$` and `$2b$` are missing there too, and are hashed once more.
# Source: qemu-server, PVE/API2/Qemu.pm (update_vm_api).
_HASHED: Final = re.compile(r"\$(?:[156]|2[ay])(?:\$.+){2}")
MASK: Final = "**********"


def hashed(password: str) -> str:
    """The password's hash, or the password where it looks like one."""
    return password if _HASHED.match(password) else crypt(password, f"$5${secrets.token_hex(4)}$")


def crypt(password: str, salt: str) -> str:
    """crypt(3): the hash that `salt` (`$5$...`) asks for."""
    # The standard library's own binding is gone since Python 3.13; the C library's is on every Debian.
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    result = library.crypt(password.encode(), salt.encode())
    if not result:
        raise OSError("crypt(3) knows no SHA-256")
    return bytes(result).decode()
