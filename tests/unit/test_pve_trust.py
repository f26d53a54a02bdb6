"""Whose certificate, whose secret: nothing is trusted silently, nothing is read that others may read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import SECRET, FakePve, node_spec, serve_fake
from vi_ops.errors import Refused, SpecError, Unreachable, ViOpsError
from vi_ops.execute.pve import connect
from vi_ops.execute.secret import read_secret
from vi_ops.execute.trust import (
    endpoint,
    parse_fingerprint,
    pin_shown,
    read_pin,
    shown_fingerprint,
    write_pin,
)
from vi_ops.specs.node import SecretSpec

OTHER = ":".join(["AB"] * 32)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        node.on("GET", "/version", {"release": "9.2"})
        yield node


def test_first_contact_asks_with_the_fingerprint_and_pins_it(fake: FakePve, tmp_path: Path) -> None:
    asked: list[str] = []
    state = tmp_path / "state"
    with connect(node_spec(fake), state_dir=state, confirm=lambda text: not asked.append(text)) as api:
        api.get("/version")
    assert shown_fingerprint(fake.url) in asked[0]
    assert (state / "fingerprints.json").stat().st_mode & 0o777 == 0o600
    with connect(node_spec(fake), state_dir=state) as api:
        api.get("/version")
    assert len(asked) == 1


@pytest.mark.parametrize("confirm", [None, lambda _text: False])
def test_without_a_yes_nothing_is_sent_or_pinned(fake: FakePve, tmp_path: Path, confirm: Any) -> None:
    with pytest.raises(Refused) as caught:
        connect(node_spec(fake), state_dir=tmp_path / "state", confirm=confirm)
    assert caught.value.code == "tls-first-contact"
    assert shown_fingerprint(fake.url) in caught.value.message
    assert shown_fingerprint(fake.url) in str(caught.value.hint)
    assert not fake.seen
    assert not (tmp_path / "state").exists()


def test_another_certificate_than_the_pinned_one_stops_everything(fake: FakePve, tmp_path: Path) -> None:
    write_pin(tmp_path, fake.url, OTHER)
    with connect(node_spec(fake), state_dir=tmp_path) as api, pytest.raises(Unreachable) as caught:
        api.get("/version")
    assert caught.value.code == "tls-changed"
    assert not fake.seen


def test_a_ca_that_did_not_sign_the_certificate(fake: FakePve, tmp_path: Path) -> None:
    import certifi

    spec = node_spec(fake, ca_file=certifi.where())
    with connect(spec, state_dir=tmp_path) as api, pytest.raises(Unreachable) as caught:
        api.get("/version")
    assert caught.value.code == "tls-unverified"
    assert not fake.seen


def test_a_ca_file_that_is_not_there(fake: FakePve, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        connect(node_spec(fake, ca_file="/nowhere.pem"), state_dir=tmp_path)
    assert caught.value.code == "tls-ca-missing"


def test_a_pin_is_replaced_only_by_what_the_node_shows(fake: FakePve, tmp_path: Path) -> None:
    shown = shown_fingerprint(fake.url)
    with pytest.raises(Refused) as caught:
        pin_shown(node_spec(fake), tmp_path, OTHER)
    assert caught.value.code == "tls-changed"
    assert read_pin(tmp_path, fake.url) is None
    assert pin_shown(node_spec(fake), tmp_path, shown.lower().replace(":", "")) == shown
    assert read_pin(tmp_path, fake.url) == shown
    with pytest.raises(SpecError):
        pin_shown(node_spec(fake, fingerprint=OTHER), tmp_path, shown)


def test_trusting_again_asks_only_about_another_certificate(fake: FakePve, tmp_path: Path) -> None:
    asked: list[str] = []

    def confirm(question: str) -> bool:
        asked.append(question)
        return True

    write_pin(tmp_path, fake.url, OTHER)
    shown = pin_shown(node_spec(fake), tmp_path, None, confirm)
    assert len(asked) == 1
    assert f"changed: was {OTHER}" in asked[0]
    assert pin_shown(node_spec(fake), tmp_path, None, confirm) == shown
    assert len(asked) == 1


def test_pins_of_other_nodes_stay(tmp_path: Path) -> None:
    write_pin(tmp_path, "https://a", OTHER)
    write_pin(tmp_path, "https://b:443", OTHER)
    assert read_pin(tmp_path, "https://a:8006") == OTHER
    (tmp_path / "fingerprints.json").write_text("{")
    with pytest.raises(Refused) as caught:
        read_pin(tmp_path, "https://a")
    assert caught.value.code == "tls-pins"


@pytest.mark.parametrize("text", ["AB:" * 19 + "AB", "", "xy" * 32])
def test_no_fingerprint(text: str) -> None:
    with pytest.raises(SpecError):
        parse_fingerprint(text)


def test_a_fingerprint_as_openssl_prints_it() -> None:
    assert parse_fingerprint(f"sha256 Fingerprint={OTHER.lower()}\n") == OTHER


@pytest.mark.parametrize(
    "url",
    ["http://pve1:8006", "pve1:8006", "https://", "https://a@pve1", "https://pve1:99999", "https://pve1?x"],
)
def test_no_address_of_a_node(url: str) -> None:
    with pytest.raises(SpecError):
        endpoint(url)


def test_an_address_without_a_port_is_proxmoxs_port() -> None:
    assert endpoint("https://[::1]") == ("::1", 8006)


def spec(**source: Any) -> SecretSpec:
    return SecretSpec.model_validate(source)


def test_a_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", f" {SECRET}\n")
    assert read_secret(spec(env="SECRET"), "pve1") == SECRET


def test_a_secret_from_a_command() -> None:
    argv = [sys.executable, "-c", "print('abc'); print('more')"]
    assert read_secret(spec(command=argv), "pve1") == "abc"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(Refused) as caught:
        read_secret(spec(file=str(file)), "pve1")
    assert caught.value.code == "secret-mode"
    assert caught.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"env": "NO_SUCH_VARIABLE"}, "secret-missing"),
        ({"file": "/nowhere/secret"}, "secret-missing"),
        ({"command": [sys.executable, "-c", "print('hunter2'); exit(3)"]}, "secret-command"),
        ({"command": ["/no/such/program"]}, "secret-command"),
        ({"command": [sys.executable, "-c", ""]}, "secret-empty"),
        ({"command": [sys.executable, "-c", "print('a\\tb')"]}, "secret-malformed"),
        ({"keyring": "no-slash"}, "secret-keyring"),
    ],
)
def test_a_secret_that_cannot_be_read(source: dict[str, Any], code: str) -> None:
    with pytest.raises(ViOpsError) as caught:
        read_secret(spec(**source), "pve1")
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)


def test_an_absent_secret_of_a_node_on_this_machine_may_be_a_lab_that_is_down(
    fake: FakePve, tmp_path: Path
) -> None:
    spec = node_spec(fake, secret={"file": str(tmp_path / "absent")})
    with pytest.raises(SpecError) as caught:
        connect(spec, state_dir=tmp_path)
    assert "vi-ops lab up" in str(caught.value.hint)


def test_the_secret_is_in_no_representation(fake: FakePve, tmp_path: Path) -> None:
    with connect(node_spec(fake, ca_file=str(tmp_path / "node.pem")), state_dir=tmp_path) as api:
        assert SECRET not in repr(vars(api)) + repr(vars(api._session)["_login"])
