"""The lab's server process: it detaches itself, holds the lab's lock, and serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from vi_ops.lab.certificate import server_context
from vi_ops.lab.node import Node
from vi_ops.lab.schema import Schema
from vi_ops.lab.seed import ensure_seeded
from vi_ops.lab.server import KEEP_ALIVE_S, Server
from vi_ops.lab.store import read_json, write_json


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
    for left in (node.home / "tmp").glob("pveupload-*"):
        left.unlink()  # of a server that was killed
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
    """`python -m vi_ops.lab.serve HOME`: leave a server behind, and end when it listens or has failed."""
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


if __name__ == "__main__":
    main()
