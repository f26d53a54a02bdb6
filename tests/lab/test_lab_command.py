"""`vi-ops lab` as a person types it: up twice, down, reset, faults, and guests that outlive the server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from vi_ops.cli.lab import app
from vi_ops.errors import Refused
from vi_ops.lab import daemon

pytestmark = [pytest.mark.slow]
runner = CliRunner()


def told(*argv: str) -> Any:
    result = runner.invoke(app, [*argv, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "home"
    monkeypatch.setenv("VI_OPS_LAB_DIR", str(folder))
    yield folder
    daemon.down(folder, grace_s=0)


def test_up_is_idempotent_and_down_too(home: Path) -> None:
    first = told("up", "--port", "0", "--release", "8.4")
    assert first["release"] == "8.4"
    assert told("up") == first
    assert told("status")["up"] is True
    for name in ("token_file", "root_password_file"):
        assert Path(first[name]).stat().st_mode & 0o777 == 0o600
    assert told("down") == {"was_up": True, "stopped_guests": [], "switched_off": []}
    assert told("down") == {"was_up": False, "stopped_guests": [], "switched_off": []}
    assert told("status")["up"] is False
    again = told("up")
    assert (again["url"], again["release"]) == (first["url"], "8.4")  # the same lab, the same port


def test_release_of_a_lab_is_fixed(home: Path) -> None:
    told("up", "--port", "0")
    with pytest.raises(Refused, match=r"is release 9\.2, not 8\.4"):
        daemon.up(home, release="8.4")
    result = runner.invoke(app, ["up", "--release", "7.4"])
    assert result.exit_code == 2


def test_port_that_is_taken_is_said(home: Path) -> None:
    other = told("up", "--port", "0", "--home", str(home.parent / "other"))
    port = int(other["url"].rpartition(":")[2])
    try:
        with pytest.raises(Refused, match=f"port {port} of 127.0.0.1 is taken"):
            daemon.up(home, port=port)
    finally:
        daemon.down(home.parent / "other")


def test_killed_server_is_seen_as_down_and_started_again(home: Path) -> None:
    first = told("up", "--port", "0")
    os.kill(first["pid"], signal.SIGKILL)
    await_true(lambda: not told("status")["up"])
    second = told("up")
    assert second["pid"] != first["pid"]
    assert second["url"] == first["url"]


def test_reset_wants_the_word_and_touches_only_a_lab(home: Path) -> None:
    told("up", "--port", "0")
    (home / "storage" / "local" / "import" / "x.qcow2").write_bytes(b"image")
    refused = runner.invoke(app, ["reset"], input="yes\n")
    assert isinstance(refused.exception, Refused)
    assert "local:import/x.qcow2" in refused.stderr
    assert daemon.find(home) is not None
    assert runner.invoke(app, ["reset"], input="reset\n").exit_code == 0
    assert not home.exists()
    home.mkdir()
    (home / "precious").touch()
    with pytest.raises(Refused, match="there is no lab"):
        daemon.reset(home)
    assert (home / "precious").exists()


def test_faults_reach_the_running_server(home: Path) -> None:
    lab = told("up", "--port", "0")
    told("fault", "inject", "status-595", "--path", "/access/domains", "--count", "1")
    assert [fault["name"] for fault in told("fault", "list")["faults"]] == ["status-595"]
    url = f"{lab['url']}/api2/json/access/domains"
    codes = [requests.get(url, verify=lab["ca_file"], timeout=30).status_code for _ in range(2)]
    assert codes == [595, 200]
    told("fault", "inject", "no-boot", "--vmid", "106", "--for", "60")
    assert told("fault", "clear")["cleared"] == 1
    assert told("fault", "list")["faults"] == []


def test_guest_outlives_the_server(home: Path) -> None:
    lab = told("up", "--port", "0")
    vm = {"vmid": "100", "memory": "64", "kvm": "0"}

    def ask(method: str, path: str, data: dict[str, str] | None = None) -> Any:
        headers = {"Authorization": f"PVEAPIToken=ops@pve!viops={(home / 'token').read_text().strip()}"}
        url = f"{lab['url']}/api2/json{path}"
        answer = requests.request(method, url, data=data, headers=headers, verify=lab["ca_file"], timeout=30)
        return answer.json()["data"]

    def running() -> bool:
        return told("status")["guests"] == [{"vmid": 100, "status": "running"}]

    assert ask("POST", "/nodes/pve1/qemu", vm)
    await_true(lambda: told("status")["guests"] == [{"vmid": 100, "status": "stopped"}])
    ask("POST", "/nodes/pve1/qemu/100/status/start")
    await_true(running)
    pid = ask("GET", "/nodes/pve1/qemu/100/status/current")["pid"]
    os.kill(lab["pid"], signal.SIGKILL)
    await_true(lambda: told("status")["pid"] is None)
    assert running()
    told("up")
    assert ask("GET", "/nodes/pve1/qemu/100/status/current")["pid"] == pid
    assert told("down", "--keep-guests")["stopped_guests"] == []
    assert running()
    assert daemon.down(home, grace_s=0.1) == {100: False}  # it sits in its firmware, deaf
    assert told("status")["guests"] == [{"vmid": 100, "status": "stopped"}]


def test_down_says_which_guests_were_switched_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(daemon, "down", lambda where, keep: {101: True, 106: False})
        assert told("down") == {"was_up": False, "stopped_guests": [101, 106], "switched_off": [106]}
        lines = runner.invoke(app, ["down"]).stdout.splitlines()
    assert lines == [
        "lab was down already",
        "guests shut down: 101",
        "guests switched off, as they had not shut down in 60 s: 106",
    ]


def await_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
