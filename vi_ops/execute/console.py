"""Talking to a serial console: the terminal in raw mode, every byte passed on, one key to leave."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vi_ops.errors import Unreachable

ESCAPE = b"\x1d"
ESCAPE_NAME = "Ctrl-]"
_CONNECT_DEADLINE_S = 5.0


def attach(path: Path, *, stdin: int | None = None, stdout: int | None = None) -> None:
    """Connect this terminal with the unix socket of a serial port until Ctrl-], or the guest ends.

    Keys that come from a file or a pipe are passed on too; at their end the output goes on.
    Raises Unreachable when nothing listens there. Whether somebody else is attached cannot be seen here.
    """
    keys = sys.stdin.fileno() if stdin is None else stdin
    screen = sys.stdout.fileno() if stdout is None else stdout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
        port.settimeout(_CONNECT_DEADLINE_S)
        try:
            port.connect(str(path))
        except OSError as error:
            raise Unreachable(
                "console-unreachable",
                f"nobody answers at the serial console {path}: {error.strerror or error}",
                hint="`vi-ops status` shows whether the VM runs; one terminal at a time can be attached",
            ) from error
        port.setblocking(True)
        with _raw(keys):
            _relay(port, keys, screen)


def _relay(port: socket.socket, keys: int, screen: int) -> None:
    # Not the default: epoll takes neither /dev/null nor a regular file (epoll_ctl(2), EPERM).
    with selectors.SelectSelector() as ready:
        ready.register(port, selectors.EVENT_READ)
        ready.register(keys, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fd == port.fileno():
                    seen = port.recv(4096)
                    os.write(screen, seen)
                    if not seen:
                        return
                else:
                    typed, escape, _ = os.read(keys, 1024).partition(ESCAPE)
                    port.sendall(typed)
                    if escape or (not typed and os.isatty(keys)):
                        return
                    if not typed:
                        ready.unregister(keys)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Raw mode while the block runs; nothing where there is no terminal."""
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
