"""`image fetch` and `image push` against a lab, with a publisher on the loopback."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.lab import RunningLab, running_lab
from tests.support.publisher import Publisher, serve_publisher
from vi_ops.cli.main import app
from vi_ops.errors import Refused, SpecError, StepFailed, Unreachable, ViOpsError
from vi_ops.execute.image import image_path
from vi_ops.facts.image import BuiltImage
from vi_ops.lab.api import download
from vi_ops.specs import image as catalogue

SITE = Path(__file__).parents[2] / "inventory" / "lab"
# The first bytes of a qcow2 file whose disk has 2 GiB; a storage lists the file's size, not the disk's.
IMAGE = b"QFI\xfb\x00\x00\x00\x03" + bytes(16) + (2 << 30).to_bytes(8, "big") + bytes(4096)


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    with serve_publisher(tmp_path) as served:
        served.publish(IMAGE)
        trusting = ssl.create_default_context(cafile=str(served.ca))
        monkeypatch.setenv("SSL_CERT_FILE", str(served.ca))
        monkeypatch.setattr(download, "_tls", lambda verify: trusting)
        known = dict(catalogue.image_catalogue())
        known["ubuntu-24.04"] = served.spec
        monkeypatch.setattr(catalogue, "image_catalogue", lambda: known)
        yield served


@pytest.fixture
def site(fresh_lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningLab:
    monkeypatch.setenv("VI_OPS_INVENTORY", str(SITE))
    monkeypatch.setenv("VI_OPS_LAB_DIR", str(fresh_lab.home))
    monkeypatch.setenv("VI_OPS_CACHE_DIR", str(tmp_path / "cache"))
    return fresh_lab


def vi_ops(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=True)


def changed(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def failure(result: Result) -> ViOpsError:
    assert isinstance(result.exception, ViOpsError), (result.output, result.exception)
    return result.exception


def stored(lab: RunningLab, name: str) -> Path:
    return lab.home / "storage" / "local" / "import" / name


def built(content: bytes = IMAGE) -> BuiltImage:
    """An image in the cache, as a build leaves it."""
    path = image_path("debian-13")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    made = BuiltImage("debian-13", "r", 1, digest, len(content), digest, 2 << 30, {}, {})
    path.with_suffix(".json").write_text(made.to_json())
    return made


def test_a_node_fetches_an_image_once(site: RunningLab, publisher: Publisher) -> None:
    assert "done" in changed(vi_ops("image", "fetch", "ubuntu-24.04", "--node", "pve1"))
    assert stored(site, "ubuntu-24.04.qcow2").read_bytes() == IMAGE
    (write,) = site.writes()
    assert write["path"].endswith("/storage/local/download-url")
    assert "nothing to do" in changed(vi_ops("image", "fetch", "ubuntu-24.04"))
    assert len(site.writes()) == 1
    assert publisher.asked.count("GET /noble-server-cloudimg-amd64.img") == 1


def test_a_newer_build_of_the_publisher_is_told_and_not_taken(site: RunningLab, publisher: Publisher) -> None:
    changed(vi_ops("image", "fetch", "ubuntu-24.04"))
    publisher.publish(IMAGE + b"newer")
    result = vi_ops("image", "fetch", "ubuntu-24.04")
    assert "nothing to do" in changed(result)
    assert "image-other-build" in result.stderr
    assert stored(site, "ubuntu-24.04.qcow2").read_bytes() == IMAGE


def test_a_wrong_fingerprint_keeps_nothing(site: RunningLab, publisher: Publisher) -> None:
    publisher.files["/SHA256SUMS"] = f"{'0' * 64} *noble-server-cloudimg-amd64.img\n".encode()
    error = failure(vi_ops("image", "fetch", "ubuntu-24.04"))
    assert isinstance(error, StepFailed)
    assert "checksum mismatch" in error.message
    assert not list(stored(site, "x").parent.glob("*"))


def test_without_a_fingerprint_nothing_is_fetched(site: RunningLab, publisher: Publisher) -> None:
    publisher.files["/SHA256SUMS"] = b"feed  another.img\n"
    assert failure(vi_ops("image", "fetch", "ubuntu-24.04")).code == "image-checksum-missing"
    assert not site.writes()


def test_a_publisher_that_is_away_is_unreachable(site: RunningLab, publisher: Publisher) -> None:
    del publisher.files["/SHA256SUMS"]
    error = failure(vi_ops("image", "fetch", "ubuntu-24.04"))
    assert isinstance(error, Unreachable)
    assert "404" in error.message


def test_a_publisher_without_a_trusted_certificate_is_not_believed(
    site: RunningLab, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.ca))
    assert failure(vi_ops("image", "fetch", "ubuntu-24.04")).code == "image-publisher"
    assert not publisher.asked


def test_an_image_built_here_is_sent_once(site: RunningLab) -> None:
    built()
    assert "done" in changed(vi_ops("image", "push", "debian-13", "--node", "pve1"))
    assert stored(site, "debian-13.qcow2").read_bytes() == IMAGE
    assert len(site.writes()) == 1
    assert "nothing to do" in changed(vi_ops("image", "push", "debian-13"))
    assert len(site.writes()) == 1
    built(IMAGE + b"a newer build")
    changed(vi_ops("image", "push", "debian-13"))
    assert stored(site, "debian-13.qcow2").read_bytes().endswith(b"a newer build")


def test_a_file_that_changed_on_its_way_is_not_kept(site: RunningLab) -> None:
    made = built()
    record = image_path("debian-13").with_suffix(".json")
    record.write_text(replace(made, sha256="0" * 64).to_json())
    error = failure(vi_ops("image", "push", "debian-13"))
    assert "checksum mismatch" in error.message
    assert not stored(site, "debian-13.qcow2").exists()


def test_what_is_not_built_is_not_sent(site: RunningLab) -> None:
    error = failure(vi_ops("image", "push", "debian-13"))
    assert isinstance(error, SpecError)
    assert error.code == "image-not-built"
    assert not site.requests()


def test_a_storage_without_import_is_refused(
    tmp_path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"storage": {"local": {"content": ["images", "iso"]}}}
    with running_lab(tmp_path / "older", release="8.4", settings=settings) as lab:
        monkeypatch.setenv("VI_OPS_INVENTORY", str(SITE))
        monkeypatch.setenv("VI_OPS_LAB_DIR", str(lab.home))
        error = failure(vi_ops("image", "fetch", "ubuntu-24.04"))
        assert isinstance(error, Refused)
        assert error.code == "image-storage"
        assert "no 'import' content" in error.message
        assert not lab.writes()


def test_the_list_says_what_is_built_here(site: RunningLab) -> None:
    built()
    rows = [json.loads(line) for line in changed(vi_ops("image", "list", "--json")).splitlines()]
    assert {row["name"]: row["built"] for row in rows}["debian-13"] == str(image_path("debian-13"))
    assert all(len(line) <= 80 for line in changed(vi_ops("image", "list")).splitlines())


@pytest.mark.parametrize("command", ["list", "build", "fetch", "push"])
def test_every_command_shows_an_example(command: str) -> None:
    text = changed(vi_ops("image", command, "--help"))
    assert f"vi-ops image {command}" in text.partition("Examples:")[2]
    assert "--json" in text
