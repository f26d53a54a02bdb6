"""Ask the lab what Proxmox's own API server was asked, and compare the answers.

`python -m tests.contract.replay --release 9.2 [--verbose]` prints what differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.contract.compare import differences
from tests.support.agent import AgentStandIn
from tests.support.lab import PUBLISHED, Answer, RunningLab, published_schema, running_lab
from vi_ops.lab import guest
from vi_ops.lab.seed import add_user, grant

EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
UNRECORDED = Path(__file__).with_name("unrecorded.toml")
TASK_DEADLINE_S = 90.0
SECRET, PASSWORD = "00000000-1111-4222-8333-444444444444", "limited-secret"
KEY = "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIJhRbjOxcLhiJTZrs9B7vIOh4pLV11jajr%2BnV2p4QjxH%20root%40vm"
VM106 = {
    "vmid": 106,
    "name": "video-intelligence",
    "machine": "q35",
    "bios": "ovmf",
    "efidisk0": "local:0,efitype=4m,pre-enrolled-keys=0",
    "scsi0": "local:0,import-from=local:import/debian-13.qcow2",
    "scsihw": "virtio-scsi-single",
    "ide2": "local:cloudinit",
    "ciuser": "smith",
    "sshkeys": KEY,
    "ipconfig0": "ip=192.168.1.106/24,gw=192.168.1.1",
    "net0": "virtio,bridge=vmbr0",
    "agent": 1,
    "serial0": "socket",
    "balloon": 0,
    "memory": 1536,
    "cores": 2,
    "cpu": "host",
}
PCI = {"class": "0x010000", "vendor": "0x1af4", "device": "0x1042", "iommugroup": -1}
PCI_NAMES = {"device_name": "Virtio 1.0 block device", "vendor_name": "Red Hat, Inc."}
SUBSYSTEM = {
    "subsystem_vendor": "0x1af4",
    "subsystem_device": "0x1042",
    "subsystem_vendor_name": "Red Hat, Inc.",
}


@dataclass(frozen=True)
class Outcome:
    """One record and how the lab's answer differs from it; an empty list is a match."""

    index: int
    record: dict[str, Any]
    differences: list[str]

    @property
    def asked(self) -> str:
        return "{as} {method} {path} | {note}".format_map(self.record)


def records(release: str) -> list[dict[str, Any]] | None:
    """The recorded requests in order; None where they are not at hand."""
    file = PUBLISHED / f"transcripts-{release}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else None


def exceptions(release: str) -> dict[int, str]:
    """Record number to the written-down reason why the lab answers otherwise."""
    entries = tomllib.loads(EXCEPTIONS.read_text()).get("exception", [])
    return {entry["index"]: entry["reason"] for entry in entries if entry["release"] == release}


def unrecorded(release: str, index: int) -> list[dict[str, Any]]:
    """What must have happened between the records before this one, and was left out of them."""
    steps = tomllib.loads(UNRECORDED.read_text())["step"]
    return [step for step in steps if release in step["releases"] and step["before"] == index]


@contextmanager
def recorded_node(home: Path, release: str) -> Iterator[RunningLab]:
    """A lab in the state that the recording server was in before the first record."""
    host = {"cpus": 2, "memory_bytes": 24 * 2**30}
    settings = {"host": host, "pci": [{"id": "0000:00:02.0", **PCI, **PCI_NAMES, **SUBSYSTEM}]}
    schema = published_schema(release)
    assert schema is not None
    with running_lab(home, release, schema, settings) as lab:
        _seed_users(lab)
        image = lab.node.volume("local:import/debian-13.qcow2").path
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "2400M"], check=True)
        for path, params in (("", VM106), ("/106/status/start", {})):
            _carry_out(lab, {"method": "POST", "path": f"/nodes/pve1/qemu{path}", "params": params})
        try:
            yield lab
        finally:
            _stop_guests(lab)


def replay(release: str, home: Path) -> Iterator[Outcome]:
    """Each record with what differs, in order."""
    found = records(release)
    assert found is not None
    stand_in = AgentStandIn(guest.agent, vmid=106)
    patch = mock.patch.object(guest, "agent", stand_in) if release == "8.4" else nullcontext()
    with patch, recorded_node(home, release) as lab:
        for index, record in enumerate(found):
            for step in unrecorded(release, index):
                _carry_out(lab, step)
            answer = lab.ask(record["method"], record["path"], record["params"], _headers(lab, record["as"]))
            task = _task(lab, record, answer)
            yield Outcome(index, record, differences(record, answer, task, lab.home))


