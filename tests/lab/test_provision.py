"""From nothing to a ready guest and back, through the real command line, on one boot of a real guest.

The tests of this file tell one story in order: each goes on where the one before it stopped.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import IMAGE, Site, lab_site
from vi_ops.execute.image import image_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

if not image_path(IMAGE).exists():
    pytest.skip(f"no image: vi-ops image build {IMAGE}", allow_module_level=True)

CREATE, RESIZE, START = "Ensure VM 106 (", "Ensure scsi0", "Ensure VM 106 runs"
READY = ["agent", "cloud-init", "SSH"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with lab_site(tmp_path_factory.mktemp("site")) as running:
        yield running


def titles(text: str) -> list[str]:
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [event["title"] for event in events if event.get("kind") == "start"]


def test_a_plan_for_a_vm_that_is_not_there(site: Site) -> None:
    ran = site.run("plan", "vm106", "--detect")
    assert ran.code == 8, ran.err
    assert "has no VM 106" in ran.out
    assert site.writes() == []


def test_a_full_storage_is_refused_before_anything_is_written(site: Site) -> None:
    before = len(site.requests())
    site.inject("full-storage", path="local")
    ran = site.run("provision", "vm106")
    site.faults.clear()
    assert ran.code == 6, ran.err
    assert "storage-full" in ran.err
    assert site.writes(before) == []


def test_a_node_that_refuses_leaves_nothing_behind(site: Site) -> None:
    site.inject("status-500", method="POST", path="*/qemu", count=1)
    ran = site.run("provision", "vm106")
    assert ran.code == 1, ran.err
    assert "in step 1 of 12 of vm106: Ensure VM 106" in ran.err
    assert "done before: nothing" in ran.err
    assert site.run("plan", "vm106", "--detect").code == 8
    assert not list((site.lab / "storage" / "local" / "images").glob("106/*"))


def test_killed_while_the_node_creates_it_the_next_run_waits_for_that_task(site: Site) -> None:
    site.inject("slow-task", vmid=106, count=1, seconds=12)
    killed = site.end_at(CREATE, "provision", "vm106", after_s=3)
    assert killed.code == -signal.SIGKILL
    assert [path for _, path in site.writes()].count("/nodes/pve1/qemu") == 2  # the first one was refused
    resumed = site.end_at(RESIZE, "provision", "vm106")
    notes = [event["text"] for event in resumed.events if event.get("kind") == "note"]
    resumed_in = 'resuming: "Ensure VM 106 ('
    assert any(note.startswith(resumed_in) for note in notes), resumed.err
    assert [path for _, path in site.writes()].count("/nodes/pve1/qemu") == 2


def test_killed_while_it_starts(site: Site) -> None:
    site.inject("slow-task", vmid=106, count=2, seconds=8)
    assert site.end_at(START, "provision", "vm106", after_s=4).code == -signal.SIGKILL


@pytest.mark.parametrize("stage", READY)
def test_killed_while_it_waits(site: Site, stage: str) -> None:
    ran = site.end_at(stage, "provision", "vm106", after_s=1)
    assert ran.code == -signal.SIGKILL, ran.err


def test_interrupted_in_the_playbook_it_says_how_to_go_on(site: Site) -> None:
    ran = site.end_at("base packages", "provision", "vm106", number=signal.SIGINT, after_s=1)
    assert ran.code == 130, ran.err
    step = "Ensure the base packages and settings"
    assert f'vm106: interrupted in "{step}"; the same command again resumes' in ran.err


def test_the_last_run_finishes_what_all_the_others_began(site: Site) -> None:
    ran = site.run("provision", "vm106")
    assert ran.code == 0, ran.err
    assert "vm106: ready" in ran.out
    begun = [path for _, path in site.writes()]
    assert begun.count("/nodes/pve1/qemu/106/status/start") == 1
    disks = {file.name for file in (site.lab / "storage" / "local" / "images" / "106").iterdir()}
    assert len(disks) == 3, disks


def test_the_next_run_writes_nothing(site: Site) -> None:
    before = len(site.requests())
    ran = site.run("provision", "vm106", "--json")
    assert ran.code == 0, ran.err
    (result,) = [json.loads(line) for line in ran.out.splitlines()]
    assert result["writes"] == 0
    assert result["stages"]["cloud-init"].startswith("finished")
    assert site.writes(before) == []
    assert len(site.requests()) - before <= 14
    assert site.run("plan", "vm106", "--detect").code == 0


def test_a_second_run_at_the_same_time_is_refused_or_waits(site: Site) -> None:
    with site.begin("provision", "vm106", "--json") as first:
        assert first.stderr
        first.stderr.readline()
        second = site.run("provision", "vm106")
        assert second.code == 7, second.err
        assert f"pid {first.pid}" in second.err
        assert "vi-ops provision vm106" in second.err
        assert site.run("status", "vm106", "--json").out.count(f'"pid": {first.pid}') == 1
        third = site.run("provision", "vm106", "--wait", "300")
        assert third.code == 0, third.err
        first.communicate(timeout=300)
        assert first.returncode == 0


def test_ssh_runs_a_command_with_each_word_as_given(site: Site) -> None:
    ran = site.run("ssh", "vm106", "--", "printf", "<%s>", "a b", "$HOME", "it's")
    assert ran.code == 0, ran.err
    assert ran.out == "<a b><$HOME><it's>"
    assert site.run("ssh", "vm106", "--", "sudo", "-n", "id", "-u").out.strip() == "0"


def test_a_changed_pin_is_refused_by_ssh_and_put_right_by_provision(site: Site) -> None:
    (known_hosts,) = (site.root / "state").glob("*/known_hosts")
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIHVvJ5Yk0Yk2GYbVxF3uJx0cLwq0p3k0V6JmQv8rXn4a"
    kept = known_hosts.read_text()
    known_hosts.write_text(f"{kept.split()[0]} ssh-ed25519 {other}\n")
    assert site.run("ssh", "vm106", "--", "true").code == 255
    ran = site.run("provision", "vm106")
    assert ran.code == 0, ran.err
    assert "in place of the one pinned before" in ran.err
    assert known_hosts.read_text() == kept


def test_a_changed_spec_converges_in_place(site: Site) -> None:
    site.edit("vm106", lambda text: text.replace("memory: 1 GiB", "memory: 1536 MiB\n  tags: [video]"))
    before = len(site.requests())
    ran = site.run("provision", "vm106")
    assert ran.code == 0, ran.err
    assert "waits for a power cycle" in ran.out
    assert site.writes(before) == [("POST", "/nodes/pve1/qemu/106/config")]
    plan = site.run("plan", "vm106", "--detect")
    assert plan.code == 0, plan.out
    assert "1.5 GiB" in plan.out


def test_a_lost_answer_is_looked_up_and_not_sent_again(site: Site) -> None:
    site.edit("vm106", lambda text: text + "  description: after a drop\n")
    before = len(site.requests())
    site.inject("drop-after-write", path="*/106/config", count=1)
    ran = site.run("provision", "vm106")
    assert ran.code == 0, ran.err
    assert len(site.writes(before)) == 1


def test_a_short_outage_is_sat_out(site: Site) -> None:
    site.inject("status-595", count=2)
    assert site.run("plan", "vm106", "--detect").code == 0


def test_a_vm_that_the_node_works_on_is_left_alone(site: Site) -> None:
    site.edit("vm106", lambda text: text.replace("after a drop", "while locked"))
    site.inject("lock-held", vmid=106)
    ran = site.run("provision", "vm106")
    site.faults.clear()
    assert ran.code in {6, 7}, ran.err
    assert "lock" in ran.err
    assert site.run("provision", "vm106").code == 0


def test_an_unknown_vm_is_a_spec_error_with_the_nearest_name(site: Site) -> None:
    ran = site.run("provision", "vm16")
    assert ran.code == 4
    assert "vm106" in ran.err


def test_destroy_wants_the_name(site: Site) -> None:
    before = len(site.requests())
    assert site.run("destroy", "vm106").code == 6
    assert site.run("destroy", "vm106", "--yes-destroy", "vm101").code == 6
    assert site.writes(before) == []


def test_destroy_refuses_what_is_protected(site: Site) -> None:
    site.edit("vm106", lambda text: text + "  protection: true\n")
    before = len(site.requests())
    ran = site.run("destroy", "vm106", "--yes-destroy", "vm106")
    assert ran.code == 6, ran.err
    assert "vm-protected" in ran.err
    assert site.writes(before) == []
    site.edit("vm106", lambda text: text.replace("protection: true", "protection: false"))


def test_destroyed_it_is_gone_with_its_pin(site: Site) -> None:
    ran = site.run("destroy", "vm106", "--yes-destroy", "vm106")
    assert ran.code == 0, ran.err
    assert "scsi0: local:106/vm-106-disk-1.qcow2, 4 GiB" in ran.err
    (known_hosts,) = (site.root / "state").glob("*/known_hosts")
    assert known_hosts.read_text() == ""
    assert not list((site.lab / "storage" / "local" / "images").glob("106/*"))
    again = site.run("destroy", "vm106", "--yes-destroy", "vm106")
    assert again.code == 0, again.err
    assert "does not exist" in again.out


def test_no_secret_is_in_the_journal(site: Site) -> None:
    token = (site.lab / "token").read_text().strip()
    for file in Path(site.root / "state").rglob("*"):
        if file.is_file():
            assert token.encode() not in file.read_bytes(), file
