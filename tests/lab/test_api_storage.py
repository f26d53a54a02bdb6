"""Storages: what lies in them, uploads part by part, downloads with a checksum."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Answer, RunningLab, read_answer
from vi_ops.lab.api.storage import virtual_bytes
from vi_ops.lab.fault import Fault
from vi_ops.lab.route import Refusal
from vi_ops.lab.storage import Storage

UPLOAD = "/nodes/pve1/storage/local/upload"
DOWNLOAD = "/nodes/pve1/storage/local/download-url"
IMAGE = b"QFI\xfb" + bytes(4096)
SHA256 = hashlib.sha256(IMAGE).hexdigest()
BOUNDARY = "----parts"


def part(
    name: str, value: bytes | str, filename: str | None = None, first: str = "Content-Disposition"
) -> bytes:
    disposition = f'{first}: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    value = value.encode() if isinstance(value, str) else value
    return f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + value + b"\r\n"


def upload(lab: RunningLab, *parts: bytes) -> Answer:
    connection = lab.connect()
    headers = {
        "Authorization": f"PVEAPIToken=ops@pve!viops={lab.token}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    try:
        body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
        connection.request("POST", f"/api2/json{UPLOAD}", body=body, headers=headers)
        return read_answer(connection.getresponse())
    finally:
        connection.close()


def test_upload_lands_in_the_storage(fresh_lab: RunningLab) -> None:
    sums = part("checksum-algorithm", "sha256") + part("checksum", SHA256)
    answer = upload(fresh_lab, part("content", "import"), sums, part("filename", IMAGE, "dir/my image.qcow2"))
    assert answer.data.split(":")[5:7] == ["imgcopy", ""]
    assert fresh_lab.wait(answer.data) == "OK"
    volume = fresh_lab.node.volume("local:import/my_image.qcow2")
    assert volume.path.read_bytes() == IMAGE
    listed = fresh_lab.ask("GET", "/nodes/pve1/storage/local/content", {"content": "import"}).data
    assert [entry["volid"] for entry in listed] == ["local:import/my_image.qcow2"]
    assert list((fresh_lab.home / "tmp").iterdir()) == []


def test_upload_with_wrong_checksum_leaves_nothing(fresh_lab: RunningLab) -> None:
    sums = part("checksum-algorithm", "sha256") + part("checksum", "0" * 64)
    answer = upload(fresh_lab, part("content", "import"), sums, part("filename", IMAGE, "x.qcow2"))
    assert fresh_lab.wait(answer.data).startswith("checksum mismatch: got ")
    assert not fresh_lab.node.volume("local:import/x.qcow2").path.exists()
    assert list((fresh_lab.home / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        (
            (part("filename", IMAGE, "x.qcow2"), part("content", "import")),
            400,
        ),  # nothing is read after the file
        ((part("checksum", "0"), part("content", "import"), part("filename", IMAGE, "x.qcow2")), 501),
        ((part("content", "iso"), part("content", "import"), part("filename", IMAGE, "x.qcow2")), 501),
        ((part("content", "import"), part("file", IMAGE, "x.qcow2")), 501),
        ((part("content", "import"), part("filename", IMAGE)), 501),
        ((part("content", "import"),), 501),
        ((part("content", "import", first="content-disposition"), part("filename", IMAGE, "x.qcow2")), 501),
    ],
)
def test_upload_wants_its_parts_in_order(
    fresh_lab: RunningLab, parts: tuple[bytes, ...], status: int
) -> None:
    assert upload(fresh_lab, *parts).status == status
    assert list((fresh_lab.home / "tmp").glob("*")) == []


def test_upload_without_the_right_is_not_even_read(fresh_lab: RunningLab) -> None:
    fresh_lab.node.acl.state["acl"] = []
    assert upload(fresh_lab, part("content", "import"), part("filename", IMAGE, "x.qcow2")).status == 403
    assert not (fresh_lab.home / "tmp").exists()


def test_upload_that_is_refused_afterwards_leaves_nothing(fresh_lab: RunningLab) -> None:
    fresh_lab.node.faults.inject(Fault("status-500", path="*/upload"))
    assert upload(fresh_lab, part("content", "import"), part("filename", IMAGE, "x.qcow2")).status == 500
    assert list((fresh_lab.home / "tmp").iterdir()) == []


def test_upload_that_stops_halfway_leaves_nothing(fresh_lab: RunningLab) -> None:
    connection = fresh_lab.connect()
    connection.putrequest("POST", f"/api2/json{UPLOAD}")
    connection.putheader("Authorization", f"PVEAPIToken=ops@pve!viops={fresh_lab.token}")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", "100000000")
    connection.endheaders(part("content", "import") + part("filename", IMAGE * 1000, "x.qcow2"))
    folder, deadline = fresh_lab.home / "tmp", time.monotonic() + 10
    while not list(folder.glob("*")):
        assert time.monotonic() < deadline, "nothing arrived"
        time.sleep(0.01)
    connection.close()
    while list(folder.glob("*")):
        assert time.monotonic() < deadline, "the half of a file stayed"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("content", "name", "status", "reason"),
    [
        ("import", "x.img", 400, "Parameter verification failed."),  # a cloud image must be renamed
        ("iso", "x.img", 200, "OK"),
        ("snippets", "x.yaml", 400, "Parameter verification failed."),
        ("import", "x.qcow2", 200, "OK"),
    ],
)
def test_upload_wants_the_right_ending(
    fresh_lab: RunningLab, content: str, name: str, status: int, reason: str
) -> None:
    answer = upload(fresh_lab, part("content", content), part("filename", IMAGE, name))
    assert (answer.status, answer.reason) == (status, reason)
    if status == 200:
        assert fresh_lab.wait(answer.data) == "OK"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server with one image."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            found = self.path == "/image.qcow2"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(IMAGE) if found else 0))
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(IMAGE)

        def log_message(self, *words: Any) -> None:
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def download(lab: RunningLab, url: str, **more: str) -> str:
    answer = lab.ask("POST", DOWNLOAD, {"content": "import", "filename": "i.qcow2", "url": url, **more})
    assert answer.status == 200, answer
    assert answer.data.split(":")[5:7] == ["download", "i.qcow2"]
    return lab.wait(answer.data)


def test_download_is_idempotent_with_a_checksum(fresh_lab: RunningLab, site: str) -> None:
    sums = {"checksum": SHA256, "checksum-algorithm": "sha256"}
    target = fresh_lab.node.volume("local:import/i.qcow2").path
    assert download(fresh_lab, f"{site}/image.qcow2", **sums) == "OK"
    stamp = target.stat().st_mtime_ns
    assert download(fresh_lab, f"{site}/absent", **sums) == "OK"  # not asked for a second time
    assert target.stat().st_mtime_ns == stamp
    assert download(fresh_lab, f"{site}/image.qcow2").startswith("refusing to override existing file")
    wrong = {"checksum": "0" * 64, "checksum-algorithm": "sha256"}
    assert "checksum mismatch" in download(fresh_lab, f"{site}/image.qcow2", **wrong)
    assert target.read_bytes() == IMAGE


@pytest.mark.parametrize("more", [{}, {"checksum": "0" * 64, "checksum-algorithm": "sha256"}])
def test_failed_download_leaves_nothing(fresh_lab: RunningLab, site: str, more: dict[str, str]) -> None:
    url = f"{site}/image.qcow2" if more else f"{site}/absent"
    assert download(fresh_lab, url, **more) != "OK"
    assert list(fresh_lab.node.storage("local").folder("import").iterdir()) == []


def test_url_metadata(lab: RunningLab, site: str) -> None:
    found = lab.ask("GET", "/nodes/pve1/query-url-metadata", {"url": f"{site}/image.qcow2"}).data
    assert (found["filename"], found["size"]) == ("image.qcow2", len(IMAGE))
    assert lab.ask("GET", "/nodes/pve1/query-url-metadata", {"url": f"{site}/absent"}).status == 500


def test_volume_is_read_and_removed_by_either_spelling(fresh_lab: RunningLab) -> None:
    for spelling in ("local:import/x.qcow2", "local:import%2Fx.qcow2", "import%2Fx.qcow2"):
        path = fresh_lab.node.volume("local:import/x.qcow2").path
        path.write_bytes(IMAGE)
        target = f"/nodes/pve1/storage/local/content/{spelling}"
        assert fresh_lab.ask("GET", target).data["path"] == str(path)
        upid = fresh_lab.ask("DELETE", target).data
        assert upid.split(":")[5:7] == ["imgdel", "@local"]
        assert fresh_lab.wait(upid) == "OK"
        assert not path.exists()
    assert fresh_lab.ask("GET", target).reason == "volume 'local:import/x.qcow2' does not exist"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("100/vm-100-disk-0.qcow2", "images/100/vm-100-disk-0.qcow2"),
        ("100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2", "images/101/vm-101-disk-0.qcow2"),
        ("iso/debian.iso", "template/iso/debian.iso"),
        ("snippets/u.yaml", "snippets/u.yaml"),
        ("backup/vzdump-qemu-1-x.vma.zst", "dump/vzdump-qemu-1-x.vma.zst"),
    ],
)
def test_volume_has_its_place(tmp_path: Path, name: str, place: str) -> None:
    assert Storage("local", tmp_path).volume(name).path == tmp_path / place


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "import/../../x", "100/../../x.raw", "nosuch", "import/", "iso/.."]
)
def test_volume_stays_inside_the_storage(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal, match="unable to parse directory volume name"):
        Storage("local", tmp_path).volume(name)


def test_lowest_free_disk_number_is_taken(tmp_path: Path) -> None:
    storage = Storage("local", tmp_path)
    folder = storage.folder("images") / "100"
    folder.mkdir()
    for name in ("vm-100-disk-0.raw", "base-100-disk-1.qcow2", "vm-100-disk-3.raw", "vm-100-cloudinit.qcow2"):
        (folder / name).touch()
    assert storage.free_name(100, "qcow2") == "100/vm-100-disk-2.qcow2"


def test_virtual_size_comes_from_the_header(tmp_path: Path) -> None:
    image = tmp_path / "x.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "3G"], check=True)
    assert virtual_bytes(image) == 3 * 2**30
