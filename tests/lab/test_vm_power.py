"""Power, status and the guest agent through the API."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vm_lab import VmLab, vm_lab
from vi_ops.lab.api.qemu_start import start_timeout_s
from vi_ops.lab.guest_error import AgentRefused

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["8.4", "9.2"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmLab]:
    with vm_lab(tmp_path_factory.mktemp("lab"), request.param) as running:
        yield running


@pytest.mark.parametrize(
    ("values", "timeout_s"),
    [
        ({"memory": "2048", "net0": "virtio"}, 35),
        ({"memory": "16384", "hostpci0": "mapping=gpu", "net0": "virtio"}, 125),
        ({"memory": "32768", "hostpci0": "mapping=gpu", "net0": "virtio"}, 133),
        ({"memory": "65536", "hostpci0": "mapping=gpu", "net0": "virtio"}, 261),
        ({"memory": "2048", "hugepages": "2"}, 150),
        ({}, 30),
    ],
)
def test_the_start_timeout_follows_the_nodes_arithmetic(values: dict[str, str], timeout_s: int) -> None:
    assert start_timeout_s(values) == timeout_s


def test_a_vm_starts_once(lab: VmLab) -> None:
    vmid = lab.create(name="guest", memory=1024, net0="virtio,bridge=vmbr0", agent=1, serial0="socket")
    stopped = lab.get(vmid, "status/current")
    assert (stopped["status"], stopped["qmpstatus"], stopped["uptime"]) == ("stopped", "stopped", 0)
    assert lab.power(vmid, "start") == ("OK", [])
    running = lab.get(vmid, "status/current")
    assert (running["status"], running["qmpstatus"], running["agent"]) == ("running", "running", 1)
    assert running["nics"].keys() == {f"tap{vmid}i0"}
    assert running["maxmem"] == 1024**3
    assert ("memhost" in running) == (lab.lab.node.release == "9.2")
    assert lab.power(vmid, "start") == (f"VM {vmid} already running", [])


def test_the_cloudinit_drive_is_built_at_every_start(lab: VmLab) -> None:
    vmid = lab.create(ide2="local:cloudinit", ciuser="smith", net0="virtio,bridge=vmbr0", ipconfig0="ip=dhcp")
    assert lab.power(vmid, "start") == ("OK", ["generating cloud-init ISO"])
    lab.power(vmid, "stop")
    assert lab.power(vmid, "start") == ("OK", ["generating cloud-init ISO"])


def test_an_absent_snippet_stops_the_start(lab: VmLab) -> None:
    vmid = lab.create(ide2="local:cloudinit", cicustom="user=local:snippets/u.yaml")
    assert lab.power(vmid, "start") == ("volume 'local:snippets/u.yaml' does not exist", [])
    assert vmid not in lab.guests.running


def test_a_mapping_that_is_not_there_stops_the_start_after_the_cloudinit_drive(lab: VmLab) -> None:
    vmid = lab.create(machine="q35", ide2="local:cloudinit", hostpci0="mapping=nope,pcie=1")
    missing = "PCI device mapping not found for 'nope'"
    told = [missing] if lab.lab.node.release == "9.2" else []
    assert lab.power(vmid, "start") == (missing, ["generating cloud-init ISO", *told])
    vmid = lab.create(usb0="mapping=nope")
    assert lab.power(vmid, "start")[0] == "USB device mapping not found for 'nope'"


def test_a_mapped_device_belongs_to_one_running_vm(lab: VmLab) -> None:
    node = lab.lab.node
    device = {
        "id": "0000:01:00.0",
        "vendor": "0x10de",
        "device": "0x1b06",
        "class": "0x030000",
        "iommugroup": 1,
    }
    node.settings["pci"] = [device]
    node.mappings.put("pci", "gpu", {"map": ["node=pve1,path=0000:01:00.0,id=10de:1b06,iommugroup=1"]})
    first = lab.create(machine="q35", hostpci0="mapping=gpu,pcie=1")
    second = lab.create(machine="q35", hostpci0="mapping=gpu,pcie=1")
    plain = lab.create(hostpci0="mapping=gpu,pcie=1")
    assert lab.power(plain, "start")[0].startswith("q35 machine model is not enabled at ")
    assert lab.power(first, "start")[0] == "OK"
    taken = f"PCI device '0000:01:00.0' already in use by VMID '{first}'"
    assert lab.power(second, "start")[0] == taken
    lab.power(first, "stop")
    assert lab.power(second, "start")[0] == "OK"
    lab.power(second, "stop")
    node.settings["pci"] = []
    gone = lab.power(second, "start")[0]
    assert gone.startswith(
        "PCI device mapping invalid (hardware probably changed): pci device '0000:01:00.0'"
    )


def test_a_template_does_not_start(lab: VmLab) -> None:
    vmid = lab.create()
    assert lab.task("POST", f"/qemu/{vmid}/template")[0] == "OK"
    assert lab.power(vmid, "start")[0] == "you can't start a vm if it's a template"


def test_stopping_what_is_stopped_is_fine(lab: VmLab) -> None:
    vmid = lab.create()
    assert lab.power(vmid, "stop") == ("OK", [])
    assert lab.power(vmid, "shutdown") == ("OK", [])


@pytest.mark.parametrize("verb", ["reset", "suspend", "reboot", "resume"])
def test_a_stopped_vm_has_no_buttons(lab: VmLab, verb: str) -> None:
    vmid = lab.create()
    answer = lab.ask("POST", f"/qemu/{vmid}/status/{verb}")
    assert (answer.status, answer.reason) == (500, f"VM {vmid} not running")


def test_a_deaf_guest_runs_into_the_deadline_and_is_killed_when_asked(lab: VmLab) -> None:
    vmid = lab.started()
    lab.guests.deaf.add(vmid)
    assert lab.power(vmid, "shutdown", timeout=1)[0] == "VM quit/powerdown failed - got timeout"
    assert vmid in lab.guests.running
    status, log = lab.power(vmid, "shutdown", timeout=1, forceStop=1)
    assert (status, log[-1]) == ("OK", "VM still running - terminating now with SIGTERM")


def test_a_stop_waits_for_a_shutdown_unless_it_overrules_it(lab: VmLab) -> None:
    vmid = lab.started()
    lab.guests.deaf.add(vmid)
    lab.guests.patience_s = 60.0
    shutdown = lab.ask("POST", f"/qemu/{vmid}/status/shutdown", timeout=60).data
    status, _ = lab.power(vmid, "stop", **{"overrule__shutdown": 1})
    lab.guests.patience_s = 0.05
    assert status == "OK"
    assert lab.lab.wait(shutdown) == "received interrupt"
    assert vmid not in lab.guests.running


def test_a_paused_guest_is_not_shut_down_but_may_be_stopped(lab: VmLab) -> None:
    vmid = lab.started()
    assert lab.power(vmid, "suspend")[0] == "OK"
    current = lab.get(vmid, "status/current")
    assert (current["status"], current["qmpstatus"]) == ("running", "paused")
    refused = lab.ask("POST", f"/qemu/{vmid}/status/shutdown")
    assert (refused.status, refused.reason) == (500, "VM is paused - cannot shutdown")
    assert lab.power(vmid, "resume")[0] == "OK"
    assert lab.power(vmid, "stop")[0] == "OK"


def test_a_reboot_makes_pending_changes_hold_in_a_start_by_root(lab: VmLab) -> None:
    vmid = lab.started(memory=1024)
    lab.put(vmid, memory=2048)
    assert lab.power(vmid, "reboot")[0] == "OK"
    (started,) = [
        task
        for task in [*lab.lab.node.tasks.active(), *lab.lab.node.tasks.finished()]
        if task["type"] == "qmstart" and task["id"] == str(vmid) and task["user"] == "root@pam"
    ]
    assert lab.lab.wait(started["upid"]) == "OK"
    assert lab.guests.running[vmid]["memory"] == "2048"


def test_lists_show_each_vm_to_those_who_may_see_it(lab: VmLab) -> None:
    vmid = lab.started(name="listed", tags="a")
    rows = {row["vmid"]: row for row in lab.ask("GET", "/qemu").data}
    assert (rows[vmid]["name"], rows[vmid]["status"]) == ("listed", "running")
    assert "qmpstatus" not in rows[vmid]
    full = {row["vmid"]: row for row in lab.ask("GET", "/qemu", full=1).data}
    assert full[vmid]["qmpstatus"] == "running"
    assert lab.ask("GET", "/qemu", "nobody").data == []


def test_the_agents_checks_come_in_the_nodes_order(lab: VmLab) -> None:
    vmid = lab.create()
    assert lab.ask("POST", f"/qemu/{vmid}/agent/ping").reason == "No QEMU guest agent configured"
    lab.put(vmid, agent=0)
    assert lab.ask("POST", f"/qemu/{vmid}/agent/ping").reason == f"VM {vmid} is not running"
    lab.put(vmid, agent=1)
    lab.power(vmid, "start")
    assert lab.ask("POST", f"/qemu/{vmid}/agent/ping").reason == "QEMU guest agent is not running"
    lab.guests.agents[vmid] = {}
    assert lab.ask("POST", f"/qemu/{vmid}/agent/ping").data == {"result": {}}
    lab.fault("agent-silent", vmid, count=None)
    assert lab.ask("POST", f"/qemu/{vmid}/agent/ping").reason == "QEMU guest agent is not running"
    lab.lab.node.faults.clear("agent-silent")


def with_agent(lab: VmLab, **answers: Any) -> int:
    vmid = lab.started(agent=1)
    lab.guests.agents[vmid] = {f"guest-{name.replace('_', '-')}": answer for name, answer in answers.items()}
    return vmid


def test_simple_commands_pass_the_agents_refusal_on_as_an_answer(lab: VmLab) -> None:
    vmid = with_agent(lab, get_osinfo={"id": "debian"})
    assert lab.get(vmid, "agent/get-osinfo") == {"result": {"id": "debian"}}
    refused = lab.get(vmid, "agent/get-fsinfo")["result"]["error"]
    assert refused["class"] == "CommandNotFound"


def test_a_program_is_started_and_its_output_arrives_as_latin_1(lab: VmLab) -> None:
    seen: list[Any] = []
    said = {"exited": 1, "exitcode": 0, "out-data": base64.b64encode("grün".encode()).decode()}
    vmid = with_agent(lab, exec=lambda call: seen.append(call) or {"pid": 7}, exec_status=said)
    started = lab.ask("POST", f"/qemu/{vmid}/agent/exec", command=["echo", "a b"], **{"input__data": "in"})
    assert started.data == {"pid": 7}
    assert seen == [
        {
            "path": "echo",
            "arg": ["a b"],
            "capture-output": True,
            "input-data": base64.b64encode(b"in").decode(),
        }
    ]
    status = lab.get(vmid, "agent/exec-status", pid=7)
    assert status["out-data"].encode("latin-1").decode() == "grün"
    assert (status["exited"], status["exitcode"]) == (1, 0)


def test_an_unknown_pid_is_an_error(lab: VmLab) -> None:
    vmid = with_agent(
        lab, exec_status=AgentRefused({"class": "GenericError", "desc": "PID 9 does not exist"})
    )
    answer = lab.ask("GET", f"/qemu/{vmid}/agent/exec-status", pid=9)
    assert (answer.status, answer.reason) == (500, "Agent error: PID 9 does not exist")


def test_a_file_is_read_in_chunks_and_closed(lab: VmLab) -> None:
    content, handles = b"x" * (1024**2) + b"end", []

    def read(call: dict[str, int]) -> dict[str, Any]:
        done = sum(handles)
        chunk = content[done : done + call["count"]]
        handles.append(len(chunk))
        return {
            "buf-b64": base64.b64encode(chunk).decode(),
            "count": len(chunk),
            "eof": done + len(chunk) == len(content),
        }

    closed: list[Any] = []
    vmid = with_agent(lab, file_open=3, file_read=read, file_close=lambda call: closed.append(call) or {})
    answer = lab.get(vmid, "agent/file-read", file="/etc/big")
    assert (answer["bytes-read"], answer["content"].endswith("xend")) == (len(content), True)
    assert "truncated" not in answer
    assert closed == [{"handle": 3}]


def test_a_file_is_written_as_given_or_encoded(lab: VmLab) -> None:
    written: list[str] = []
    vmid = with_agent(
        lab,
        file_open=3,
        file_write=lambda call: written.append(call["buf-b64"]) or {"count": 1, "eof": False},
        file_close={},
    )
    raw = base64.b64encode(b"\xff\x00").decode()
    assert lab.ask("POST", f"/qemu/{vmid}/agent/file-write", file="/x", content=raw, encode=0).status == 200
    assert lab.ask("POST", f"/qemu/{vmid}/agent/file-write", file="/x", content="hello").status == 200
    assert written == [raw, base64.b64encode(b"hello").decode()]
    wide = lab.ask("POST", f"/qemu/{vmid}/agent/file-write", file="/x", content="→")
    assert wide.reason.startswith("Wide character")


def test_the_agents_privileges_are_the_releases_own(lab: VmLab) -> None:
    vmid = with_agent(lab)
    privilege = "VM.GuestAgent.Unrestricted" if lab.lab.node.release == "9.2" else "VM.Monitor"
    refused = lab.ask("POST", f"/qemu/{vmid}/agent/exec", "nobody", command=["id"])
    assert (refused.status, refused.reason) == (403, f"Permission check failed (/vms/{vmid}, {privilege})")
