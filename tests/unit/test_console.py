"""The serial console: bytes both ways, one key to leave, and a clear word when nobody is there."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from vi_ops.errors import Unreachable
from vi_ops.execute.console import ESCAPE, attach


def serve(listener: socket.socket, seen: list[bytes], hangs_up: bool) -> None:
    port, _ = listener.accept()
    with port:
        port.sendall(b"login: ")
        while data := port.recv(100):
            seen.append(data)
            if hangs_up:
                return


@pytest.mark.parametrize(
    ("typed", "hangs_up", "arrived"),
    [(b"smith\r" + ESCAPE + b"lost", False, b"smith\r"), (b"x", True, b"x"), (ESCAPE, False, b"")],
    ids=["escape", "the guest ends it", "escape alone"],
)
def test_bytes_go_both_ways(tmp_path: Path, typed: bytes, hangs_up: bool, arrived: bytes) -> None:
    seen: list[bytes] = []
    shown: list[bytes] = []
    keys, fingers = os.pipe()
    eyes, screen = os.pipe()

    def person() -> None:
        shown.append(os.read(eyes, 100))
        os.write(fingers, typed)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "106.serial0"))
        listener.listen(1)
        threads = [threading.Thread(target=serve, args=(listener, seen, hangs_up), daemon=True)]
        threads.append(threading.Thread(target=person, daemon=True))
        for thread in threads:
            thread.start()
        attach(tmp_path / "106.serial0", stdin=keys, stdout=screen)
        for thread in threads:
            thread.join(5)
    for end in (keys, fingers, screen, eyes):
        os.close(end)
    assert shown == [b"login: "]
    assert b"".join(seen) == arrived


def test_nobody_at_the_console(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody answers"):
        attach(tmp_path / "absent", stdin=0, stdout=1)


@pytest.mark.parametrize("keys", ["/dev/null", "file"])
def test_without_a_terminal_the_output_is_copied_until_the_guest_ends(tmp_path: Path, keys: str) -> None:
    (tmp_path / "file").write_bytes(b"root\r")
    seen: list[bytes] = []

    def guest(listener: socket.socket) -> None:
        port, _ = listener.accept()
        with port:
            if keys == "file":
                seen.append(port.recv(100))
            time.sleep(0.1)  # the keys have ended long ago
            port.sendall(b"Power down\n")

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (tmp_path / keys).open("rb") as typed:
        listener.bind(str(tmp_path / "106.serial0"))
        listener.listen(1)
        thread = threading.Thread(target=guest, args=(listener,), daemon=True)
        thread.start()
        with (tmp_path / "log").open("wb") as log:
            attach(tmp_path / "106.serial0", stdin=typed.fileno(), stdout=log.fileno())
        thread.join(5)
    assert (tmp_path / "log").read_bytes() == b"Power down\n"
    assert seen == ([b"root\r"] if keys == "file" else [])
