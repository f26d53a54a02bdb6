"""Uploads: parts in the node's order, streamed, and looked for when the answer is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.support.fake_pve import Answer, FakePve, Seen, node_spec, serve_fake
from vi_ops.errors import Refused, SpecError
from vi_ops.execute.pve import Pve, connect
from vi_ops.execute.upload import checksum_fields

PATH = "/nodes/pve1/storage/local/upload"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        yield node


@pytest.fixture
def pve(fake: FakePve) -> Iterator[Pve]:
    with connect(node_spec(fake, ca_file=str(fake.home / "node.pem")), state_dir=fake.home) as api:
        yield api


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "debian-13.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(range(256)) * 4000)
    return path


def parts(seen: Seen) -> list[Message]:
    head = f"Content-Type: {seen.headers['content-type']}\r\n\r\n".encode()
    found = message_from_bytes(head + seen.body).get_payload()
    assert isinstance(found, list)
    return found  # type: ignore[return-value]


def test_the_file_is_the_last_part_and_comes_whole(fake: FakePve, pve: Pve, image: Path) -> None:
    fake.on("POST", PATH, lambda _: fake.start_task("imgcopy", ""))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    told: list[str] = []
    assert pve.upload("pve1", "local", image, "import", f"sha256:{digest}", told.append).is_ok
    (seen,) = fake.calls("POST")
    assert "transfer-encoding" not in seen.headers
    names = [part.get_param("name", header="content-disposition") for part in parts(seen)]
    assert names == ["content", "checksum-algorithm", "checksum", "filename"]
    assert all(part.keys()[0] == "Content-Disposition" for part in parts(seen))
    assert parts(seen)[3].get_filename() == "debian-13.qcow2"
    assert parts(seen)[3].get_payload(decode=True) == image.read_bytes()
    assert sum(line.startswith("uploaded ") for line in told) == 10


def test_a_lost_answer_to_an_upload_is_found_by_its_task(fake: FakePve, pve: Pve, image: Path) -> None:
    fake.on("POST", PATH, lambda _: fake.start_task("imgcopy", ""))
    fake.fail("POST", PATH, Answer(drop="after"))
    assert pve.upload("pve1", "local", image).is_ok
    assert len(fake.calls("POST")) == 1


def test_an_empty_file_is_uploaded_too(fake: FakePve, pve: Pve, tmp_path: Path) -> None:
    fake.on("POST", PATH, lambda _: fake.start_task("imgcopy", ""))
    (tmp_path / "empty.raw").touch()
    assert pve.upload("pve1", "local", tmp_path / "empty.raw").is_ok


def test_a_refused_upload_says_why(fake: FakePve, pve: Pve, image: Path) -> None:
    fake.fail("POST", PATH, Answer(500, reason="storage 'local' does not support 'import' content"))
    with pytest.raises(Refused, match=f"POST {PATH}") as caught:
        pve.upload("pve1", "local", image)
    assert caught.value.code == "pve-storage-content"


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("a" * 64, "sha256"),
        ("sha512:" + "B" * 128, "sha512"),
        ("d" * 32, "md5"),
        ("sha1:" + "0" * 40, "sha1"),
    ],
)
def test_a_checksum_names_its_algorithm(text: str, algorithm: str) -> None:
    fields = checksum_fields(text)
    assert fields["checksum-algorithm"] == algorithm
    assert fields["checksum"] == text.rpartition(":")[2].lower()


@pytest.mark.parametrize("text", ["", "abc", "crc32:aa", "sha256:" + "z" * 64])
def test_no_checksum(text: str) -> None:
    with pytest.raises(SpecError):
        checksum_fields(text)
