"""A small Proxmox API for failure modes: it keeps state, loses answers, stalls and talks nonsense."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from vi_ops.specs.node import NodeSpec

SECRET = "11111111-2222-3333-4444-555555555555"
TOKEN = "ops@pve!viops"


@dataclass
class Seen:
    """One request as it arrived. Repeated keys are lists; `connection` numbers the TCP connections."""

    method: str
    path: str
    params: dict[str, Any]
    headers: dict[str, str]
    connection: int
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What to send back. `drop` closes the connection instead, before or after the handler ran."""

    status: int = 200
    data: Any = None
    reason: str | None = None
    message: str | None = None
    errors: dict[str, str] | None = None
    raw: bytes | None = None
    delay_s: float = 0.0
    drop: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Seen], Any]


@dataclass
class FakePve:
    """State and scripts. `faults[(method, path)]` is used up one by one, before the handlers."""

    home: Path
    clock_ahead_s: float = 0.0
    idle_limit_s: float = 5.0
    seen: list[Seen] = field(default_factory=list)
    faults: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    tickets: set[str] = field(default_factory=set)
    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def on(self, method: str, path: str, handler: Handler | Any) -> None:
        """Answer a call with a value, an Answer, or what a function of the request gives."""
        self.handlers[method, path] = handler if callable(handler) else lambda _seen: handler

    def fail(self, method: str, path: str, *answers: Answer) -> None:
        """Answer the next requests of this call like this, then as before."""
        self.faults.setdefault((method, path), []).extend(answers)

    def start_task(
        self,
        type_: str,
        id_: str,
        *,
        log: tuple[str, ...] = (),
        exitstatus: str | None = "OK",
        user: str = TOKEN,
    ) -> str:
        """A task that is done at once, or that runs while `exitstatus` is None. Gives its UPID."""
        began = int(time.time() + self.clock_ahead_s)
        upid = f"UPID:pve1:{len(self.tasks) + 1:08X}:0009913B:{began:08X}:{type_}:{id_}:{user}:"
        row: dict[str, Any] = {"upid": upid, "type": type_, "id": id_, "starttime": began, "node": "pve1"}
        self.tasks[upid] = row | {"status": "running"}
        self.logs[upid] = list(log)
        if exitstatus is not None:
            self.end_task(upid, exitstatus)
        return upid

    def end_task(self, upid: str, exitstatus: str) -> None:
        self.tasks[upid] |= {"status": "stopped", "exitstatus": exitstatus}
        self.logs[upid].append("TASK OK" if exitstatus == "OK" else f"TASK ERROR: {exitstatus}")

    def calls(self, method: str, path: str | None = None) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and path in (None, seen.path)]

    def answer(self, seen: Seen) -> Answer:
        """The answer to one request: faults first, then handlers, then tasks and tickets."""
        self.seen.append(seen)
        script = self.faults.get((seen.method, seen.path), [])
        fault = script.pop(0) if script else None
        if fault and fault.drop != "after":
            return fault
        found = self._handle(seen)
        return fault or (found if isinstance(found, Answer) else Answer(data=found))

    def _handle(self, seen: Seen) -> Any:
        if (seen.method, seen.path) == ("POST", "/access/ticket"):
            return self._ticket(seen)
        if not self._is_allowed(seen):
            return Answer(401, reason="Authentication failed!", raw=b"")
        if handler := self.handlers.get((seen.method, seen.path)):
            return handler(seen)
        if seen.path == "/nodes/pve1/tasks":
            return self._list_tasks(seen)
        if seen.path.startswith("/nodes/pve1/tasks/"):
            return self._task(seen)
        words = f"Method '{seen.method} {seen.path}' not implemented"
        return Answer(501, reason=words, message=words)

    def _is_allowed(self, seen: Seen) -> bool:
        if seen.headers.get("authorization") == f"PVEAPIToken={TOKEN}={SECRET}":
            return True
        ticket = unquote(seen.headers.get("cookie", "").removeprefix("PVEAuthCookie="))
        has_csrf = seen.method == "GET" or seen.headers.get("csrfpreventiontoken") == f"CSRF:{ticket}"
        return ticket in self.tickets and has_csrf

    def _ticket(self, seen: Seen) -> Any:
        if seen.params.get("password") != SECRET:
            return Answer(401, reason="authentication failure", message="authentication failure\n")
        ticket = f"PVE:{seen.params['username']}:{len(self.seen):08X}::sig+/="
        self.tickets.add(ticket)
        return {
            "ticket": ticket,
            "CSRFPreventionToken": f"CSRF:{ticket}",
            "username": seen.params["username"],
        }

    def _list_tasks(self, seen: Seen) -> list[dict[str, Any]]:
        since = int(seen.params.get("since", 0))
        rows = [row for row in self.tasks.values() if row["starttime"] >= since]
        source = seen.params.get("source", "archive")
        return [row for row in rows if source == "all" or row["status"] == "stopped"]

    def _task(self, seen: Seen) -> Any:
        upid, _, what = seen.path.removeprefix("/nodes/pve1/tasks/").partition("/")
        if upid not in self.tasks:
            return Answer(400, reason="Parameter verification failed.", errors={"upid": "no such task"})
        if what == "status":
            return self.tasks[upid]
        start = int(seen.params.get("start", 0))
        lines = list(enumerate(self.logs[upid], 1))[start:] or [(1, "no content")]
        return [{"n": number, "t": text} for number, text in lines]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.timeout = self.server.fake.idle_limit_s
        super().setup()
        self.server.fake.connections += 1
        self.number = self.server.fake.connections

    def _serve(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = url.query
        if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            query = "&".join(filter(None, (query, body.decode())))
        pairs = parse_qs(query, keep_blank_values=True)
        params = {key: values[0] if len(values) == 1 else values for key, values in pairs.items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        path = unquote(url.path).removeprefix("/api2/json")
        self._reply(fake.answer(Seen(self.command, path, params, headers, self.number, body)))

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _reply(self, answer: Answer) -> None:
        time.sleep(answer.delay_s)
        lies = "Content-Length" in answer.headers
        self.close_connection = answer.drop is not None or answer.status >= 400 or lies
        if answer.drop is not None:
            return
        fields: dict[str, Any] = {"data": answer.data}
        if answer.message is not None:
            fields["message"] = answer.message
        if answer.errors is not None:
            fields["errors"] = answer.errors
        body = json.dumps(fields).encode() if answer.raw is None else answer.raw
        self.send_response_only(answer.status, answer.reason)
        self.send_header("Date", formatdate(time.time() + self.server.fake.clock_ahead_s, usegmt=True))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Silence: the tests look at `seen`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakePve) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests."""


@cache
def certificate() -> bytes:
    """Key and self-signed certificate for 127.0.0.1, in PEM."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return private + made.public_bytes(serialization.Encoding.PEM)


def node_spec(fake: FakePve, **api: Any) -> NodeSpec:
    """The spec of a fake node; keywords replace fields of its `api`."""
    secret = fake.home / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    login = {} if "user" in api else {"token": TOKEN}
    fields = {"url": fake.url, "secret": {"file": str(secret)}, **login, **api}
    return NodeSpec.model_validate({"host": "pve1", "name": "pve1", "api": fields, "ssh": {"host": "pve1"}})


@contextmanager
def serve_fake(home: Path, kind: type[FakePve] = FakePve, **settings: Any) -> Iterator[FakePve]:
    """A fake node on a free port of the loopback; its certificate is `<home>/node.pem`."""
    fake = kind(home, **settings)
    pem = home / "node.pem"
    pem.write_bytes(certificate())
    server = _Server(fake)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
