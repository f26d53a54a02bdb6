"""A guest's QEMU as a process of this machine: launched, found by its pid file, ended."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path
from typing import Any, Final

import psutil

from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.program import Log

# What a QEMU gets between TERM and KILL. Source: qemu-server, PVE/QemuServer.pm (vm_stop).
_TERM_S: Final = 10.0
_cpu_seen: dict[tuple[int, float], tuple[float, float, float]] = {}


def find(pid_file: Path) -> psutil.Process | None:
    """The QEMU that wrote this pid file, None when it is gone.

    A pid may have gone to another program since it was written down: the process counts only when its own
    command line names this pid file. From then on psutil compares start times before every signal.
    """
    try:
        process = psutil.Process(int(pid_file.read_text()))
        return process if str(pid_file) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


async def launch(argv: tuple[str, ...], pid_file: Path, qemu_log: Path, log: Log, timeout_s: float) -> None:
    """Run a QEMU that makes itself a daemon, and wait until it has; what it complains of goes to the log.

    Raises GuestError `start failed: ...` when it does not come up or takes longer than `timeout_s` seconds.
    """
    if shutil.which(argv[0]) is None:
        raise GuestError(f"start failed: command '{argv[0]}' not found: install the package qemu-system-x86")
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the lab's terminal is not for its guests
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, complaint = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if daemon := find(pid_file):  # it may have split off already
            daemon.kill()
        if isinstance(error, TimeoutError):
            raise GuestError(f"start failed: command '{argv[0]} ...' failed: got timeout") from error
        raise
    # QEMU complains on stderr until it has opened its log, and there from then on.
    words = complaint.decode(errors="replace") + (qemu_log.read_text() if qemu_log.exists() else "")
    for line in words.splitlines():
        log(line)
    if process.returncode:
        raise GuestError(f"start failed: QEMU exited with code {process.returncode}")


async def is_gone(process: psutil.Process, timeout_s: float) -> bool:
    """Wait until the process has ended; a zombie has, where no parent collects it."""
    deadline = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether the process is still that process and runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def kill(process: psutil.Process, log: Log) -> None:
    """TERM, then KILL, each said in the log. Raises GuestError for a process that survives both."""
    for name, send in (("SIGTERM", process.terminate), ("SIGKILL", process.kill)):
        log(f"VM still running - terminating now with {name}")
        with contextlib.suppress(psutil.NoSuchProcess):
            send()
        if await is_gone(process, _TERM_S):
            return
    raise GuestError(f"process {process.pid} does not end, not even by SIGKILL")


def usage(process: psutil.Process, cpus: int) -> dict[str, Any]:
    """`pid`, `uptime` in seconds, `mem` in bytes, `cpu` as a share of `cpus` since the last call."""
    with process.oneshot():
        times, memory, began = process.cpu_times(), process.memory_info(), process.create_time()
    now, used = time.monotonic(), times.user + times.system
    key = (process.pid, began)
    then, used_then, share = _cpu_seen.get(key, (now, used, 0.0))
    if now - then >= 1.0:  # a shorter span is mostly rounding: /proc counts in 10 ms
        share = (used - used_then) / (now - then)
        then, used_then = now, used
    _cpu_seen[key] = (then, used_then, share)
    seen = {"pid": process.pid, "uptime": int(time.time() - began), "mem": memory.rss}
    # A QEMU of n processors has more threads than those: the share may not pass 1, as on a node.
    return {**seen, "cpu": min(1.0, share / cpus)}
