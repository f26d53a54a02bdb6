"""A lab from outside: its server started, found again and stopped, its guests seen, its folder deleted."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from vi_ops.errors import LockHeld, Refused, StepFailed
from vi_ops.lab import guest
from vi_ops.lab.node import Node
from vi_ops.lab.seed import TOKEN, USER
from vi_ops.lab.store import read_json, write_json

DEFAULT_PORT = 8006
UP_DEADLINE_S = 30.0
DOWN_DEADLINE_S = 15.0
GUEST_SHUTDOWN_S = 60.0
RELEASES = ("8.4", "9.2")


@dataclass(frozen=True)
class Lab:
    """One lab as a user meets it. `pid` is the server's, None when it is down."""

    home: Path
    url: str
    release: str
    node: str
    pid: int | None

    def shown(self) -> dict[str, Any]:
        """For `--json` and for people."""
        return {
            "url": self.url,
            "release": self.release,
            "node": self.node,
            "pid": self.pid,
            "home": str(self.home),
            "ca_file": str(self.home / "ca.pem"),
            "token": f"{USER}!{TOKEN}",
            "token_file": str(self.home / "token"),
            "root_password_file": str(self.home / "root-password"),
        }


def default_home() -> Path:
    """VI_OPS_LAB_DIR, else `lab` in the user's data folder."""
    named = os.environ.get("VI_OPS_LAB_DIR")
    return Path(named) if named else platformdirs.user_data_path("vi-ops") / "lab"


def find(home: Path) -> Lab | None:
    """The lab in that folder; None when none was ever started there."""
    settings = read_json(home / "lab.json", None)
    if settings is None:
        return None
    return Lab(home, settings["url"], settings["release"], settings["node"], _pid(home))


def up(home: Path, release: str | None = None, port: int | None = None, schema: Path | None = None) -> Lab:
    """Start the server unless it runs, and wait until it answers. What is None stays as it was."""
    home = home.absolute()
    settings = _settings(home, release, port, schema)
    lab = find(home)
    if lab and lab.pid is not None:
        return lab
    write_json(home / "lab.json", settings)
    log_file = home / "log" / "server.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a") as log:
        argv = [sys.executable, "-m", "vi_ops.lab.serve", str(home)]
        try:
            starter = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=UP_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            message = f"the lab's server is not ready after {UP_DEADLINE_S:.0f} s"
            raise StepFailed("lab-start-failed", message, hint=f"see {log_file}") from None
    if starter.returncode != 0:
        last = _last_line(log_file)
        if os.strerror(errno.EADDRINUSE).lower() in last.lower():
            message = f"port {settings['port']} of 127.0.0.1 is taken by another program"
            raise Refused(
                "lab-port-taken", message, hint="choose another with --port; 0 takes any that is free"
            )
        message = f"the lab's server ended at once: {last}"
        raise StepFailed("lab-start-failed", message, hint=f"see {log_file}")
    started = find(home)
    assert started is not None  # noqa: S101 - lab.json was written above
    return started


def down(home: Path, keep_guests: bool = False, grace_s: float = GUEST_SHUTDOWN_S) -> dict[int, bool]:
    """Stop the server and, unless they are kept, the guests.

    Gives the vmids of those that ran, and whether each shut down by itself. Guests have `grace_s` seconds
    for that, then they are switched off.
    """
    node = _node(home)
    if node is None:
        return {}
    stopped = {} if keep_guests else asyncio.run(_stop_guests(node, grace_s))
    pid = _pid(home)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _await_end(home, pid)
    return stopped


def reset(home: Path) -> None:
    """Stop everything and delete the lab's folder. Only a folder that holds a lab is touched."""
    if not (home / "lab.json").exists():
        raise Refused("lab-absent", f"there is no lab in {home}", hint="`vi-ops lab up` starts one")
    down(home, grace_s=0)
    shutil.rmtree(home)


def losses(home: Path) -> dict[str, Any]:
    """What `reset` would delete: VMs and volumes."""
    node = _node(home)
    if node is None:
        return {"vms": [], "volumes": []}
    volumes = [volume.volid for storage in node.storages.values() for volume in storage.volumes()]
    return {"vms": node.vmids(), "volumes": volumes}


async def guests(home: Path) -> list[dict[str, Any]]:
    """Every VM of the lab with what it does; works also while the server is down."""
    node = _node(home)
    if node is None:
        return []
    return [{"vmid": vmid, "status": (await guest.status(node, vmid))["status"]} for vmid in node.vmids()]


def is_console_taken(home: Path, vmid: int) -> bool:
    """Whether somebody is attached to that guest's serial console; no, where its QEMU does not tell."""
    node = _node(home)
    try:
        return node is not None and asyncio.run(guest.is_console_taken(node, vmid))
    except guest.GuestError:
        return False


def _node(home: Path) -> Node | None:
    settings = read_json(home / "lab.json", None)
    return Node(home, settings["release"], settings["node"]) if settings else None


def _settings(home: Path, release: str | None, port: int | None, schema: Path | None) -> dict[str, Any]:
    old = read_json(home / "lab.json", {})
    if release and old.get("release", release) != release:
        what = f"the lab in {home} is release {old['release']}, not {release}"
        raise Refused("lab-release-fixed", what, hint="use another --home, or `vi-ops lab reset` first")
    if _pid(home) is not None:
        if port and port != old["port"]:
            raise Refused("lab-runs", f"the lab runs on port {old['port']}", hint="`vi-ops lab down` first")
        if schema and str(schema.absolute()) != old.get("schema"):
            raise Refused("lab-runs", "the lab runs without this schema", hint="`vi-ops lab down` first")
    chosen = port if port is not None else old.get("port", DEFAULT_PORT)
    settings = {"release": "9.2", "node": "pve1", "ssh_port_base": 22000, **old, "port": chosen}
    settings["url"] = f"https://127.0.0.1:{chosen}"
    settings |= {"release": release} if release else {}
    return settings | ({"schema": str(schema.absolute())} if schema else {})


def _pid(home: Path) -> int | None:
    """The server's pid while it holds the lab's lock: a stale file proves nothing."""
    try:
        with (home / "server.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(lock.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def _await_end(home: Path, pid: int) -> None:
    deadline = time.monotonic() + DOWN_DEADLINE_S
    while time.monotonic() < deadline:
        if _pid(home) is None:
            return
        time.sleep(0.05)
    raise LockHeld("lab-stop-failed", f"the lab's server (pid {pid}) does not end", hint=f"kill {pid}")


async def _stop_guests(node: Node, grace_s: float) -> dict[int, bool]:
    running = [vmid for vmid in node.vmids() if await guest.is_running(node, vmid)]
    return dict(
        zip(running, await asyncio.gather(*(_stop(node, vmid, grace_s) for vmid in running)), strict=True)
    )


async def _stop(node: Node, vmid: int, grace_s: float) -> bool:
    """Whether the guest shut down by itself in time."""
    if grace_s > 0:
        try:
            await guest.shutdown(node, vmid, grace_s)
        except guest.GuestError:
            pass
        else:
            return True
    await guest.stop(node, vmid)
    return False


def _last_line(file: Path) -> str:
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
