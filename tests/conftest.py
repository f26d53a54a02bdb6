"""A suite that cannot hurt: its own state folders, traffic to loopback only, and no skip without a reason."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest

ALLOWED_SKIPS = Path(__file__).with_name("allowed-skips.txt")
_skipped: list[tuple[str, str]] = []


class YouReachedARealHost(AssertionError):
    """A test tried to speak with something that is not this machine."""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VI_OPS_INVENTORY", "VI_OPS_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VI_OPS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("VI_OPS_LAB_DIR", str(tmp_path / "lab"))


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = str(address[0]).partition("%")[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise YouReachedARealHost(f"connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip is a failure, unless its reason is written down."""
    if os.environ.get("CI") != "true" or exitstatus != pytest.ExitCode.OK:
        return
    lines = ALLOWED_SKIPS.read_text("utf-8").splitlines()
    allowed = [line for line in lines if line and not line.startswith("#")]
    unexpected = [(test, why) for test, why in _skipped if not any(text in why for text in allowed)]
    if unexpected:
        for test, why in unexpected:
            print(f"skipped without permission: {test}: {why}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
