"""Changing a VM's config: at once on a stopped VM, pending on a running one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vm_lab import VmLab, vm_lab
from vi_ops.lab import volume
from vi_ops.lab.password import crypt, hashed

pytestmark = pytest.mark.slow

KEY = "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIAbSbe0DQ3Bt0dEHIBgeALQPbmT8nW9p7lxrtHnJmcXo%20me%40x"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmLab]:
    with vm_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


def test_a_stopped_vm_changes_at_once(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    assert lab.put(vmid, memory=2048, sshkeys=KEY, tags="B,a").status == 200
    config = lab.get(vmid, "config")
    assert (config["memory"], config["sshkeys"], config["tags"]) == ("2048", KEY, "a;b")
    assert lab.pending(vmid) == {}


def test_a_running_vm_keeps_what_needs_a_power_cycle_waiting(lab: VmLab) -> None:
    vmid = lab.started(memory=1024, cores=1)
    assert lab.put(vmid, memory=2048, cores=2, description="now").status == 200
    assert lab.pending(vmid) == {
        "memory": {"key": "memory", "value": "1024", "pending": "2048"},
        "cores": {"key": "cores", "value": 1, "pending": 2},
    }
    assert lab.get(vmid, "config")["memory"] == "2048"
    assert lab.get(vmid, "config", current=1)["memory"] == "1024"
    assert lab.get(vmid, "config", current=1)["description"] == "now"


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_power_off_makes_pending_changes_hold(lab: VmLab, verb: str) -> None:
    vmid = lab.started(memory=1024)
    lab.put(vmid, memory=2048)
    assert lab.power(vmid, verb)[0] == "OK"
    assert lab.pending(vmid) == {}
    assert lab.config(vmid).values["memory"] == "2048"


def test_a_reset_does_not_and_the_next_start_does(lab: VmLab) -> None:
    vmid = lab.started(memory=1024)
    lab.put(vmid, memory=2048)
    assert lab.power(vmid, "reset")[0] == "OK"
    assert "memory" in lab.pending(vmid)
    lab.guests.running.pop(vmid)  # the guest powered itself off
    assert "memory" in lab.pending(vmid)
    assert lab.power(vmid, "start")[0] == "OK"
    assert lab.guests.running[vmid]["memory"] == "2048"


def test_reverting_forgets_what_waits(lab: VmLab) -> None:
    vmid = lab.started(memory=1024, vga="std")
    lab.put(vmid, memory=2048, serial0="socket")
    lab.put(vmid, delete="vga")
    assert lab.pending(vmid).keys() == {"memory", "serial0", "vga"}
    assert lab.put(vmid, revert="memory,serial0,vga").status == 200
    assert lab.pending(vmid) == {}
    assert lab.get(vmid, "config")["vga"] == "std"


def test_deleting_on_a_running_vm_waits_and_says_so(lab: VmLab) -> None:
    vmid = lab.started(vga="std", sata1="local:1")
    lab.put(vmid, delete="vga")
    lab.put(vmid, delete="sata1", force=1)
    assert lab.pending(vmid)["vga"] == {"key": "vga", "value": "std", "delete": 1}
    assert lab.pending(vmid)["sata1"]["delete"] == 2
    assert "vga" not in lab.get(vmid, "config")


def test_the_digest_guards_a_change(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    digest = lab.get(vmid, "config")["digest"]
    assert lab.put(vmid, memory=2048, digest=digest).status == 200
    stale = lab.put(vmid, memory=4096, digest=digest)
    assert (stale.status, stale.reason) == (500, "checksum mismatch (file change by other user?)")
    assert lab.get(vmid, "config")["memory"] == "2048"
    assert lab.get(vmid, "config")["digest"] != digest


def test_a_lock_forbids_changes_and_root_may_take_it_away(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    assert lab.put(vmid, "root", lock="backup").status == 200
    refused = lab.put(vmid, memory=2048)
    assert (refused.status, refused.reason) == (500, "VM is locked (backup)")
    assert lab.power(vmid, "stop")[0] == "VM is locked (backup)"
    assert lab.put(vmid, skiplock=1, delete="lock").body["errors"] == {
        "skiplock": "Only root may use this option."
    }
    assert lab.put(vmid, "root", skiplock=1, delete="lock").status == 200
    assert lab.put(vmid, memory=2048).status == 200


def test_the_fault_of_a_held_lock_refuses_once(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    lab.fault("lock-held", vmid)
    assert lab.put(vmid, memory=2048).reason == "VM is locked (backup)"
    assert lab.put(vmid, memory=2048).status == 200


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("ops", {}, 500, "no options specified"),
    ("ops", {"balloon": 4096}, 500, "balloon value too large (must be smaller than assigned memory)"),
    ("ops", {"boot": "order=scsi9"}, 500, "invalid bootorder: device 'scsi9' does not exist'"),
    ("ops", {"usb1": "host=1-2"}, 500, "only root can set 'usb1' config for real devices"),
    ("root_token", {"delete": "usb0"}, 500, "only root can set 'usb0' config for real devices"),
    ("root_token", {"usb0": "mapping=ssd"}, 500, "only root can set 'usb0' config for real devices"),
    ("root_token", {"delete": "args"}, 500, "only root can set 'args' config"),
    ("nobody", {"memory": 2048}, 403, "Permission check failed (/vms/"),
]


@pytest.mark.parametrize(("who", "change", "status", "reason"), REFUSED)
def test_what_a_change_refuses(
    lab: VmLab, who: str, change: dict[str, Any], status: int, reason: str
) -> None:
    vmid = lab.create(who="root", memory=1024, usb0="host=174c:55aa", args="-device edu")
    before = lab.config(vmid)
    answer = lab.put(vmid, who, **change)
    assert (answer.status, answer.reason.startswith(reason)) == (status, True), answer.reason
    assert lab.config(vmid) == before


PARAMETER_ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"delete": "nosuch"}, "delete", "unknown option 'nosuch'"),
    ({"revert": "nosuch"}, "revert", "unknown option 'nosuch'"),
    (
        {"memory": 1, "delete": "memory"},
        "delete",
        "you can't use '-memory' and -delete memory' at the same time",
    ),
    ({"skiplock": 1, "memory": 512}, "skiplock", "Only root may use this option."),
]


@pytest.mark.parametrize(("change", "parameter", "text"), PARAMETER_ERRORS)
def test_parameters_that_a_change_refuses(
    lab: VmLab, change: dict[str, Any], parameter: str, text: str
) -> None:
    vmid = lab.create()
    if change.get("memory") == 1:
        change = {**change, "memory": 512}
    answer = lab.put(vmid, **change)
    assert (answer.status, answer.body["errors"]) == (400, {parameter: text})


def test_a_detached_disk_is_unused_then_freed_and_leaves_the_boot_order(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1", net0="virtio,bridge=vmbr0")
    volid = lab.get(vmid, "config")["scsi0"].partition(",")[0]
    assert lab.put(vmid, delete="scsi0").status == 200
    config = lab.get(vmid, "config")
    assert (config["unused0"], config["boot"]) == (volid, "order=net0")
    assert lab.put(vmid, delete="unused0").status == 200
    assert volume.volumes(lab.lab.node, vmid) == []


def test_a_protected_vm_keeps_its_disks(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1", protection=1)
    refused = lab.put(vmid, delete="scsi0")
    assert refused.reason == "can't remove drive 'scsi0' - protection mode enabled"
    assert "scsi0" in lab.get(vmid, "config")


def test_a_new_disk_is_made_and_a_new_cdrom_booted_from(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1")
    assert lab.put(vmid, scsi1="local:2,format=qcow2", ide2="local:cloudinit").status == 200
    config = lab.get(vmid, "config")
    assert config["scsi1"] == f"local:{vmid}/vm-{vmid}-disk-1.qcow2,size=2G"
    assert config["boot"] == "order=scsi0;ide2"


def test_the_password_is_hashed_on_update_and_never_shown(lab: VmLab) -> None:
    vmid = lab.create(cipassword="clear")
    assert lab.config(vmid).values["cipassword"] == "clear"  # as on a node: create stores what it is given
    lab.put(vmid, cipassword="secret")
    stored = lab.config(vmid).values["cipassword"]
    assert re.fullmatch(r"\$5\$[0-9a-f]{8}\$[./0-9A-Za-z]{43}", stored)
    lab.put(vmid, cipassword=stored)
    assert lab.config(vmid).values["cipassword"] == stored
    assert lab.get(vmid, "config")["cipassword"] == "**********"
    status, log = lab.task("POST", f"/qemu/{vmid}/config", cipassword="other")
    assert (status, log) == ("OK", [f"update VM {vmid}: -cipassword <hidden>"])


def test_the_hash_is_the_c_librarys() -> None:
    # `openssl passwd -5 -salt saltstring 'Hello world!'` gives the same.
    expected = "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
    assert crypt("Hello world!", "$5$saltstring") == expected
    assert hashed(expected) == expected


def test_the_task_tells_what_it_changes(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    status, log = lab.task("POST", f"/qemu/{vmid}/config", cores=2, delete="vga")
    assert status == "OK"
    assert log == [
        f"update VM {vmid}: -cores 2 -delete vga",
        "cannot delete 'vga' - not set in current configuration!",
    ]


def test_a_quick_change_in_the_background_answers_null(lab: VmLab) -> None:
    vmid = lab.create(memory=1024)
    answer = lab.ask("POST", f"/qemu/{vmid}/config", cores=2, background_delay=10)
    assert (answer.status, answer.data) == (200, None)
    failed = lab.ask("POST", f"/qemu/{vmid}/config", boot="order=scsi9", background_delay=10)
    assert failed.reason.startswith(f"failed to update VM {vmid}: invalid bootorder")


def test_cloudinit_changes_of_a_running_vm_are_recorded_until_the_drive_is_rebuilt(lab: VmLab) -> None:
    vmid = lab.started(ide2="local:cloudinit", ciuser="smith", nameserver="10.0.0.1")
    lab.put(vmid, ciuser="jones", searchdomain="lan", delete="nameserver")
    rows = {row["key"]: row for row in lab.get(vmid, "cloudinit")}
    assert rows == {
        "ciuser": {"key": "ciuser", "value": "smith", "pending": "jones"},
        "searchdomain": {"key": "searchdomain", "pending": "lan"},
        "nameserver": {"key": "nameserver", "delete": 1},
    }
    assert lab.ask("PUT", f"/qemu/{vmid}/cloudinit").status == 200
    assert lab.guests.media[-1] == (vmid, "ide2", f"vm-{vmid}-cloudinit.qcow2")
    assert {"key": "ciuser", "value": "jones"} in lab.get(vmid, "cloudinit")
    assert lab.config(vmid).cloudinit == {}


def test_the_dump_shows_the_password_only_to_those_who_may_set_it(lab: VmLab) -> None:
    vmid = lab.create(cipassword="$6$a$b", ciuser="smith", name="guest")
    assert "password: $6$a$b" in lab.get(vmid, "cloudinit/dump", type_="user")
    lab.lab.node.acl.state["acl"].append(
        {"path": "/", "type": "user", "ugid": "nobody@pve", "roleid": "PVEAuditor", "propagate": 1}
    )
    seen = lab.ask("GET", f"/qemu/{vmid}/cloudinit/dump", "nobody", type_="user")
    lab.lab.node.acl.state["acl"].pop()
    assert "password: **********" in seen.data


def test_a_mapped_device_asks_for_the_right_to_use_it_and_waits_on_a_running_vm(lab: VmLab) -> None:
    vmid = lab.started(machine="q35")
    assert lab.put(vmid, hostpci0="mapping=gpu,pcie=1").status == 200
    assert lab.pending(vmid) == {"hostpci0": {"key": "hostpci0", "pending": "mapping=gpu,pcie=1"}}
    romfile = lab.put(vmid, hostpci1="mapping=gpu,romfile=x.rom")
    assert romfile.body["errors"] == {"hostpci1": "only root@pam can set 'romfile' option"}


def test_a_mapped_usb_device_that_is_absent_is_a_hotplug_problem_and_waits(lab: VmLab) -> None:
    vmid = lab.started(ostype="l26")
    lab.lab.node.mappings.put("usb", "ssd", {"map": ["node=pve1,id=174c:55aa,path=1-2"]})
    answer = lab.put(vmid, usb0="mapping=ssd")
    problem = "hotplug problem - USB Mapping invalid (hardware probably changed): usb device '1-2' not found"
    assert answer.status == 400
    assert answer.body["errors"]["usb0"].strip() == problem
    assert lab.pending(vmid).keys() == {"usb0"}


def test_disks_and_cards_are_plugged_while_the_guest_runs(lab: VmLab) -> None:
    vmid = lab.started(scsi0="local:1", scsi1="local:1", net0="virtio,bridge=vmbr0")
    assert lab.put(vmid, scsi2="local:1", net1="virtio,bridge=vmbr0", delete="scsi1").status == 200
    assert lab.pending(vmid) == {}
    assert {"scsi2", "net1"} <= lab.guests.running[vmid].keys()
    assert "scsi1" not in lab.guests.running[vmid]
    assert lab.config(vmid).values["unused0"] == f"local:{vmid}/vm-{vmid}-disk-1.raw"
    assert lab.put(vmid, net1="e1000,bridge=vmbr0").status == 200
    assert lab.guests.plugged[-2:] == [("unplug", vmid, "net1"), ("plug", vmid, "net1")]


def test_a_disk_that_is_booted_from_stays_until_the_power_goes(lab: VmLab) -> None:
    vmid = lab.started(scsi0="local:1")
    answer = lab.put(vmid, delete="scsi0")
    assert (answer.status, answer.body["errors"]) == (
        400,
        {"scsi0": "hotplug problem - can't unplug bootdisk 'scsi0'"},
    )
    assert lab.pending(vmid)["scsi0"]["delete"] == 1
    assert "scsi0" in lab.get(vmid, "config", current=1)


def test_a_guest_that_does_not_let_go_leaves_the_change_pending(lab: VmLab) -> None:
    vmid = lab.started(net0="virtio,bridge=vmbr0", net1="virtio,bridge=vmbr0")
    lab.guests.deaf.add(vmid)
    answer = lab.put(vmid, delete="net1", description="still done")
    assert answer.body["errors"] == {"net1": "hotplug problem - error unplugging device 'net1'"}
    assert lab.pending(vmid).keys() == {"net1"}
    assert lab.config(vmid).values["description"] == "still done"
    assert lab.put(vmid, hotplug="disk,usb").status == 200
    assert lab.put(vmid, net2="virtio,bridge=vmbr0").status == 200
    assert lab.pending(vmid).keys() == {"net1", "net2"}


def test_a_cdrom_takes_another_medium_while_the_guest_runs(lab: VmLab) -> None:
    (lab.storage / "template" / "iso" / "a.iso").write_bytes(b"\0" * 4096)
    vmid = lab.started(ide2="none,media=cdrom")
    assert lab.put(vmid, ide2="local:iso/a.iso,media=cdrom").status == 200
    assert lab.pending(vmid) == {}
    assert lab.guests.media[-1] == (vmid, "ide2", "a.iso")
    assert lab.get(vmid, "config")["ide2"] == "local:iso/a.iso,media=cdrom,size=4K"


def test_a_line_feed_has_no_place_in_a_config_file(lab: VmLab) -> None:
    vmid = lab.create()
    refused = lab.put(vmid, "root", args="-a\nlock: backup")
    assert refused.reason == "unable to parse value of 'args' - property contains a line feed"
    assert "lock" not in lab.config(vmid).values


def test_a_snapshot_list_ends_with_what_runs(lab: VmLab) -> None:
    vmid = lab.create()
    (current,) = lab.get(vmid, "snapshot")
    assert (current["name"], current["running"]) == ("current", 0)
