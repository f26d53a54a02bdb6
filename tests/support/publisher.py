"""A publisher of images on the loopback: HTTPS, a list of fingerprints and a file."""

from __future__ import annotations

import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fake_pve import certificate
from vi_ops.specs.image import ImageSpec

FILE = "noble-server-cloudimg-amd64.img"


@dataclass
class Publisher:
    """What is served: path to content. `asked` are the requests, in order."""

    port: int
    ca: Path
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self, content: bytes) -> None:
        """Put a new build of the image up, with its fingerprint."""
        self.files[f"/{FILE}"] = content
        self.files["/SHA256SUMS"] = f"{hashlib.sha256(content).hexdigest()} *{FILE}\n".encode()

    @property
    def spec(self) -> ImageSpec:
        base = f"https://127.0.0.1:{self.port}"
        return ImageSpec(
            name="ubuntu-24.04",
            title="Ubuntu",
            url=f"{base}/{FILE}",
            checksums_url=f"{base}/SHA256SUMS",
            algorithm="sha256",
            file="ubuntu-24.04.qcow2",
            least_disk="2 GiB",
        )


class _Server(http.server.ThreadingHTTPServer):
    """Shakes hands as it accepts, so that a client that does not trust us leaves nothing open."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        plain.settimeout(10)
        try:
            return self.context.wrap_socket(plain, server_side=True), address
        except OSError:
            plain.close()
            raise


@contextmanager
def serve_publisher(home: Path) -> Iterator[Publisher]:
    """A publisher on a free port; its certificate, the CA to trust, is `<home>/publisher.pem`."""
    pem = home / "publisher.pem"
    pem.write_bytes(certificate())
    publisher = Publisher(0, pem)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = publisher.files.get(self.path)
            publisher.asked.append(f"{self.command} {self.path}")
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Silence."""

    server = _Server(("127.0.0.1", 0), Handler)
    server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.context.load_cert_chain(pem)
    publisher.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield publisher
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
