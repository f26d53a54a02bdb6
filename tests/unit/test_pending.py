"""What of a VM's changed config holds at once and what waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vi_ops.lab import pending
from vi_ops.lab.vm_config import VmConfig

# A busy machine makes examples slow, not wrong.
UNHURRIED = settings(deadline=None)

OWN = "local:100/vm-100-disk-1.raw,size=2G"
OTHER = "local:100/vm-100-disk-2.raw,size=2G"
LINUX = {"ostype": "l26", "memory": "2048", "scsi0": "local:100/vm-100-disk-0.raw,size=2G"}


@pytest.mark.parametrize(
    ("key", "old", "new", "at_once"),
    [
        ("description", None, "x", True),
        ("name", "a", "b", True),
        ("tags", "a", "b", True),
        ("sshkeys", None, "x", True),
        ("ipconfig3", None, "ip=dhcp", True),
        ("cpulimit", "1", "2", True),
        ("memory", "2048", "4096", False),
        ("cores", "1", "2", False),
        ("vga", None, "none", False),
        ("hostpci0", None, "mapping=gpu", False),
        ("serial0", None, "socket", False),
        ("agent", "1", "0", False),
        ("agent", "1", "enabled=1,fstrim_cloned_disks=1", True),
        ("balloon", "1024", "512", True),
        ("balloon", "1024", "0", False),
        ("balloon", "0", "1024", False),
        ("balloon", None, "1024", False),
        ("scsi0", "local:1,size=2G", "local:1,backup=0,size=2G", True),
        ("scsi0", "local:1,size=2G", "local:1,mbps_rd=10,size=2G", True),
        ("scsi0", "local:1,size=2G", "local:1,cache=none,size=2G", False),
        ("efidisk0", None, "local:1", False),
        ("net0", "virtio=A,bridge=b", "virtio=A,bridge=b,firewall=1,tag=5", True),
        ("net0", "virtio=A,bridge=b", "virtio=A,bridge=c", False),
        ("net0", "virtio=A,bridge=b", "virtio=C,bridge=b", False),
    ],
)
def test_what_holds_at_once(key: str, old: str | None, new: str, at_once: bool) -> None:
    config = VmConfig({key: old} if old else {}, {key: new})
    assert pending.holds_at_once(config, key) is at_once


@pytest.mark.parametrize(
    ("key", "extra", "possible"),
    [
        ("net1", {}, True),
        ("net1", {"hotplug": "disk,usb"}, False),
        ("net1", {"hotplug": "0"}, False),
        ("scsi1", {}, True),
        ("virtio1", {"hotplug": "network"}, False),
        ("usb0", {}, True),
        ("usb0", {"ostype": "other"}, False),
        ("ide0", {}, False),
        ("sata0", {}, False),
        ("hostpci0", {}, False),
    ],
)
def test_which_devices_a_node_plugs_live(key: str, extra: dict[str, str], possible: bool) -> None:
    config = VmConfig({**LINUX, **extra}, {key: OWN})
    assert pending.can_hotplug(config, key) is possible


def test_a_value_set_twice_replaces_and_one_set_back_disappears() -> None:
    config = VmConfig({"memory": "2048"})
    pending.change(config, "memory", "4096")
    pending.change(config, "memory", "2048")
    pending.clean(config)
    assert config.pending == {}


def test_a_deletion_and_a_new_value_exclude_each_other() -> None:
    config = VmConfig({"tags": "a"})
    pending.delete(config, "tags")
    pending.change(config, "tags", "b")
    assert (config.pending, config.pending_delete) == ({"tags": "b"}, {})
    pending.delete(config, "tags", force=True)
    assert (config.pending, config.pending_delete) == ({}, {"tags": True})


def test_a_detached_disk_becomes_unused_and_a_forced_one_is_freed() -> None:
    config = VmConfig({"scsi1": OWN, "scsi2": OTHER, "unused0": "local:100/vm-100-disk-9.raw"})
    pending.delete(config, "scsi1")
    pending.delete(config, "scsi2", force=True)
    assert pending.apply_all(config, 100) == ["local:100/vm-100-disk-2.raw"]
    assert config.values == {
        "unused0": "local:100/vm-100-disk-9.raw",
        "unused1": "local:100/vm-100-disk-1.raw",
    }


def test_another_vms_disk_is_let_go_without_a_trace() -> None:
    config = VmConfig({"scsi1": OWN})
    pending.delete(config, "scsi1", force=True)
    assert pending.apply_all(config, 101) == []
    assert config.values == {}


def test_a_replaced_disk_becomes_unused_but_changed_options_keep_it() -> None:
    config = VmConfig({"scsi1": OWN})
    pending.change(config, "scsi1", OWN + ",ssd=1")
    pending.apply_all(config, 100)
    assert "unused0" not in config.values
    pending.change(config, "scsi1", OTHER)
    pending.apply_all(config, 100)
    assert config.values["unused0"] == "local:100/vm-100-disk-1.raw"


def test_a_reverted_new_disk_is_kept_as_unused() -> None:
    config = VmConfig({}, {"scsi1": OWN})
    pending.revert(config, "scsi1", 100)
    assert config.pending == {}
    assert config.values == {"unused0": "local:100/vm-100-disk-1.raw"}


def test_the_rows_tell_what_waits() -> None:
    config = VmConfig(
        {"memory": "2048", "tags": "a", "cores": "1"}, {"memory": "4096", "vga": "none"}, {"tags": True}
    )
    rows = {row["key"]: row for row in pending.rows(config)}
    assert rows == {
        "memory": {"key": "memory", "value": "2048", "pending": "4096"},
        "tags": {"key": "tags", "value": "a", "delete": 2},
        "cores": {"key": "cores", "value": 1},
        "vga": {"key": "vga", "pending": "none"},
    }


VALUES = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))


@UNHURRIED
@given(VALUES, st.lists(VALUES, max_size=6))
def test_the_cloudinit_record_always_leads_back_to_what_the_drive_holds(
    built_with: str | None, changes: list[str | None]
) -> None:
    """Whatever happened since, the record and the config together tell the value the drive was built with."""
    config = VmConfig({} if built_with is None else {"ciuser": built_with})
    for value in changes:
        if value is not None:
            pending.change(config, "ciuser", value)
        elif "ciuser" in config.values:
            pending.delete(config, "ciuser")
        pending.apply(config, "ciuser", 100, running=True)
    now = config.values.get("ciuser")
    added = config.cloudinit.get("added", "").split(",")
    recorded = None if "ciuser" in added else config.cloudinit.get("ciuser", now)
    assert recorded == built_with
    assert (now == built_with) == (config.cloudinit == {})


def test_only_what_the_drive_is_made_of_is_recorded() -> None:
    config = VmConfig({}, {"tags": "a", "name": "n", "net0": "virtio=1", "netmask": "x"})
    for key in list(config.pending):
        pending.apply(config, key, 100, running=True)
    assert config.cloudinit == {"added": "name,net0"}
