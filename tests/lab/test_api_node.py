"""The node itself, the cluster of one, and mappings of its devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import RunningLab, running_lab
from vi_ops.lab.mapping import faults_of, parse_map

GIB = 2**30
CARD = {
    "id": "0000:01:00.0",
    "class": "0x030000",
    "vendor": "0x10de",
    "device": "0x1b06",
    "iommugroup": 1,
    "vendor_name": "NVIDIA Corporation",
}
BRIDGE = {"id": "0000:00:01.0", "class": "0x060400", "vendor": "0x8086", "device": "0x1901", "iommugroup": 1}
DISK = {"busnum": 2, "devnum": 3, "usbpath": "1.4", "level": 1, "port": 1, "vendid": "174c", "prodid": "55aa"}
HOST = {"cpus": 80, "sockets": 2, "memory_bytes": 128 * GIB}


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A node with two sockets, 128 GiB, a graphics card and a USB disk."""
    settings = {
        "host": HOST,
        "pci": [CARD, BRIDGE],
        "usb": [DISK],
        "bridges": {"vmbr0": {"cidr": "10.1.2.1/24"}},
    }
    with running_lab(tmp_path_factory.mktemp("lab"), settings=settings) as running:
        yield running


def test_node_reports_its_configured_host(big: RunningLab) -> None:
    status = big.ask("GET", "/nodes/pve1/status").data
    assert (status["cpuinfo"]["cpus"], status["cpuinfo"]["cores"], status["cpuinfo"]["sockets"]) == (
        80,
        40,
        2,
    )
    assert status["memory"]["total"] == 128 * GIB
    assert status["memory"]["available"] == 128 * GIB - status["memory"]["used"]
    assert status["cpuinfo"]["hvm"] == "1"
    assert all(isinstance(load, str) for load in status["loadavg"])


@pytest.mark.parametrize(("release", "is_there"), [("8.4", False), ("9.2", True)])
def test_available_memory_came_with_release_9(tmp_path: Path, release: str, is_there: bool) -> None:
    with running_lab(tmp_path, release) as lab:
        assert ("available" in lab.ask("GET", "/nodes/pve1/status").data["memory"]) is is_there
        assert lab.ask("GET", "/version").data["release"] == release


def test_bridges_and_bridge_classes(big: RunningLab) -> None:
    assert [b["cidr"] for b in big.ask("GET", "/nodes/pve1/network", {"type": "any_bridge"}).data] == [
        "10.1.2.1/24"
    ]
    assert big.ask("GET", "/nodes/pve1/network", {"type": "bond"}).data == []
    assert [d["id"] for d in big.ask("GET", "/nodes/pve1/hardware/pci").data] == ["0000:01:00.0"]
    everything = big.ask("GET", "/nodes/pve1/hardware/pci", {"pci-class-blacklist": ""}).data
    assert [d["id"] for d in everything] == ["0000:01:00.0", "0000:00:01.0"]


def test_usb_scan_wants_more_than_the_least_role(big: RunningLab) -> None:
    answer = big.ask("GET", "/nodes/pve1/hardware/usb")
    assert (answer.status, answer.reason) == (403, "Permission check failed (/, Sys.Modify)")


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("pci", "path=0000:01:00,id=10de:1b06,iommugroup=1", None),
        ("pci", "path=0000:01:00.0,id=10de:1b06", None),
        ("pci", "path=0000:02:00,id=10de:1b06", "pci device '0000:02:00.0' not found\n"),
        (
            "pci",
            "path=0000:01:00,id=10de:1b80",
            "'id' does not match for '0000:01:00' (10de:1b06 != 10de:1b80)\n",
        ),
        (
            "pci",
            "path=0000:01:00,id=10de:1b06,iommugroup=7",
            "'iommugroup' does not match for '0000:01:00' (1 != 7)\n",
        ),
        ("usb", "id=174c:55aa", None),
        ("usb", "id=174c:55aa,path=2-1.4", None),
        ("usb", "id=1234:5678", "usb device '1234:5678' not found\n"),
        ("usb", "id=174c:55aa,path=2-1.5", "usb device '2-1.5' not found\n"),
    ],
)
def test_mapped_device_is_looked_for(kind: str, text: str, fault: str | None) -> None:
    assert faults_of(kind, parse_map(f"node=pve1,{text}"), {"pci": [CARD], "usb": [DISK]}) == fault


def test_mapping_lives_and_is_guarded_by_its_digest(fresh_lab: RunningLab) -> None:
    base, device = "/cluster/mapping/pci", "node=pve1,path=0000:01:00,id=10de:1b06"
    assert fresh_lab.ask("POST", base, {"id": "card", "map": device, "description": "x"}).status == 200
    found = fresh_lab.ask("GET", f"{base}/card").data
    assert (found["map"], found["type"], found["description"]) == ([device], "pci", "x")
    stale = fresh_lab.ask("PUT", f"{base}/card", {"digest": "0" * 40, "delete": "description"})
    assert stale.reason.startswith("detected modified configuration")
    assert (
        fresh_lab.ask("PUT", f"{base}/card", {"digest": found["digest"], "delete": "description"}).status
        == 200
    )
    assert "description" not in fresh_lab.ask("GET", f"{base}/card").data
    checked = fresh_lab.ask("GET", base, {"check-node": "pve1"}).data[0]["checks"]
    assert checked == [
        {"severity": "error", "message": "Invalid configuration: pci device '0000:01:00.0' not found\n"}
    ]
    assert fresh_lab.ask("DELETE", f"{base}/card").status == 200
    assert fresh_lab.ask("GET", base).data == []


def test_mapping_is_shown_to_those_who_may_use_it(fresh_lab: RunningLab) -> None:
    fresh_lab.ask("POST", "/cluster/mapping/usb", {"id": "disk", "map": "node=pve1,id=174c:55aa"})
    fresh_lab.node.acl.state["acl"] = [e for e in fresh_lab.node.acl.state["acl"] if e["path"] != "/mapping"]
    assert fresh_lab.ask("GET", "/cluster/mapping/usb").data == []
    assert fresh_lab.ask("GET", "/cluster/mapping/usb/disk").status == 403


def test_next_vmid_skips_what_is_taken(fresh_lab: RunningLab) -> None:
    for vmid in (100, 101, 103):
        (fresh_lab.node.config_dir / f"{vmid}.conf").write_text("memory: 512\n")
    assert fresh_lab.ask("GET", "/cluster/nextid").data == "102"
    taken = fresh_lab.ask("GET", "/cluster/nextid", {"vmid": 103})
    assert taken.body["errors"] == {"vmid": "VM 103 already exists"}


@pytest.mark.parametrize(
    ("kind", "ids"), [("node", ["node/pve1"]), ("storage", ["storage/pve1/local"]), ("vm", [])]
)
def test_resources_by_kind(lab: RunningLab, kind: str, ids: list[str]) -> None:
    found: list[dict[str, Any]] = lab.ask("GET", "/cluster/resources", {"type": kind}).data
    assert [entry["id"] for entry in found] == ids


def test_two_hundred_vms_are_listed_quickly(fresh_lab: RunningLab) -> None:
    for vmid in range(100, 300):
        disk = f"scsi0: local:{vmid}/vm-{vmid}-disk-0.qcow2,size=8G"
        lines = (f"name: vm{vmid}", disk, "boot: order=scsi0", "")
        (fresh_lab.node.config_dir / f"{vmid}.conf").write_text("\n".join(lines))
    found = fresh_lab.ask("GET", "/cluster/resources", {"type": "vm"}).data
    assert len(found) == 200
    assert {entry["maxdisk"] for entry in found} == {8 * GIB}