def _carry_out(lab: RunningLab, step: dict[str, Any]) -> None:
    answer = lab.ask(step["method"], step["path"], step["params"], _headers(lab, "root"))
    assert answer.status == 200, (step, answer)
    assert lab.wait(answer.data) == "OK", lab.node.tasks.finished()[0]


def _task(lab: RunningLab, record: dict[str, Any], answer: Answer) -> dict[str, Any] | None:
    """What became of the task that the answer names, when the record knows too."""
    if answer.status != 200 or not str(answer.data).startswith("UPID:"):
        return None
    recorded = record.get("task", {"status": {"status": "stopped"}})
    # A task that still ran when it was recorded is followed only as far as its log went then.
    lines = _lines(recorded) if recorded["status"]["status"] == "running" else None
    deadline = time.monotonic() + TASK_DEADLINE_S
    while True:
        task = _task_now(lab, answer.data)
        is_far_enough = lines is not None and _lines(task) >= lines
        if task["status"]["status"] == "stopped" or is_far_enough or time.monotonic() > deadline:
            return task
        time.sleep(0.05)


def _lines(task: dict[str, Any]) -> int:
    return sum(line["t"] != "no content" for line in task["log"]["data"])


def _task_now(lab: RunningLab, upid: str) -> dict[str, Any]:
    base, root = f"/nodes/pve1/tasks/{upid}", _headers(lab, "root")
    status = lab.ask("GET", f"{base}/status", headers=root).data
    return {"status": status, "log": lab.ask("GET", f"{base}/log", {"limit": 0}, root).body}


def _seed_users(lab: RunningLab) -> None:
    acl = lab.node.acl
    own_roles = {"ViOps": ["VM.Allocate", "VM.Audit"]} if lab.node.major > 8 else {}
    acl.state.update(roles=own_roles, acl=[])
    add_user(acl, "root@pam", tokens={"viops": (SECRET, False)})
    add_user(acl, "ops@pve", tokens={"viops": (SECRET, False)})
    add_user(acl, "limited@pve", password=PASSWORD, tokens={"t1": (SECRET, True)})
    grants = {"/": "VMAdmin", "/storage": "DatastoreAdmin", "/sdn": "SDNUser", "/mapping": "MappingUser"}
    for path, role in grants.items():
        grant(acl, path, "ops@pve", f"PVE{role}")
    grant(acl, "/", "limited@pve", "PVEAuditor")
    acl.save()


def _headers(lab: RunningLab, who: str) -> dict[str, str]:
    tokens = {
        "root": f"root@pam!viops={SECRET}",
        "ops": f"ops@pve!viops={SECRET}",
        "limited-token": f"limited@pve!t1={SECRET}",
        "badtoken": f"root@pam!viops={SECRET[::-1]}",
        "nosuchtoken": f"root@pam!nosuch={SECRET}",
    }
    if who in tokens:
        return {"Authorization": f"PVEAPIToken={tokens[who]}"}
    if who == "none":
        return {}
    login = {"username": "limited@pve", "password": PASSWORD}
    ticket = lab.ask("POST", "/access/ticket", login, {}).data
    cookie = {"Cookie": f"PVEAuthCookie={ticket['ticket'].replace('+', '%2B').replace('=', '%3D')}"}
    return cookie if who == "nocsrf" else {**cookie, "CSRFPreventionToken": ticket["CSRFPreventionToken"]}


def _stop_guests(lab: RunningLab) -> None:
    async def stop() -> None:
        for vmid in lab.node.vmids():
            await guest.stop(lab.node, vmid, 5)

    asyncio.run_coroutine_threadsafe(stop(), lab.loop).result(60)


def main() -> None:
    """Print every record that differs and is no written-down exception, then the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", default="9.2", choices=("8.4", "9.2"))
    parser.add_argument("--verbose", action="store_true", help="also the matches")
    options = parser.parse_args()
    known = exceptions(options.release)
    matches = 0
    with tempfile.TemporaryDirectory() as folder:
        for outcome in replay(options.release, Path(folder)):
            matches += not outcome.differences
            if outcome.differences or options.verbose:
                print(f"#{outcome.index} {outcome.asked}{' (known)' if outcome.index in known else ''}")
                print("".join(f"    {line}\n" for line in outcome.differences), end="", flush=True)
    total = len(records(options.release) or [])
    print(f"release {options.release}: {total} records, {matches} matches, {len(known)} exceptions")


if __name__ == "__main__":
    main()
