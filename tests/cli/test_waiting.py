"""Cloud-init's values changed on a running VM: told until its next start, and no reason to call it broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_agent import FakeAgent
from tests.support.fake_node import CLOUD_INIT_DONE
from tests.support.scene import Scene, scene, vi_ops
from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab.fault import Fault

pytestmark = pytest.mark.slow

OLD, NEW = "192.168.1.106/24", "192.168.1.55/24"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAbSbe0DQ3Bt0dEHIBgeALQPbmT8nW9p7lxrtHnJmcXo"
HOW = "`qm reboot 106` on pve1"


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """vm106 runs for a minute; its guest has the address, and its NIC the MAC, that it was started with."""
    with scene(tmp_path, getattr(request, "param", "9.2")) as one:
        one.lab.guests.agents[106] = _guest_of(one).answers()
        ran = vi_ops("provision", "vm106")
        assert ran.code == 0, ran.err
        one.lab.guests.began[106] -= 60
        yield one


class _Guest(FakeAgent):
    """A guest that reads its drive when it starts, and not before."""

    here: Scene

    def _interfaces(self) -> list[dict[str, Any]]:
        stored = self.here.lab.config(106)
        drive = stored.values | stored.cloudinit  # the file has what the drive was made with
        self.address = parse_property_string(drive["ipconfig0"])["ip"]
        (nic,) = super()._interfaces()
        return [nic if drive["net0"] == stored.values["net0"] else nic | {"ip-addresses": []}]


def _guest_of(one: Scene) -> _Guest:
    key = f"{one.ssh.host_key.type} {one.ssh.host_key.blob}"
    files = {"/run/cloud-init/status.json": CLOUD_INIT_DONE, "/etc/ssh/ssh_host_ed25519_key.pub": key}
    agent = _Guest(lambda: one.lab.config(106).values["net0"], files=files)
    agent.here = one
    return agent


def power_cycle(here: Scene) -> None:
    """What a reboot through the API is; that one's second half is a task of its own."""
    assert here.lab.power(106, "shutdown")[0] == here.lab.power(106, "start")[0] == "OK"


def waiting() -> list[str]:
    """The sentences of `plan vm106`."""
    ran = vi_ops("plan", "vm106", "--json")
    assert ran.code == 0, ran.err
    rows = _objects(ran.out)
    return [row["text"] for row in rows if row["kind"] == "waiting"]


def _objects(text: str) -> list[dict[str, Any]]:
    decoder, rows = json.JSONDecoder(), []
    while text := text.strip():
        row, end = decoder.raw_decode(text)
        rows.append(row)
        text = text[end:]
    return rows


@pytest.mark.parametrize("here", ["8.4", "9.2"], indirect=True)
def test_an_address_reaches_the_guest_at_its_next_start_and_is_told_until_then(here: Scene) -> None:
    here.edit("vm106", OLD, NEW)
    ran = vi_ops("provision", "vm106")
    assert ran.code == 0, ran.err
    assert "vm106: not ready before its next start (1 change," in ran.out
    assert f"has {OLD}, and gets {NEW} at its next start" in ran.out
    assert "waits for a power cycle: ipconfig0: the guest reads it at the next start" in ran.out
    assert HOW in ran.out
    for step in ("net0 has its address", "SSH answers", "nobody holds the package locks"):
        assert f"-- vm106: Wait until {step}" in ran.err
    assert "-- vm106: Ensure the base packages" in ran.err
    assert "ok vm106: Wait until cloud-init has finished" in ran.err

    (sentence,) = waiting()
    assert f"ipconfig0 (ip={OLD},gw=192.168.1.1 until then)" in sentence
    assert HOW in sentence
    writes = here.writes()
    again = vi_ops("provision", "vm106")
    assert (again.code, here.writes()) == (0, writes)
    assert "vm106: not ready before its next start (nothing to do" in again.out

    power_cycle(here)
    assert waiting() == []
    ready = vi_ops("provision", "vm106", "--json")
    assert ready.code == 0, ready.err
    (done,) = _objects(ready.out)
    assert done["cut_off"] is None
    assert done["stages"]["address"].endswith(f"has {NEW}")
    assert vi_ops("plan", "vm106", "--detect").code == 0


