"""The lab's server as a process of its own: started detached, found again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from aiohttp import web

from vi_ops.errors import LockHeld, Refused, StepFailed
from vi_ops.lab import guest
from vi_ops.lab.certificate import server_context
from vi_ops.lab.node import Node
from vi_ops.lab.schema import Schema
from vi_ops.lab.seed import TOKEN, USER, ensure_seeded
from vi_ops.lab.server import KEEP_ALIVE_S, Server
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
        argv = [sys.executable, "-m", "vi_ops.lab.daemon", str(home)]
        try:
            starter = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=UP_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            message = f"the lab's server is not ready after {UP_DEADLINE_S:.0f} s"
            raise StepFailed("lab-start-failed", message, hint=f"see {log_file}") from None
    if starter.returncode != 0:
        message = f"the lab's server ended at once: {_last_line(log_file)}"
        raise StepFailed("lab-start-failed", message, hint=f"see {log_file}")
    started = find(home)
    assert started is not None  # noqa: S101 - lab.json was written above
    return started


def down(home: Path, keep_guests: bool = False) -> list[int]:
    """Stop the server and, unless they are kept, the guests; gives the vmids of those that were stopped."""
    settings = read_json(home / "lab.json", None)
    if settings is None:
        return []
    stopped = (
        [] if keep_guests else asyncio.run(_stop_guests(Node(home, settings["release"], settings["node"])))
    )
    pid = _pid(home)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _await_end(home, pid)
    return stopped


def reset(home: Path) -> None:
    """Stop everything and delete the lab's folder. Only a folder that holds a lab is touched."""
    if not (home / "lab.json").exists():
        raise Refused("lab-absent", f"there is no lab in {home}", hint="vi-ops lab up starts one")
    down(home)
    shutil.rmtree(home)


def losses(home: Path) -> dict[str, Any]:
    """What `reset` would delete: VMs and volumes."""
    settings = read_json(home / "lab.json", None)
    if settings is None:
        return {"vms": [], "volumes": []}
    node = Node(home, settings["release"], settings["node"])
    volumes = [volume.volid for storage in node.storages.values() for volume in storage.volumes()]
    return {"vms": node.vmids(), "volumes": volumes}


async def guests(home: Path) -> list[dict[str, Any]]:
    """Every VM of the lab with what it does; works also while the server is down."""
    settings = read_json(home / "lab.json", None)
    if settings is None:
        return []
    node = Node(home, settings["release"], settings["node"])
    return [{"vmid": vmid, "status": (await guest.status(node, vmid))["status"]} for vmid in node.vmids()]


@contextlib.asynccontextmanager
async def serving(node: Node, port: int, schema: Schema | None = None) -> AsyncIterator[int]:
    """Serve the node on 127.0.0.1 until the block ends; gives the port, which the system chooses for 0."""
    runner = web.AppRunner(
        Server(node, schema).application(),
        keepalive_timeout=KEEP_ALIVE_S,
        access_log=None,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", port))
    try:
        await web.SockSite(runner, listener, ssl_context=server_context(node.home)).start()
        node.tasks.close_orphans()
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()
        listener.close()


async def serve(home: Path, ready: Callable[[], None]) -> None:
    """The server process: serve what lab.json says until TERM or INT; calls `ready` when it listens."""
    settings = read_json(home / "lab.json", {})
    node = Node(home, settings["release"], settings["node"])
    ensure_seeded(node)
    schema = Schema.load(Path(settings["schema"]), node.release) if settings.get("schema") else None
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with serving(node, settings["port"], schema) as port:
        write_json(home / "lab.json", {**settings, "port": port, "url": f"https://127.0.0.1:{port}"})
        logging.getLogger("vi_ops.lab").info("serving release %s on port %s", node.release, port)
        ready()
        await stopping.wait()


def main() -> None:
    """`python -m vi_ops.lab.daemon HOME`: leave a server behind, and end when it listens or has failed."""
    home = Path(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        sys.exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with (home / "server.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("another server holds this lab")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        asyncio.run(serve(home, ready=lambda: _say_ready(writer)))


def _say_ready(writer: int) -> None:
    os.write(writer, b"1")
    os.close(writer)


def _settings(home: Path, release: str | None, port: int | None, schema: Path | None) -> dict[str, Any]:
    old = read_json(home / "lab.json", {})
    if release and old.get("release", release) != release:
        what = f"the lab in {home} is release {old['release']}, not {release}"
        raise Refused("lab-release-fixed", what, hint="use another --home, or vi-ops lab reset first")
    if _pid(home) is not None and port and port != old.get("port"):
        raise Refused("lab-runs", f"the lab runs on port {old['port']}", hint="vi-ops lab down first")
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


async def _stop_guests(node: Node) -> list[int]:
    running = [vmid for vmid in node.vmids() if await guest.is_running(node, vmid)]
    await asyncio.gather(*(guest.shutdown(node, vmid, GUEST_SHUTDOWN_S, force=True) for vmid in running))
    return running


def _last_line(file: Path) -> str:
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    main()
