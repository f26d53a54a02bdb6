"""Every request that the client can make is one that Proxmox's published schema knows, in both releases.

The client runs against a small server that says yes to everything; what arrives there, after proxmoxer,
requests and the encoding, is what is checked: method, path, parameter names, types, limits and formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import Answer, FakePve, Seen, node_spec, serve_fake
from tests.support.plan_ground import CASES, load_yaml, plan_of
from vi_ops.execute import pve_lost
from vi_ops.execute.agent import Agent
from vi_ops.execute.look import look_at_node, look_at_vm, look_at_vms, look_beside
from vi_ops.execute.pve import Pve, connect
from vi_ops.facts.node import GuestSummary, NodeFacts
from vi_ops.facts.vm import VmFacts
from vi_ops.lab.route import Refusal
from vi_ops.lab.schema import Schema
from vi_ops.plan.step import PveCall
from vi_ops.units import GIB

SCHEMAS = Path(__file__).parents[3] / "shared" / "pve-api"
RELEASES = ("8.4", "9.2")
STATUS = {
    "cpuinfo": {"cpus": 8, "flags": "fpu"},
    "memory": {"total": 2**36, "used": 2**33},
    "pveversion": "pve-manager/9.2.4/0",
}
ANSWERS: dict[str, Any] = {
    "/version": {"release": "9.2", "version": "9.2.4"},
    "/access/permissions": {"/": {"VM.Audit": 1}},
    "/nodes/pve1/status": STATUS,
    "/nodes/pve1/storage": [{"storage": "local", "type": "dir", "active": 1, "content": "import,images"}],
    "/nodes/pve1/qemu": [{"vmid": 106, "status": "running", "name": "x", "maxmem": 2**30}],
    "/nodes/pve1/qemu/106/pending": [{"key": "memory", "value": "1024"}],
    "/nodes/pve1/qemu/106/status/current": {"status": "running", "qmpstatus": "running"},
    "/nodes/pve1/qemu/106/agent/exec": {"pid": 7},
    "/nodes/pve1/qemu/106/agent/exec-status": {"exited": 1, "exitcode": 0},
    "/nodes/pve1/qemu/106/agent/file-read": {"content": "x"},
    "/nodes/pve1/qemu/106/agent/network-get-interfaces": {"result": []},
}


class Yes(FakePve):
    """A node that says yes to everything."""

    def _handle(self, seen: Seen) -> Any:
        if seen.path in ANSWERS:
            return ANSWERS[seen.path]
        found = super()._handle(seen)
        if isinstance(found, Answer) and found.status == 501:
            return self.start_task("imgcopy", "") if seen.path.endswith("/upload") else None
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakePve]:
    if not SCHEMAS.exists():
        pytest.skip("../shared/pve-api with the published schema is not here")
    with serve_fake(tmp_path, Yes) as fake:
        yield fake


@pytest.fixture
def pve(node: FakePve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pve]:
    monkeypatch.setattr(pve_lost, "SETTLE_S", 0.2)
    with connect(node_spec(node, ca_file=str(node.home / "node.pem")), state_dir=node.home) as api:
        yield api


def complaints(seen: list[Seen]) -> list[str]:
    """What either schema says against the requests; nothing when all are right."""
    return [
        f"{release}: {one.method} {one.path} {params_of(one)}: {wrong}"
        for release in RELEASES
        for schema in [Schema.load(SCHEMAS / f"pve-{release}.json", release)]
        for one in seen
        if (wrong := against(schema, one))
    ]


def against(schema: Schema, seen: Seen) -> str | None:
    for name in sorted(schema.methods, key=lambda name: name.count("{")):
        verb, template = name.split(" ", 1)
        pattern = re.sub(r"\{([^}]+)\}", r"([^/]+)", template.replace("{volume}", "{volume}/?"))
        if verb != seen.method or not (match := re.fullmatch(pattern, seen.path)):
            continue
        variables = dict(zip(re.findall(r"\{([^}]+)\}", template), match.groups(), strict=True))
        if twice := variables.keys() & params_of(seen).keys():
            return f"parameters that are in the path already: {twice}"
        if schema.methods[name].get("allowtoken") is False and "authorization" in seen.headers:
            return "not for tokens"
        try:
            schema.check(verb, template, params_of(seen) | variables)
        except Refusal as refusal:
            return str(refusal.errors)
        return None
    return "no such method"


def params_of(seen: Seen) -> dict[str, Any]:
    kind = seen.headers.get("content-type", "")
    if not kind.startswith("multipart/"):
        return seen.params
    parts = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + seen.body).get_payload()
    named = {str(part.get_param("name", header="content-disposition")): part for part in parts}  # type: ignore[union-attr]
    return {
        name: str(part.get_filename() or part.get_payload())  # type: ignore[union-attr]
        for name, part in named.items()
    }


def test_looking_sends_what_the_schema_knows_and_no_more_than_seven_calls(node: FakePve, pve: Pve) -> None:
    facts = look_at_node(pve)
    look_at_vm(pve, 106, facts)
    assert len(node.seen) == 7
    look_at_vm(pve, 106)
    look_at_vms(pve, [106, 107], facts)
    pve.get("/version")
    assert not complaints(node.seen)
    assert {one.method for one in node.seen} == {"GET"}


def test_a_vm_that_runs_is_asked_once_more_for_what_its_guest_was_started_with(
    node: FakePve, pve: Pve, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = look_at_node(pve)
    path = "/nodes/pve1/qemu/106"
    drive = {"key": "ide2", "value": "local:106/vm-106-cloudinit.qcow2,media=cdrom"}
    monkeypatch.setitem(ANSWERS, f"{path}/pending", [drive])
    node.on("GET", f"{path}/cloudinit", [{"key": "ciuser", "value": "smith", "pending": "anna"}])
    found = look_at_vm(pve, 106, facts)
    assert found is not None
    assert found.started_with == {"ciuser": "smith"}
    assert len(node.seen) == 8
    assert not complaints(node.seen)
    look_at_vm(pve, 106)  # without the node's facts: before a destruction
    assert [one.path for one in node.seen[8:]] == [
        f"{path}/pending",
        f"{path}/status/current",
    ]


def test_each_further_vm_costs_one_call_and_an_absent_one_none(node: FakePve, pve: Pve) -> None:
    facts = look_at_node(pve)
    before = len(node.seen)
    guests = dict.fromkeys(range(100, 300), facts.guests[106])
    for vmid in guests:
        node.on("GET", f"/nodes/pve1/qemu/{vmid}/pending", [])
    many = NodeFacts("pve1", "9.2", "9.2.4", 1, 1, 1, guests=guests, permissions=facts.permissions)
    found = look_at_vms(pve, [*guests, 999], many)
    assert len(node.seen) - before == len(guests)
    assert found[999] is None


def test_memory_that_others_get_is_asked_of_those_that_run_and_were_not_looked_at(
    node: FakePve, pve: Pve
) -> None:
    guest = GuestSummary(101, "one", "running", GIB)
    guests = {101: guest, 102: replace(guest, vmid=102, status="stopped"), 103: replace(guest, vmid=103)}
    for vmid in (101, 104):
        rows = [{"key": "memory", "value": "1024", "pending": "2048"}]
        node.on("GET", f"/nodes/pve1/qemu/{vmid}/pending", rows)
    facts = NodeFacts("pve1", "9.2", "9.2.4", 1, 1, 1, guests={**guests, 104: replace(guest, vmid=104)})
    seen = VmFacts(103, "pve1", "running", config={"memory": "3072"})
    beside = look_beside(pve, facts, [101, 102, 103, 105], [seen, None])
    assert {vmid: one.memory_next_bytes / GIB for vmid, one in beside.guests.items()} == {
        101: 2,
        102: 0,
        103: 3,
        104: 0,  # nobody's business: not in the inventory
    }
    assert [one.path for one in node.calls("GET")] == ["/nodes/pve1/qemu/101/pending"]


def test_tasks_and_lost_answers(node: FakePve, pve: Pve) -> None:
    start = PveCall("POST", "/nodes/pve1/qemu/106/status/start")
    node.on("POST", start.path, lambda _: node.start_task("qmstart", "106"))
    node.fail("POST", start.path, Answer(drop="after"))
    assert pve.run(start, 5, tell=lambda _line: None).is_ok
    assert {one.path.rpartition("/")[2] for one in node.calls("GET")} == {
        "log",
        "status",
        "tasks",
        "version",
    }
    assert not complaints(node.seen)


def test_the_agents_commands(node: FakePve, pve: Pve) -> None:
    agent = Agent(pve, 106)
    assert agent.is_answering()
    agent.interfaces()
    agent.run(["/bin/sh", "-c", "a; b=c"], 5, stdin="größe".encode())
    agent.read_file("/etc/hostname")
    agent.write_file("/tmp/x", bytes(range(256)) * 180)
    for command in ("get-osinfo", "get-host-name", "get-fsinfo", "info"):
        agent.call(command)
    assert not complaints(node.seen)


def test_an_upload(node: FakePve, pve: Pve, tmp_path: Path) -> None:
    image = tmp_path / "debian-13.qcow2"
    image.write_bytes(b"QFI\xfb")
    assert pve.upload("pve1", "local", image, "import", "sha256:" + "0" * 64).is_ok
    assert pve.upload("pve1", "local", image, "import").is_ok
    assert not complaints(node.seen)


def test_a_ticket(node: FakePve, tmp_path: Path) -> None:
    spec = node_spec(node, user="root@pam", ca_file=str(node.home / "node.pem"))
    with connect(spec, state_dir=tmp_path) as api:
        api.get("/version")
    assert [one.path for one in node.seen] == ["/access/ticket", "/version"]
    assert not complaints(node.seen)


def planned_calls() -> dict[str, PveCall]:
    """Every call of every planning case, each once."""
    calls: dict[str, PveCall] = {}
    for file in sorted((CASES / "vm").glob("*.yml")):
        for case in load_yaml(file):
            for step in plan_of(case).steps:
                if isinstance(step.do, PveCall):
                    calls[f"{step.do.method} {step.do.path} {sorted(step.do.params.items())}"] = step.do
    return calls


def test_every_call_that_a_plan_can_hold(node: FakePve, pve: Pve) -> None:
    calls = planned_calls()
    assert len(calls) > 5
    for call in calls.values():
        pve.write(call)
    assert len(node.seen) == len(calls)
    assert not complaints(node.seen)


def test_a_wrong_request_would_be_noticed(node: FakePve, pve: Pve) -> None:
    path = "/nodes/pve1/qemu/106/config"
    pve.write(PveCall("PUT", path, {"memroy": 1}))
    pve.write(PveCall("PUT", path, {"onboot": "true"}))
    pve.write(PveCall("PUT", "/nodes/pve1/qemu/106/conf"))
    pve.write(PveCall("PUT", path, {"vmid": 106}))
    assert len(complaints(node.seen)) == 4 * len(RELEASES)
