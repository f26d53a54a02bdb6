"""Making and destroying VMs through the API."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.vm_lab import VmLab, vm_lab
from vi_ops.lab import vm_file, volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmLab]:
    with vm_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


def volumes(lab: VmLab, vmid: int) -> list[str]:
    return volume.volumes(lab.lab.node, vmid)


def test_a_new_vm_has_what_a_node_adds(lab: VmLab) -> None:
    vmid = lab.create(
        name="video",
        memory=1024,
        scsi0="local:1,ssd=1,discard=on",
        ide2="local:cloudinit",
        efidisk0="local:0,efitype=4m,pre-enrolled-keys=0",
        net0="virtio,bridge=vmbr0",
        tags="Video;gpu;gpu",
        onboot=1,
        description="two\nlines: with a colon",
    )
    config = lab.get(vmid, "config")
    assert config["boot"] == "order=scsi0;ide2;net0"
    assert re.fullmatch(r"virtio=BC:24:11(:[0-9A-F]{2}){3},bridge=vmbr0", config["net0"])
    assert re.fullmatch(r"uuid=[0-9a-f-]{36}", config["smbios1"])
    assert re.fullmatch(r"[0-9a-f-]{36}", config["vmgenid"])
    assert re.fullmatch(r"creation-qemu=[\d.]+,ctime=\d+", config["meta"])
    assert config["memory"] == "1024"
    assert config["onboot"] == 1
    assert config["tags"] == "gpu;video"
    assert config["description"] == "two\nlines: with a colon"
    assert "lock" not in config


def test_disks_are_numbered_in_the_order_of_their_options(lab: VmLab) -> None:
    vmid = lab.create(
        scsi0="local:1",
        efidisk0="local:0,efitype=4m,pre-enrolled-keys=0",
        ide2="local:cloudinit",
        virtio0="local:1",
    )
    config = lab.get(vmid, "config")
    assert config["efidisk0"] == f"local:{vmid}/vm-{vmid}-disk-0.raw,efitype=4m,pre-enrolled-keys=0,size=528K"
    assert config["scsi0"] == f"local:{vmid}/vm-{vmid}-disk-1.raw,size=1G"
    assert config["virtio0"] == f"local:{vmid}/vm-{vmid}-disk-2.raw,size=1G"
    assert config["ide2"] == f"local:{vmid}/vm-{vmid}-cloudinit.qcow2,media=cdrom"


def test_an_import_takes_the_source_size_and_format(lab: VmLab) -> None:
    node = lab.lab.node
    image = make_image(lab, "debian.qcow2")
    vmid = lab.create(scsi0=f"local:0,import-from={image},discard=on")
    config = lab.get(vmid, "config")
    assert config["scsi0"] == f"local:{vmid}/vm-{vmid}-disk-0.qcow2,discard=on,size=20M"
    assert node.volume(config["scsi0"].partition(",")[0]).path.exists()


def make_image(lab: VmLab, name: str) -> str:
    path = lab.storage / "import" / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "20M"], check=True, timeout=20)
    return f"local:import/{name}"


def test_a_failed_create_leaves_nothing(lab: VmLab) -> None:
    vmid = next(lab.vmids)
    status, log = lab.task(
        "POST",
        "/qemu",
        vmid=vmid,
        ide2="local:cloudinit",
        scsi0="local:0,import-from=local:import/nope.qcow2",
    )
    assert status == f"unable to create VM {vmid} - failed to stat '{lab.storage}/import/nope.qcow2'"
    assert any("ide2: successfully created disk" in line for line in log)
    assert vmid not in lab.lab.node.vmids()
    assert volumes(lab, vmid) == []


def test_a_full_storage_fails_the_task_and_leaves_nothing(lab: VmLab) -> None:
    vmid = next(lab.vmids)
    lab.fault("full-storage", vmid)
    status, _ = lab.task("POST", "/qemu", vmid=vmid, scsi0="local:1")
    assert status.startswith(f"unable to create VM {vmid} - ")
    assert status.endswith("No space left on device")
    assert vmid not in lab.lab.node.vmids()


def test_start_after_create_is_a_task_of_its_own(lab: VmLab) -> None:
    vmid = next(lab.vmids)
    status, log = lab.task("POST", "/qemu", vmid=vmid, start=1)
    assert (status, log) == ("OK", ["Execute autostart"])
    started = [task for task in lab.lab.node.tasks.active() if task["type"] == "qmstart"]
    for task in started:
        assert lab.lab.wait(task["upid"]) == "OK"
    assert vmid in lab.guests.running


REFUSED = [
    ("ops", {"usb0": "host=174c:55aa"}, 500, "only root can set 'usb0' config for real devices"),
    ("root_token", {"usb0": "host=174c:55aa"}, 500, "only root can set 'usb0' config for real devices"),
    (
        "root_token",
        {"hostpci0": "0000:01:00"},
        500,
        "only root can set 'hostpci0' config for non-mapped devices",
    ),
    ("root_token", {"serial0": "/dev/ttyS0"}, 500, "only root can set 'serial0' config for real devices"),
    ("root_token", {"args": "-device edu"}, 500, "only root can set 'args' config"),
    ("ops", {"hookscript": "local:snippets/x"}, 500, "only root can set 'hookscript' config"),
    ("ops", {"startup": "order=1"}, 403, "Permission check failed (/, Sys.Modify)"),
    (
        "ops",
        {"scsi0": "local:0,import-from=/etc/passwd"},
        500,
        "Only root can pass arbitrary filesystem paths.",
    ),
    ("ops", {"scsi0": "nope:1"}, 500, "storage 'nope' does not exist"),
    ("ops", {"scsi0": "4"}, 500, "no storage ID specified (and no default storage)"),
    ("ops", {"net0": "virtio,bridge=vmbr0"}, 200, "OK"),
    ("nobody", {}, 403, "Permission check failed"),
    (
        "ops",
        {"balloon": 4096, "memory": 1024},
        500,
        "balloon value too large (must be smaller than assigned memory)",
    ),
    ("ops", {"sshkeys": "no%20key"}, 500, "SSH public key validation error"),
]


@pytest.mark.parametrize(("who", "options", "status", "reason"), REFUSED)
def test_what_a_create_refuses(
    lab: VmLab, who: str, options: dict[str, Any], status: int, reason: str
) -> None:
    vmid = next(lab.vmids)
    answer = lab.ask("POST", "/qemu", who, vmid=vmid, **options)
    assert (answer.status, answer.reason.startswith(reason)) == (status, True), answer.reason
    if status != 200:
        assert vmid not in lab.lab.node.vmids()
    else:
        lab.lab.wait(answer.data)


PARAMETER_ERRORS = [
    ({"scsi0": "local:2,import-from=local:import/x.qcow2"}, "scsi0", "'import-from' requires special syntax"),
    ({"scsi0": "local:iso/x.iso"}, "scsi0", "explicit 'media=cdrom' is required for iso images"),
    ({"scsi0": "local:0,import-from=local:iso/x.iso"}, "scsi0", "local:iso/x.iso has wrong type 'iso'"),
    (
        {"sshkeys": "ssh-ed25519 AAAA me"},
        "sshkeys",
        "invalid format - invalid urlencoded string: ssh-ed25519 AAAA me",
    ),
]


@pytest.mark.parametrize(("options", "parameter", "text"), PARAMETER_ERRORS)
def test_parameters_that_a_create_refuses(
    lab: VmLab, options: dict[str, Any], parameter: str, text: str
) -> None:
    answer = lab.ask("POST", "/qemu", vmid=next(lab.vmids), **options)
    assert (answer.status, answer.reason) == (400, "Parameter verification failed.")
    assert answer.body["errors"][parameter].startswith(text)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmLab]:
    """A lab that has no published schema to check parameters with."""
    with vm_lab(tmp_path_factory.mktemp("bare"), schema=False) as running:
        yield running


@pytest.mark.parametrize(
    ("options", "parameter", "text"),
    [
        ({"vmid": 99}, "vmid", "invalid format - value does not look like a valid VM ID"),
        ({}, "vmid", "property is missing and it is not optional"),
        ({"vmid": 500, "cores": "two"}, "cores", "type check ('integer') failed - got 'two'"),
        ({"vmid": 500, "memory": "lots"}, "memory", "invalid format - "),
        ({"vmid": 500, "net0": "virtio,bridge"}, "net0", "invalid format - "),
        ({"vmid": 500, "onboot": "maybe"}, "onboot", "invalid format - "),
    ],
)
def test_without_a_schema_nothing_unreadable_is_stored(
    bare: VmLab, options: dict[str, Any], parameter: str, text: str
) -> None:
    answer = bare.ask("POST", "/qemu", "root", **options)
    assert answer.status == 400, answer
    assert answer.body["errors"][parameter].startswith(text)
    assert bare.lab.node.vmids() == []


def test_root_with_a_ticket_may_what_its_token_may_not(lab: VmLab) -> None:
    vmid = lab.create(who="root", usb0="host=174c:55aa", args="-device edu", startup="order=1")
    assert lab.get(vmid, "config")["usb0"] == "host=174c:55aa"


def test_a_taken_vmid_is_refused(lab: VmLab) -> None:
    vmid = lab.create(name="first")
    answer = lab.ask("POST", "/qemu", vmid=vmid)
    assert answer.reason == f"unable to create VM {vmid} - VM {vmid} already exists on node 'pve1'"
    assert lab.get(vmid, "config")["name"] == "first"


def test_only_one_cloudinit_drive(lab: VmLab) -> None:
    vmid = next(lab.vmids)
    status, _ = lab.task("POST", "/qemu", vmid=vmid, ide2="local:cloudinit", scsi1="local:cloudinit")
    assert status == f"unable to create VM {vmid} - scsi1 - cloud-init drive is already attached at 'ide2'"
    assert volumes(lab, vmid) == []


def test_destroy_takes_the_disks_and_the_unused_ones(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1", scsi1="local:1", ide2="local:cloudinit")
    assert lab.put(vmid, delete="scsi1").status == 200
    assert len(volumes(lab, vmid)) == 3
    status, _ = lab.task("DELETE", f"/qemu/{vmid}", purge=1)
    assert status == "OK"
    assert volumes(lab, vmid) == []
    gone = lab.ask("GET", f"/qemu/{vmid}/config")
    assert gone.reason == f"Configuration file 'nodes/pve1/qemu-server/{vmid}.conf' does not exist"


def test_destroy_leaves_volumes_that_no_option_names_unless_told(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1")
    stray = lab.storage / "images" / str(vmid) / f"vm-{vmid}-disk-7.raw"
    stray.write_bytes(b"")
    lab.task("DELETE", f"/qemu/{vmid}")
    assert stray.exists()
    again = lab.create(scsi0="local:1")
    stray = lab.storage / "images" / str(again) / f"vm-{again}-disk-7.raw"
    stray.write_bytes(b"")
    lab.task("DELETE", f"/qemu/{again}", **{"destroy__unreferenced__disks": 1})
    assert not stray.exists()


def test_a_protected_or_running_vm_is_not_destroyed(lab: VmLab) -> None:
    vmid = lab.create(protection=1)
    assert lab.ask("DELETE", f"/qemu/{vmid}").reason == f"can't remove VM {vmid} - protection mode enabled"
    lab.put(vmid, protection=0)
    lab.power(vmid, "start")
    assert lab.ask("DELETE", f"/qemu/{vmid}").reason == f"VM {vmid} is running - destroy failed"
    assert vmid in lab.lab.node.vmids()


def test_a_locked_vm_is_not_destroyed(lab: VmLab) -> None:
    vmid = lab.create()
    lab.fault("lock-held", vmid)
    assert lab.ask("DELETE", f"/qemu/{vmid}").reason == "VM is locked (backup)"
    assert lab.task("DELETE", f"/qemu/{vmid}")[0] == "OK"


def test_the_config_file_is_proxmox_own(lab: VmLab) -> None:
    vmid = lab.create(name="n", description="a: b", memory=512)
    path: Path = vm_file.config_path(lab.lab.node, vmid)
    lines = path.read_text().splitlines()
    assert lines[0] == "#a%3A b"
    assert lines[1:] == sorted(lines[1:])
    assert "memory: 512" in lines
