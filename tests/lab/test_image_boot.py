"""The built image: its disk, its first boot under both firmwares, and equal bytes when it is built again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vi_ops.execute.image import image_path, read_built, recipe_of
from vi_ops.facts.image import BuiltImage
from vi_ops.plan.image import plan_layout
from vi_ops.share import share_path
from vi_ops.specs.image import find_image

NAME = "debian-13"
IMAGE = image_path(NAME)
FIRMWARE = Path("/usr/share/OVMF")
# 55 s alone on two cores under TCG, and then cloud-init ends; the suite may share them with other guests.
BOOT_DEADLINE_S = 420
DISK_GIB = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMAGE.exists(), reason="no guest image is built: vi-ops image build debian-13"),
]

# Runs in the guest at the end of its first boot, and says on the serial console how it came out.
USER_DATA = """#cloud-config
users: [{name: smith, sudo: 'ALL=(ALL) NOPASSWD:ALL', shell: /bin/bash}]
runcmd:
  - |
    say() { echo "vi-ops: $1=$2" > /dev/ttyS0; }
    sleep 1
    say failed "$(systemctl list-units --failed --plain --no-legend | tr '\\n' ';')"
    say root_mib "$(df --output=size -m / | tail -1 | tr -d ' ')"
    say efi "$([ -d /sys/firmware/efi ] && echo yes || echo no)"
    say secure "$(mokutil --sb-state 2>/dev/null | head -1)"
    say keys "$(ls /etc/ssh/ssh_host_*_key | wc -l)"
    say machine "$(tr -d '\\n' < /etc/machine-id | wc -c)"
    say address "$(ip -4 -o address show scope global | awk '{print $2, $4}')"
    say resolv "$(grep -c '^nameserver' /run/systemd/resolve/resolv.conf)"
    say agent "$(systemctl is-enabled qemu-guest-agent.service)"
    say python "$(python3 -c 'import apt; print(apt.__name__)')"
    say sources "$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | tr '\\n' ';')"
    say suites "$(apt-get --print-uris update | grep -o 'dists/[a-z-]*' | sort -u | tr '\\n' ' ')"
    say mirrors "$(cd /etc/apt/mirrors && grep -H . * | tr '\\n' ';')"
    say esp "$(ls /boot/efi/EFI | tr '\\n' ' ')"
power_state: {mode: poweroff, delay: now}
"""
NETWORK = """version: 1
config:
  - type: physical
    name: eth0
    mac_address: 'bc:24:11:00:00:06'
    subnets: [{type: static, address: 192.168.1.106, netmask: 255.255.255.0, gateway: 192.168.1.1}]
  - {type: nameserver, address: [192.168.1.3], search: [lan]}
