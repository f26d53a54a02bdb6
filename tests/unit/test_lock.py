"""The lock of a VM: one owner, who is named; and free again the moment that owner is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vi_ops.errors import LockHeld
from vi_ops.execute.lock import HEARTBEAT_S, Owner, held, hold_lock, read_owner

HOLDER = (
    "import sys, time; from pathlib import Path; from vi_ops.execute.lock import hold_lock\n"
    "with hold_lock(Path(sys.argv[1]), 'vm106', 'provision vm106'):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "vm106.lock"
    with hold_lock(path, "vm106", "provision vm106"):
        with pytest.raises(LockHeld) as caught, hold_lock(path, "vm106", "destroy vm106"):
            pass
        owner = read_owner(path)
    assert owner
    assert owner.pid == os.getpid()
    for part in ("vm106", "vi-ops provision vm106", str(os.getpid()), owner.user, owner.host):
        assert part in caught.value.message
    assert caught.value.exit_code == 7


def test_it_is_free_after_the_block_even_when_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "vm106.lock"
    with pytest.raises(RuntimeError), hold_lock(path, "vm106", "first"):
        raise RuntimeError
    with hold_lock(path, "vm106", "second"):
        owner = read_owner(path)
    assert owner
    assert owner.command == "second"
    assert read_owner(path) is None


@pytest.mark.slow
def test_a_killed_owner_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "vm106.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match=str(holder.pid)), hold_lock(path, "vm106", "second"):
            pass
        holder.send_signal(signal.SIGKILL)
    with hold_lock(path, "vm106", "second", wait_s=5):
        pass


@pytest.mark.slow
def test_the_second_may_wait(tmp_path: Path) -> None:
    path, told = tmp_path / "vm106.lock", list[str]()
    inside = threading.Event()

    def first() -> None:
        with hold_lock(path, "vm106", "provision vm106"):
            inside.set()
            time.sleep(0.7)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(5)
    with hold_lock(path, "vm106", "second", wait_s=10, tell=told.append):
        thread.join(1)
    assert len(told) == 1
    assert "provision vm106" in told[0]


@pytest.mark.slow
def test_waiting_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "vm106.lock"
    with (
        hold_lock(path, "vm106", "first"),
        pytest.raises(LockHeld, match="after 1 s"),
        hold_lock(path, "vm106", "second", wait_s=1),
    ):
        pass


def test_an_owner_without_a_sign_of_life_is_told_apart() -> None:
    owner = Owner(4711, "laptop", "smith", "provision vm106", since=1000, heartbeat=1000)
    assert "shows no life" not in str(held("vm106", owner, 0, now=1000 + HEARTBEAT_S).hint)
    silent = held("vm106", owner, 0, now=1000 + 10 * HEARTBEAT_S)
    assert "process 4711 on laptop" in str(silent.hint)


def test_the_heartbeat_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vi_ops.execute.lock.HEARTBEAT_S", 0.02)
    path = tmp_path / "vm106.lock"
    with hold_lock(path, "vm106", "provision vm106"):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            owner = read_owner(path)
            if owner and owner.heartbeat > owner.since:
                return
            time.sleep(0.01)
    pytest.fail("no heartbeat")