def test_what_was_not_looked_at_is_left_to_do(here: Scene) -> None:
    here.edit("vm106", OLD, NEW)
    assert vi_ops("provision", "vm106").code == 0
    assert vi_ops("plan", "vm106", "--detect").code == 8
    power_cycle(here)
    assert vi_ops("plan", "vm106", "--detect").code == 8
    assert vi_ops("provision", "vm106").code == 0
    assert vi_ops("plan", "vm106", "--detect").code == 0


@pytest.mark.parametrize("here", ["8.4", "9.2"], indirect=True)
def test_a_user_whom_the_guest_does_not_know_yet(here: Scene) -> None:
    here.edit("vm106", "{name: smith", "{name: anna")
    ran = vi_ops("provision", "vm106", "--json")
    assert ran.code == 0, ran.err
    (done,) = _objects(ran.out)
    assert "the guest gets its ciuser at its next start" in done["cut_off"]
    assert done["stages"]["address"].endswith(f"has {OLD}")
    for stage in ("ssh", "apt", "base"):
        assert done["stages"][stage].startswith("skipped: ")
    (sentence,) = waiting()
    assert sentence.startswith("ciuser (smith until then): the guest reads it at the next start")
    power_cycle(here)
    assert waiting() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gateway: 192.168.1.1", "gateway: 192.168.1.254"),
        ("gateway: 192.168.1.1", "gateway: 192.168.1.1, nameservers: [9.9.9.9]"),
        (
            "ssh_keys: auto",
            f"ssh_keys: ['{KEY}']",
        ),
    ],
)
def test_what_does_not_cut_the_guest_off_is_looked_at_to_the_end(here: Scene, old: str, new: str) -> None:
    here.edit("vm106", old, new)
    ran = vi_ops("provision", "vm106")
    assert ran.code == 0, ran.err
    assert "vm106: ready (1 change," in ran.out
    assert HOW in ran.out
    assert len(waiting()) == 1
    assert vi_ops("plan", "vm106", "--detect").code == 0


def test_a_nic_with_another_mac_has_no_address_before_the_next_start(here: Scene) -> None:
    here.edit("vm106", "network: {", "network: {mac: 'BC:24:11:00:01:99', ")
    ran = vi_ops("provision", "vm106")
    assert ran.code == 0, ran.err
    assert f"has no address, and gets {OLD} at its next start" in ran.out
    (sentence,) = waiting()
    assert sentence.startswith("net0 (virtio=")
    power_cycle(here)
    assert waiting() == []
    assert "vm106: ready" in vi_ops("provision", "vm106").out


def test_what_somebody_else_changed_is_told_too(here: Scene) -> None:
    here.edit("vm106", "{name: smith", "{name: anna")
    assert here.lab.put(106, ciuser="anna").status == 200
    (sentence,) = waiting()
    assert sentence.startswith("ciuser (smith until then)")


def test_back_to_what_the_guest_was_started_with_and_nothing_waits(here: Scene) -> None:
    here.edit("vm106", OLD, NEW)
    assert vi_ops("provision", "vm106").code == 0
    here.edit("vm106", NEW, OLD)
    back = vi_ops("provision", "vm106")
    assert back.code == 0, back.err
    assert "vm106: ready (1 change and the base playbook," in back.out
    assert "waits" not in back.out
    assert waiting() == []


def test_a_change_that_the_node_did_not_make_waits_for_nothing(here: Scene) -> None:
    here.edit("vm106", OLD, NEW)
    here.lab.lab.node.faults.inject(Fault("status-500", method="POST", path="*/config", count=1))
    assert vi_ops("provision", "vm106").code == 1
    here.edit("vm106", NEW, OLD)
    assert waiting() == []


def test_a_plan_of_a_running_vm_takes_eight_calls_and_of_a_stopped_one_seven(here: Scene) -> None:
    before = len(here.lab.lab.requests())
    assert waiting() == []
    assert len(here.lab.lab.requests()) - before == 8
    assert here.lab.power(106, "stop")[0] == "OK"
    before = len(here.lab.lab.requests())
    assert waiting() == []
    assert len(here.lab.lab.requests()) - before == 7
