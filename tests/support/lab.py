"""A lab in a temporary folder on a free port, served from a thread of the test's own process."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vi_ops.lab.node import Node
from vi_ops.lab.schema import Schema
from vi_ops.lab.seed import ensure_seeded
from vi_ops.lab.serve import serving
from vi_ops.lab.store import read_json, write_json

DEADLINE_S = 20.0
PUBLISHED = Path(__file__).parents[2].parent / "shared" / "pve-api"


@dataclass(frozen=True)
class Answer:
    """One answer: `body` is the parsed JSON, or the raw text where it is none."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: Any

    @property
    def data(self) -> Any:
        return self.body["data"]


@dataclass(frozen=True)
class RunningLab:
    """A lab that answers. `token` is the secret of `ops@pve!viops`."""

    home: Path
    port: int
    node: Node
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.home / "ca.pem"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    @property
    def root_password(self) -> str:
        return (self.home / "root-password").read_text().strip()

    def requests(self) -> list[dict[str, Any]]:
        """The request log."""
        file = self.home / "log" / "access.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def writes(self) -> list[dict[str, Any]]:
        """The requests that were no GET."""
        return [entry for entry in self.requests() if entry["method"] != "GET"]

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE_S, context=context)

    def ask(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request as `ops@pve!viops`, or as `headers` say; parameters go where Proxmox wants them."""
        if headers is None:
            headers = {"Authorization": f"PVEAPIToken=ops@pve!viops={self.token}"}
        text = urllib.parse.urlencode(params or {}, doseq=True, quote_via=urllib.parse.quote)
        in_body = method in ("POST", "PUT")
        target = f"/api2/json{path}" + (f"?{text}" if text and not in_body else "")
        if in_body:
            headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        connection = self.connect()
        try:
            connection.request(method, target, body=text if in_body else None, headers=headers)
            return read_answer(connection.getresponse())
        finally:
            connection.close()

    def wait(self, upid: str) -> str:
        """Wait for a task's end and give its exitstatus."""
        waiting = asyncio.run_coroutine_threadsafe(self.node.tasks.wait(upid), self.loop)
        return waiting.result(DEADLINE_S * 3)


def read_answer(response: http.client.HTTPResponse) -> Answer:
    text = response.read().decode()
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return Answer(response.status, response.reason, response.headers, body)


@contextmanager
def running_lab(
    home: Path, release: str = "9.2", schema: Path | None = None, settings: dict[str, Any] | None = None
) -> Iterator[RunningLab]:
    """Serve a lab from `home` until the block ends. `settings` are written to lab.json."""
    home.mkdir(parents=True, exist_ok=True)
    ports = {"port": 0, "url": "", "ssh_port_base": free_ssh_port_base()}
    default = {"release": release, "node": "pve1", "auth_delay_s": 0, **ports}
    write_json(home / "lab.json", {**default, **read_json(home / "lab.json", {}), **(settings or {})})
    node = Node(home, release)
    ensure_seeded(node)
    loaded = Schema.load(schema, release) if schema else None
    started: list[Any] = []
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        try:
            async with serving(node, 0, loaded) as port:
                started.append(port)
                ready.set()
                await stop.wait()
        except BaseException as error:
            started.append(error)
            ready.set()
            raise

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, name="lab", daemon=True)
    thread.start()
    assert ready.wait(DEADLINE_S), "the lab did not come up"
    if isinstance(started[0], BaseException):
        raise started[0]
    try:
        lab = RunningLab(home, started[0], node, loop)
        write_json(home / "lab.json", {**read_json(home / "lab.json", {}), "port": lab.port, "url": lab.url})
        yield lab
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)


def free_ssh_port_base() -> int:
    """A base for the SSH forwards of guests 100 to 199: free now, and none of the default lab's.

    The ports lie below those that Linux gives to outgoing connections (32768 and up).
    """
    for base in random.sample(range(23000, 32000, 100), 50):
        if all(_is_free(port) for port in range(base + 100, base + 200)):
            return base
    raise AssertionError("no hundred ports in a row are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def published_schema(release: str) -> Path | None:
    """The published API schema where it lies beside the checkout, else None."""
    file = PUBLISHED / f"pve-{release}.json"
    return file if file.exists() else None