"""


def raw_disk(image: Path, folder: Path) -> Path:
    raw = folder / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
    return raw


def record() -> BuiltImage:
    built = read_built(NAME)
    assert built is not None, f"{IMAGE} has no record that fits it"
    return built


def test_the_disk_is_as_planned(tmp_path: Path) -> None:
    built, spec = record(), find_image(NAME)
    assert spec.build is not None
    raw = raw_disk(IMAGE, tmp_path)
    told = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", str(IMAGE)], capture_output=True).stdout
    )
    assert (told["format"], told["virtual-size"]) == ("qcow2", built.raw_bytes)
    assert "backing-filename" not in told  # a node refuses an import that refers to another file
    layout = plan_layout(spec.build.disk)
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    listed = subprocess.run(
        ["sfdisk", "--json", str(raw)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    table = json.loads(listed.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    assert {(part["start"] * 512, part["size"] * 512) for part in table["partitions"]} == {
        (part.start_bytes, part.size_bytes) for part in layout.partitions
    }
    checked = subprocess.run(
        ["e2fsck", "-fn", f"{raw}?offset={layout.root.start_bytes}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_unique_to_a_machine_is_not_in_the_image(tmp_path: Path) -> None:
    start = plan_layout(record().raw_bytes).root.start_bytes
    raw = f"{raw_disk(IMAGE, tmp_path)}?offset={start}"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"

    def inside(request: str) -> str:
        done = subprocess.run(
            ["debugfs", "-R", request, raw], capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        return done.stdout

    assert "Size: 0" in inside("stat /etc/machine-id")
    assert "ssh_config" in inside("ls -p /etc/ssh")
    assert "ssh_host_" not in inside("ls -p /etc/ssh")
    assert inside("cat /etc/hostname") == ""
    assert re.search(r"^root:[*!]", inside("cat /etc/shadow"), re.MULTILINE)
    sources = [line.split("/")[5] for line in inside("ls -p /etc/apt/sources.list.d").splitlines() if line]
    assert sources == [".", "..", "debian.sources"]
    assert "sources.list/" not in inside("ls -p /etc/apt")  # mmdebstrap leaves the mirror there
    assert "99mmdebstrap" not in inside("ls -p /etc/dpkg/dpkg.cfg.d")


def firmware(kind: str, folder: Path) -> list[str]:
    if kind == "seabios":
        return []
    variables = folder / "vars.fd"
    shutil.copy(FIRMWARE / "OVMF_VARS_4M.ms.fd", variables)
    return [
        *("-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.secboot.fd'}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
    ]


def seed_disc(folder: Path) -> Path:
    """A cloud-init drive as Proxmox makes them: NoCloud, label `cidata`."""
    seed = folder / "seed"
    seed.mkdir()
    for name, text in (
        ("user-data", USER_DATA),
        ("meta-data", "instance-id: vi-ops-test\nlocal-hostname: video\n"),
        ("network-config", NETWORK),
    ):
        (seed / name).write_text(text)
    disc = folder / "seed.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-R", "-o", str(disc), str(seed)],
        check=True,
        capture_output=True,
    )
    return disc


def boot(kind: str, folder: Path) -> Mapping[str, str]:
    """One first boot until the guest powers itself off; gives what it said of itself."""
    disk, serial = folder / "disk.qcow2", folder / "serial.log"
    backing = ["-b", str(IMAGE), "-F", "qcow2"]
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), f"{DISK_GIB}G"], check=True
    )
    argv = [
        *("qemu-system-x86_64", "-M", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", "1024", "-nodefaults", "-vga", "none", "-display", "none"),
        *("-serial", f"file:{serial}", "-device", "virtio-scsi-pci,id=scsi"),
        *("-drive", f"file={disk},if=none,id=disk", "-device", "scsi-hd,drive=disk,bus=scsi.0,bootindex=1"),
        *("-drive", f"file={seed_disc(folder)},if=none,id=seed,media=cdrom,readonly=on"),
        *("-device", "ide-cd,drive=seed,bus=ide.1"),
        *("-netdev", "user,id=net,restrict=on,net=192.168.1.0/24,host=192.168.1.1"),
        *("-device", "virtio-net-pci,netdev=net,mac=bc:24:11:00:00:06"),
        *firmware(kind, folder),
    ]
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=BOOT_DEADLINE_S, check=True)
    except subprocess.TimeoutExpired:
        tail = serial.read_text("utf-8", "replace")[-2000:]
        pytest.fail(f"no end of the first boot; the console ends with:\n{tail}")
    console = serial.read_text("utf-8", "replace")
    said = dict(re.findall(r"vi-ops: (\w+)=(.*?)\r?\n", console))
    assert said, console[-2000:]
    return said


def check_apt(said: Mapping[str, str]) -> None:
    """Nothing but the shipped sources, and cloud-init has named a mirror for both of their archives."""
    shipped = share_path("templates") / "image" / NAME / "late/etc/apt/sources.list.d/debian.sources.j2"
    spec = find_image(NAME)
    assert spec.build is not None
    suite = spec.build.suite
    assert said["sources"] == shipped.read_text().replace("{{ suite }}", suite).replace("\n", ";")
    assert re.fullmatch(
        r"debian-security\.list:https?://\S+/debian-security;debian\.list:https?://\S+/debian;",
        said["mirrors"],
    )
    read_by_apt = {word.removeprefix("dists/") for word in said["suites"].split()}
    assert read_by_apt == {suite, f"{suite}-updates", f"{suite}-security"}


@pytest.mark.timeout(BOOT_DEADLINE_S + 60)
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize("kind", ["seabios", "secure-boot"])
def test_a_first_boot_ends_well(kind: str, tmp_path: Path) -> None:
    if kind != "seabios" and not (FIRMWARE / "OVMF_VARS_4M.ms.fd").exists():
        pytest.skip("ovmf is not installed")
    said = boot(kind, tmp_path)
    assert said["failed"] == ""
    assert int(said["root_mib"]) > (DISK_GIB - 1) * 1024  # grown from 2 GiB
    assert said["efi"] == ("no" if kind == "seabios" else "yes")
    assert kind == "seabios" or said["secure"] == "SecureBoot enabled"
    assert said["keys"] == "2"
    assert said["machine"] == "32"
    assert said["address"] == "eth0 192.168.1.106/24"
    assert said["resolv"] == "1"
    assert said["python"] == "apt"
    check_apt(said)
    assert said["esp"].split() == ["BOOT", "debian"]


@pytest.mark.timeout(1200)
def test_the_same_inputs_give_equal_bytes(tmp_path: Path) -> None:
    """Builds again, far from the cache; a second time if the mirror has changed since the cached build."""
    spec = find_image(NAME)

    def build(folder: Path) -> BuiltImage:
        done = subprocess.run(
            [sys.executable, "-m", "vi_ops", "image", "build", NAME, "--json"],
            env={**os.environ, "VI_OPS_CACHE_DIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=560,
            check=False,
        )
        if '"code": "image-mirror"' in done.stderr:
            pytest.skip("no Debian mirror can be reached")
        if '"code": "image-no-namespaces"' in done.stderr:
            pytest.skip("this system lets only root build an image")
        assert done.returncode == 0, done.stderr
        fields = json.loads(done.stdout)
        assert fields.pop("changed")
        fields.pop("path")
        return BuiltImage(**fields)

    one, two = record(), build(tmp_path / "two")
    if (one.recipe, one.epoch) != (recipe_of(spec).digest, two.epoch):
        shutil.rmtree(tmp_path / "two")
        one, two = two, build(tmp_path / "three")
    assert one.packages == two.packages, "the mirror changed between the builds"
    assert one.raw_sha256 == two.raw_sha256
    assert one.tools != two.tools or one.sha256 == two.sha256
