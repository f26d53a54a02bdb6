"""The cloud-init texts, against what Proxmox's own server answered and against its rules one by one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from vi_ops.lab import cloudinit
from vi_ops.lab.guest_error import GuestError

RECORDS = Path(__file__).resolve().parents[3] / "shared" / "pve-api"
# The VM of the recorded dumps, as their own `GET config` shows it. The MAC differs between the two records.
RECORDED_VM = {
    "name": "video-intelligence",
    "ciuser": "smith",
    "ipconfig0": "ip=192.168.1.106/24,gw=192.168.1.1",
    "nameserver": "192.168.1.1",
}
NIC = {"net0": "virtio=BC:24:11:D5:AC:22,bridge=vmbr0"}


def dumps(release: str) -> dict[str, str]:
    path = RECORDS / f"transcripts-{release}.jsonl"
    if not path.exists():
        pytest.skip(f"recorded answers are absent: {path.name}")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        record["params"]["type"]: record["body"]["data"]
        for record in records
        if record["path"].endswith("/cloudinit/dump")
    }


@pytest.mark.parametrize("release", ["8.4", "9.2"])
def test_texts_are_those_that_proxmox_answered(release: str) -> None:
    recorded = dumps(release)
    mac = recorded["network"].split("mac_address: '")[1][:17].upper()
    config = {**RECORDED_VM, "net0": f"virtio={mac},bridge=vmbr0"}

    assert cloudinit.user_data(config, 107) == recorded["user"]
    assert cloudinit.network_config(config) == recorded["network"]


def test_a_password_and_keys_stand_between_user_and_expiry() -> None:
    keys = quote("ssh-ed25519 AAAA me@x\n\nssh-rsa BBBB+/= you@y\n", safe="")

    text = cloudinit.user_data({"ciuser": "smith", "cipassword": "$6$a$b", "sshkeys": keys}, 107)

    assert text.splitlines()[4:10] == [
        "user: smith",
        "password: $6$a$b",
        "ssh_authorized_keys:",
        "  - ssh-ed25519 AAAA me@x",
        "  - ssh-rsa BBBB+/= you@y",
        "chpasswd:",
    ]


def test_root_keeps_its_account_and_no_default_user_is_made() -> None:
    lines = cloudinit.user_data({"ciuser": "root"}, 107).splitlines()

    assert "disable_root: False" in lines
    assert "users:" not in lines


@pytest.mark.parametrize(
    ("config", "hostname", "fqdn"),
    [
        ({}, "VM107", "VM107"),
        ({"name": "video"}, "video", "video"),
        ({"name": "video", "searchdomain": "lan.example"}, "video", "video.lan.example"),
        ({"name": "video.example.org", "searchdomain": "lan"}, "video", "video.example.org"),
    ],
)
def test_names(config: dict[str, Any], hostname: str, fqdn: str) -> None:
    lines = cloudinit.user_data(config, 107).splitlines()

    assert f"hostname: {hostname}" in lines
    assert f"fqdn: {fqdn}" in lines


@pytest.mark.parametrize(("ciupgrade", "is_asked"), [(None, True), (1, True), ("1", True), (0, False)])
def test_upgrade_is_on_unless_switched_off(ciupgrade: Any, is_asked: bool) -> None:
    config = {} if ciupgrade is None else {"ciupgrade": ciupgrade}

    assert ("package_upgrade: true" in cloudinit.user_data(config, 107).splitlines()) is is_asked


@pytest.mark.parametrize(
    ("ipconfig", "subnets"),
    [
        ("ip=dhcp", ["- type: dhcp4"]),
        (
            "ip=10.0.0.5/8,ip6=auto",
            [
                "- type: static",
                "  address: '10.0.0.5'",
                "  netmask: '255.0.0.0'",
                "- type: ipv6_slaac",
            ],
        ),
        ("ip6=dhcp", ["- type: dhcp6"]),
        (
            "ip6=fd00::5/64,gw6=fd00::1",
            ["- type: static6", "  address: 'fd00::5/64'", "  gateway: 'fd00::1'"],
        ),
    ],
)
def test_subnets(ipconfig: str, subnets: list[str]) -> None:
    text = cloudinit.network_config({**NIC, "ipconfig0": ipconfig}, ["192.168.1.1"])

    expected = [f"      {line}" for line in subnets]
    assert text.splitlines()[6 : 6 + len(expected)] == expected
    assert text.splitlines()[6 + len(expected)] == "    - type: nameserver"


def test_a_card_without_ipconfig_is_left_alone() -> None:
    config = {**NIC, "net1": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "ipconfig1": "ip=dhcp"}

    text = cloudinit.network_config(config)

    assert "eth0" not in text
    assert "name: eth1\n      mac_address: 'bc:24:11:00:00:01'" in text


def test_the_node_s_resolver_serves_a_vm_that_names_none() -> None:
    assert cloudinit.network_config({}, ["192.168.1.1"]).endswith("address:\n      - '192.168.1.1'\n")
    assert "192.168.1.1" not in cloudinit.network_config({"nameserver": "9.9.9.9 1.1.1.1"}, ["192.168.1.1"])


def test_search_domains_follow_the_resolvers() -> None:
    text = cloudinit.network_config({"nameserver": "9.9.9.9", "searchdomain": "a.example b.example"})

    assert text.endswith("      search:\n      - 'a.example'\n      - 'b.example'\n")


def test_an_address_without_prefix_is_refused() -> None:
    with pytest.raises(GuestError, match=r"not a CIDR: 10\.0\.0\.5"):
        cloudinit.network_config({**NIC, "ipconfig0": "ip=10.0.0.5"})


def test_the_instance_is_named_after_both_texts() -> None:
    expected = hashlib.sha1(b"user\nnetwork\n", usedforsecurity=False).hexdigest()

    assert cloudinit.meta_data("user\n", "network\n") == f"instance-id: {expected}\n"


@pytest.mark.parametrize(
    ("config", "volid"),
    [
        ({"ide2": "local:106/vm-106-cloudinit.qcow2,media=cdrom"}, "local:106/vm-106-cloudinit.qcow2"),
        ({"scsi1": "local:cloudinit"}, "local:cloudinit"),
        ({"ide2": "none,media=cdrom", "scsi0": "local:106/vm-106-disk-0.qcow2"}, None),
    ],
)
def test_which_drive_carries_it(config: dict[str, str], volid: str | None) -> None:
    assert cloudinit.cloudinit_drive(config) == volid
