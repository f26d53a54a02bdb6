"""`vi-ops node` and `vi-ops doctor` against a lab: what they say, and with which status they end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.lab import RunningLab, running_lab
from vi_ops.cli import doctor
from vi_ops.cli.main import app
from vi_ops.errors import Refused, SpecError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(params=["8.4", "9.2"])
def lab(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningLab]:
    home = tmp_path / "lab"
    monkeypatch.setenv("VI_OPS_LAB_DIR", str(home))
    monkeypatch.setattr(doctor, "_prove_kvm", lambda: True)
    with running_lab(home, request.param) as running:
        monkeypatch.setenv("VI_OPS_LAB_PORT", str(running.port))
        shutil.copytree(ROOT / "inventory" / "lab", tmp_path / "site")
        monkeypatch.setenv("VI_OPS_INVENTORY", str(tmp_path / "site"))
        yield running


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, argv)


def objects(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def describe_node(tmp_path: Path, **api: Any) -> None:
    """Replace fields of the node's `api` in the inventory; None takes one away."""
    from ruamel.yaml import YAML

    file = tmp_path / "site" / "host_vars" / "pve1.yml"
    yaml = YAML()
    tree = yaml.load(file)
    for key, value in api.items():
        tree["node"]["api"].pop(key, None)
        if value is not None:
            tree["node"]["api"][key] = value
    with file.open("w") as stream:
        yaml.dump(tree, stream)


def test_status_shows_the_node(lab: RunningLab) -> None:
    result = run("node", "status", "pve1")
    assert result.exit_code == 0, result.exception
    assert "Proxmox VE" in result.stdout
    assert "vmbr0" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    (told,) = objects(run("node", "status", "pve1", "--json"))
    assert told["release"] == lab.node.release
    assert [one["name"] for one in told["storages"]] == ["local"]
    assert not lab.writes()


def test_roles_are_those_of_the_live_release_and_nothing_lacks(lab: RunningLab) -> None:
    (told,) = objects(run("node", "roles", "pve1", "--json"))
    assert told["release"] == int(lab.node.release[0])
    agent = "VM.Monitor" if told["release"] == 8 else "VM.GuestAgent.Unrestricted"
    assert agent in told["grants"][0]["privileges"]
    assert told["lacking"] is not None
    assert "pveum" in run("node", "roles", "pve1").stdout
    assert not lab.writes()


def test_roles_are_printed_before_any_login_works(lab: RunningLab, tmp_path: Path) -> None:
    (lab.home / "token").unlink()
    result = run("node", "roles", "pve1")
    assert result.exit_code == 0
    assert "pveum user token add ops@pve viops" in result.stdout
    assert "--release 8" in result.stderr


def test_the_first_contact_is_pinned_by_hand(lab: RunningLab, tmp_path: Path) -> None:
    describe_node(tmp_path, ca_file=None)
    refused = run("node", "status", "pve1")
    assert isinstance(refused.exception, Refused)
    assert refused.exception.code == "tls-first-contact"
    shown = refused.exception.message.split()[-1]
    wrong = run("node", "trust", "pve1", "--fingerprint", ":".join(["00"] * 32))
    assert isinstance(wrong.exception, Refused)
    (told,) = objects(run("node", "trust", "pve1", "--fingerprint", shown, "--json"))
    assert told["fingerprint"] == shown
    assert run("node", "status", "pve1").exit_code == 0


def test_an_unknown_node_is_a_spec_error_with_the_nearest_name(lab: RunningLab) -> None:
    result = run("node", "status", "pve2")
    assert isinstance(result.exception, SpecError)
    assert "pve1" in str(result.exception.hint)


def test_the_doctor_finds_nothing_wrong_with_a_lab(lab: RunningLab) -> None:
    result = run("doctor", "--json")
    checks = {one["code"]: one for one in objects(result)}
    assert not [one for one in checks.values() if one["verdict"] == "fail"]
    assert result.exit_code == 0
    assert {"doctor-api", "doctor-release", "doctor-storage", "doctor-import", "doctor-clock"} <= set(checks)
    assert not lab.writes()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret": {"env": "NOT_THERE"}}, "secret-missing"),
        ({"url": "https://127.0.0.1:1"}, "pve-unreachable"),
        ({"token": "ops@pve!nosuch"}, "pve-login"),
        ({"ca_file": None}, "tls-first-contact"),
        ({"ca_file": None, "fingerprint": ":".join(["AB"] * 32)}, "tls-changed"),
    ],
)
def test_the_doctor_names_what_is_wrong_and_goes_on(
    lab: RunningLab, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    describe_node(tmp_path, **change)
    result = run("doctor", "--json")
    failed = [one for one in objects(result) if one["verdict"] == "fail"]
    assert [one["code"] for one in failed] == [code]
    assert failed[0]["hint"]
    assert result.exit_code == 1


def test_the_doctor_without_an_inventory(
    lab: RunningLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VI_OPS_INVENTORY", str(tmp_path / "nowhere"))
    result = run("doctor")
    assert result.exit_code == 1
    assert "[inventory-missing]" in result.stdout
