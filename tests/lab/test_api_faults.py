"""Each fault does what its line in `vi-ops lab fault list` says, so long as it holds and no longer."""

from __future__ import annotations

import asyncio
import http.client
import time
import urllib.parse
from pathlib import Path

import pytest

from tests.support.lab import RunningLab, running_lab
from vi_ops.errors import Refused
from vi_ops.lab.fault import Fault, Faults
from vi_ops.lab.node import Node
from vi_ops.lab.route import ROUTES, Request

CARD = {"id": "card", "map": "node=pve1,path=0000:01:00.0,id=10de:1b06"}


@pytest.mark.parametrize(
    ("fault", "asked", "holds"),
    [
        (Fault("lock-held"), {"vmid": 106}, True),
        (Fault("lock-held", vmid=106), {"vmid": "106"}, True),
        (Fault("lock-held", vmid=106), {"vmid": 107}, False),
        (Fault("lock-held", vmid=106), {}, False),
        (Fault("lock-held", path="/nodes/*/qemu*"), {"path": "/nodes/pve1/qemu/1/config"}, True),
        (Fault("lock-held", path="/nodes/*/qemu"), {"path": "/version"}, False),
        (Fault("lock-held", until=99.0), {}, False),
        (Fault("lock-held", until=101.0), {}, True),
        (Fault("no-boot"), {}, False),
    ],
)
def test_fault_holds_within_its_bounds(
    tmp_path: Path, fault: Fault, asked: dict[str, object], holds: bool
) -> None:
    faults = Faults(tmp_path / "faults.json", lambda: 100.0)
    faults.inject(fault)
    assert faults.is_on("lock-held", **asked) is holds  # type: ignore[arg-type]
    assert (faults.take("lock-held", **asked) is not None) is holds  # type: ignore[arg-type]


def test_count_is_used_up_by_taking_not_by_asking(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults.json")
    faults.inject(Fault("no-boot", count=2))
    assert [faults.is_on("no-boot") for _ in range(3)] == [True] * 3
    assert [faults.take("no-boot") is not None for _ in range(3)] == [True, True, False]
    assert faults.all() == []


def test_clear_takes_back_one_name_or_all(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults.json")
    for name in ("no-boot", "lock-held", "lock-held"):
        faults.inject(Fault(name))
    assert faults.clear("lock-held") == 2
    assert [fault.name for fault in faults.all()] == ["no-boot"]
    assert faults.clear() == 1


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nonsense"):
        Faults(tmp_path / "faults.json").inject(Fault("nonsense"))


@pytest.mark.parametrize(
    ("name", "status", "reason", "is_carried_out"),
    [
        ("status-500", 500, "injected by vi-ops lab fault", False),
        ("status-595", 595, "Connection refused", False),
        ("status-596", 596, "Connection timed out", True),
    ],
)
def test_request_fails_once(
    fresh_lab: RunningLab, name: str, status: int, reason: str, is_carried_out: bool
) -> None:
    fresh_lab.node.faults.inject(Fault(name, path="/cluster/mapping/*", method="POST", count=1))
    answer = fresh_lab.ask("POST", "/cluster/mapping/pci", CARD)
    assert (answer.status, answer.reason) == (status, reason)
    assert (fresh_lab.node.mappings.get("pci", "card") is not None) is is_carried_out
    assert fresh_lab.ask("GET", "/cluster/mapping/pci").status == 200


def test_connection_drops_after_the_write(fresh_lab: RunningLab) -> None:
    fresh_lab.node.faults.inject(Fault("drop-after-write", count=1))
    assert fresh_lab.ask("GET", "/version").status == 200  # a read is no write
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        fresh_lab.ask("POST", "/cluster/mapping/pci", CARD)
    assert fresh_lab.node.mappings.get("pci", "card")
    assert fresh_lab.writes()[-1]["path"] == "/cluster/mapping/pci"
    assert fresh_lab.ask("POST", "/cluster/mapping/pci", {**CARD, "id": "other"}).status == 200


def test_ticket_expires_once(fresh_lab: RunningLab) -> None:
    login = {"username": "root@pam", "password": fresh_lab.root_password}
    ticket = fresh_lab.ask("POST", "/access/ticket", login, {}).data["ticket"]
    cookie = {"Cookie": f"PVEAuthCookie={urllib.parse.quote(ticket, safe='')}"}
    fresh_lab.node.faults.inject(Fault("expired-ticket", count=1))
    assert fresh_lab.ask("GET", "/version").status == 200  # tokens do not expire
    assert [fresh_lab.ask("GET", "/version", headers=cookie).status for _ in range(2)] == [401, 200]


def test_full_storage_shows_and_refuses(fresh_lab: RunningLab) -> None:
    fresh_lab.node.faults.inject(Fault("full-storage", path="local"))
    assert fresh_lab.ask("GET", "/nodes/pve1/storage/local/status").data["avail"] == 0
    change = {"content": "import", "filename": "x.qcow2", "url": "http://127.0.0.1:9/x"}
    upid = fresh_lab.ask("POST", "/nodes/pve1/storage/local/download-url", change).data
    assert "No space left on device" in fresh_lab.wait(upid)


def test_slow_call_is_answered_596_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ROUTES["POST", "/cluster/mapping/pci"]

    async def slow(request: Request, node: Node) -> None:
        await asyncio.sleep(0.5)
        await quick(request, node)

    monkeypatch.setitem(ROUTES, ("POST", "/cluster/mapping/pci"), slow)
    with running_lab(tmp_path, settings={"protected_timeout_s": 0.1}) as lab:
        answer = lab.ask("POST", "/cluster/mapping/pci", CARD)
        assert (answer.status, answer.reason, answer.body) == (596, "Connection timed out", "")
        assert lab.node.mappings.get("pci", "card") is None
        deadline = time.monotonic() + 10
        while lab.node.mappings.get("pci", "card") is None:
            assert time.monotonic() < deadline, "the work was given up with the connection"
            time.sleep(0.05)
