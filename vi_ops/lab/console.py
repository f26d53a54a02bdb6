"""A guest's serial console: the log of this boot, and the socket that a person may talk to."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from vi_ops.facts.console import plain_lines
from vi_ops.lab.guest_error import GuestError

# sun_path is 108 bytes with its final NUL (unix(7)); the longest of our names is `999999999.serial0`.
_SOCKET_PATH_BYTES: Final = 107
_LONGEST_NAME: Final = "999999999.serial0"
# Far more than a line takes, with all that a firmware paints around it.
_LINE_BYTES: Final = 4096


def socket_dir(run_dir: Path) -> Path:
    """Where the sockets of a lab lie: its own `run` folder, or a short one when that path is too long.

    Private to this user either way. Raises GuestError when the short one belongs to somebody else.
    """
    if len(os.fsencode(run_dir / _LONGEST_NAME)) <= _SOCKET_PATH_BYTES:
        return run_dir
    mark = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:12]
    folder = Path("/tmp") / f"vi-ops-{os.getuid()}-{mark}"  # noqa: S108  owner and mode are checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise GuestError(f"'{folder}' is not a private folder of this user: remove it")
    return folder


def socket_path(run_dir: Path, vmid: int) -> Path:
    """The socket behind `serial0`; it takes one client at a time."""
    return socket_dir(run_dir) / f"{vmid}.serial0"


def log_path(log_dir: Path, vmid: int) -> Path:
    """Everything that this boot printed on `serial0`; emptied at each start."""
    return log_dir / "guests" / f"{vmid}.console"


def last_lines(log_dir: Path, vmid: int, count: int = 20) -> list[str]:
    """The console's last lines that are not blank, without control sequences; empty when there are none."""
    try:
        with log_path(log_dir, vmid).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - count * _LINE_BYTES))
            return plain_lines(log.read().decode(errors="replace"), count)
    except FileNotFoundError:
        return []
