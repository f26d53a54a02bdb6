"""One owner for each VM: a lock that says who holds it, and that the kernel frees when its owner dies."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vi_ops.errors import LockHeld

HEARTBEAT_S = 5.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. Times are seconds since the epoch; `heartbeat` is the last sign of life."""

    pid: int
    host: str
    user: str
    command: str
    since: float
    heartbeat: float


def read_owner(path: Path) -> Owner | None:
    """The owner written in a lock file; None when there is none, or it is being written just now."""
    try:
        return Owner(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def holder(path: Path) -> Owner | None:
    """Who holds a lock at this moment; a killed owner's text may still be in the file, but holds nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_owner(path)
    finally:
        os.close(handle)
    return None


@contextmanager
def hold_lock(
    path: Path,
    subject: str,
    command: str,
    *,
    wait_s: float = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Hold the lock of `subject` while the block runs; wait for it up to `wait_s` seconds.

    flock(2) decides, the text in the file only explains: a killed owner never leaves a stale lock, and a
    child process does not inherit it. Raises LockHeld naming the owner.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, path, subject, wait_s, tell)
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(handle, command, stop), daemon=True)
        _write_owner(handle, _me(command))
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, path: Path, subject: str, wait_s: float, tell: Callable[[str], None]) -> None:
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = read_owner(path)
            if time.monotonic() >= deadline:
                raise held(subject, owner, wait_s, time.time()) from None
            if not told:
                tell(f"{who(owner, time.time())}: waiting up to {wait_s:.0f} s")
                told = True
            time.sleep(_POLL_S)


def held(subject: str, owner: Owner | None, waited_s: float, now: float) -> LockHeld:
    """The refusal: who holds the lock of `subject`, since when, and whether it shows life."""
    hint = "wait for it with --wait SECONDS, or look what it does with `vi-ops status`"
    if owner and now - owner.heartbeat > 6 * HEARTBEAT_S:
        hint = f"it shows no life: look at process {owner.pid} on {owner.host}; ending it frees the lock"
    after = f" after {waited_s:.0f} s of waiting" if waited_s else ""
    return LockHeld("lock-held", f"{subject} is locked{after}: {who(owner, now)}", hint=hint)


def who(owner: Owner | None, now: float) -> str:
    """Who holds a lock, since when, and its last sign of life, in words; `now` is seconds since the epoch."""
    if owner is None:
        return "another vi-ops is just taking the lock"
    since = time.strftime("%H:%M:%S", time.localtime(owner.since))
    return (
        f"`vi-ops {owner.command}` (pid {owner.pid}, {owner.user}@{owner.host}) holds it since {since},"
        f" last sign of life {max(0, now - owner.heartbeat):.0f} s ago"
    )


def _me(command: str) -> Owner:
    now = time.time()
    return Owner(os.getpid(), socket.gethostname(), getpass.getuser(), command, now, now)


def _beat(handle: int, command: str, stop: threading.Event) -> None:
    owner = _me(command)
    while not stop.wait(HEARTBEAT_S):
        _write_owner(handle, Owner(**{**asdict(owner), "heartbeat": time.time()}))


def _write_owner(handle: int, owner: Owner) -> None:
    # One write of fixed place: a reader sees the old text or the new one, never half of each.
    text = json.dumps(asdict(owner)).encode().ljust(1024)
    os.pwrite(handle, text, 0)
