"""QEMU's argument list from a config: what each option turns into, and what cannot run here."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.qemu_command import (
    GuestFiles,
    Host,
    agent_is_enabled,
    memory_mib,
    qemu_command,
)
from vi_ops.lab.qemu_nic import guest_address
from vi_ops.lab.qemu_option import Surroundings, boot_order

RUN = Path("/lab/run")
FILES = GuestFiles(
    pid=RUN / "106.pid",
    qmp=RUN / "106.qmp",
    agent=RUN / "106.qga",
    serial=RUN / "106.serial0",
    console_log=Path("/lab/log/guests/106.console"),
    qemu_log=Path("/lab/log/guests/106.qemu"),
    temporary_vars=RUN / "106.vars",
)
TCG = Host(has_kvm=False, cpus=4)
KVM = Host(has_kvm=True, cpus=4)
HERE = Surroundings(
    locate=lambda volid: Path("/store") / volid.partition(":")[2],
    bridges={"vmbr0": "192.168.1.1/24"},
    ssh_port=22106,
)
VM106: dict[str, str | int] = {
    "agent": "1",
    "balloon": 0,
    "bios": "ovmf",
    "boot": "order=scsi0;ide2;net0",
    "cores": 2,
    "cpu": "host",
    "efidisk0": "local:106/vm-106-disk-0.raw,efitype=4m,pre-enrolled-keys=0,size=528K",
    "ide2": "local:106/vm-106-cloudinit.qcow2,media=cdrom",
    "ipconfig0": "ip=192.168.1.106/24,gw=192.168.1.1",
    "machine": "q35",
    "memory": "1536",
    "name": "video-intelligence",
    "net0": "virtio=BC:24:11:5D:A6:1C,bridge=vmbr0",
    "scsi0": "local:106/vm-106-disk-1.qcow2,discard=on,iothread=1,size=2400M,ssd=1",
    "scsihw": "virtio-scsi-single",
    "serial0": "socket",
    "smbios1": "uuid=8c46a5a2-2f39-423d-b185-9cb819a9ff51",
    "sockets": 1,
    "vmgenid": "c5d48eae-bfd2-4513-9643-df3c8f6c77e8",
}


def command(
    changes: dict[str, str | int | None] | None = None, host: Host = TCG, around: Surroundings = HERE
) -> tuple[str, ...]:
    config = {key: value for key, value in {**VM106, **(changes or {})}.items() if value is not None}
    return qemu_command(106, config, FILES, host, around)


def values(argv: tuple[str, ...], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


def device(argv: tuple[str, ...], start: str) -> str:
    (found,) = [text for text in values(argv, "-device") if text.startswith(start)]
    return found


def drive(argv: tuple[str, ...], name: str) -> str:
    (found,) = [text for text in values(argv, "-drive") if f"id=drive-{name}" in text.split(",")]
    return found


def test_a_q35_with_ovmf() -> None:
    argv = command()

    assert argv[0] == "qemu-system-x86_64"
    assert values(argv, "-machine")[0].startswith("q35,smm=off")
    assert values(argv, "-m") == ["1536"]
    assert values(argv, "-smp") == ["2,sockets=1,cores=2,maxcpus=2"]
    assert values(argv, "-drive")[0].endswith("readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd")
    assert drive(argv, "efidisk0").endswith("format=raw,file=/store/106/vm-106-disk-0.raw")
    assert values(argv, "-smbios") == ["type=1,uuid=8c46a5a2-2f39-423d-b185-9cb819a9ff51"]
    assert device(argv, "vmgenid") == "vmgenid,guid=c5d48eae-bfd2-4513-9643-df3c8f6c77e8"


def test_seabios_needs_no_flash_and_pc_is_the_default() -> None:
    argv = command({"bios": None, "efidisk0": None, "machine": None})

    assert values(argv, "-machine")[0].startswith("pc,")
    assert not [text for text in values(argv, "-drive") if "pflash" in text]


def test_ovmf_without_efidisk_gets_variables_for_this_run() -> None:
    argv = command({"efidisk0": None})

    assert drive(argv, "efidisk0").endswith("file=/lab/run/106.vars")


def test_enrolled_keys_bring_secure_boot() -> None:
    argv = command({"efidisk0": "local:106/vm-106-disk-0.raw,efitype=4m,pre-enrolled-keys=1"})

    assert values(argv, "-machine")[0].startswith("q35,smm=on")
    assert values(argv, "-drive")[0].endswith("OVMF_CODE_4M.secboot.fd")
    assert "driver=cfi.pflash01,property=secure,value=on" in values(argv, "-global")


@pytest.mark.parametrize(
    ("host", "cpu", "accel", "model"),
    [
        (TCG, "host", "tcg", "max"),
        (TCG, "x86-64-v2-AES", "tcg", "max"),
        (KVM, "host", "kvm", "host"),
        (KVM, "x86-64-v2-AES", "kvm", "host"),
        (KVM, "cputype=EPYC,flags=+aes", "kvm", "EPYC"),
        (KVM, None, "kvm", "kvm64"),
    ],
)
def test_processor(host: Host, cpu: str | None, accel: str, model: str) -> None:
    argv = command({"cpu": cpu}, host)

    assert values(argv, "-accel")[0].split(",")[0] == accel
    assert values(argv, "-cpu")[0].split(",")[0] == model


def test_more_processors_than_the_node_has_are_refused() -> None:
    assert command({"cores": 4})
    with pytest.raises(GuestError, match=r"^MAX 4 vcpus allowed per VM on this node$"):
        command({"sockets": 2, "cores": 3})


def test_a_disk_of_virtio_scsi_single_has_its_own_controller_and_thread() -> None:
    argv = command()

    assert "iothread,id=iothread-virtioscsi0" in values(argv, "-object")
    assert device(argv, "virtio-scsi-pci") == "virtio-scsi-pci,id=virtioscsi0,iothread=iothread-virtioscsi0"
    scsi = device(argv, "scsi-hd").split(",")
    assert {"bus=virtioscsi0.0", "drive=drive-scsi0", "id=scsi0", "rotation_rate=1"} <= set(scsi)
    disk = drive(argv, "scsi0").split(",")
    assert {"file=/store/106/vm-106-disk-1.qcow2", "format=qcow2", "discard=unmap"} <= set(disk)


@pytest.mark.parametrize(
    ("option", "changes", "expected"),
    [
        ("virtio1", {}, "virtio-blk-pci,bus=port-virtio1,addr=0x0,drive=drive-virtio1"),
        ("sata2", {}, "ide-hd,bus=ahci0.2,"),
        ("ide1", {}, "ide-hd,bus=ide.1,"),
        ("ide1", {"machine": None}, "ide-hd,bus=ide.0,unit=1,"),
        ("ide3", {"machine": None}, "ide-hd,bus=ide.1,unit=1,"),
        ("scsi3", {"scsihw": "virtio-scsi-pci"}, "scsi-hd,bus=scsihw0.0,scsi-id=3,"),
        ("scsi3", {"scsihw": None}, "scsi-hd,bus=scsihw0.0,scsi-id=3,"),
    ],
)
def test_buses(option: str, changes: dict[str, str | int | None], expected: str) -> None:
    argv = command({"scsi0": None, **changes, option: "local:106/vm-106-disk-7.raw"})

    assert device(argv, expected)
    assert "format=raw" in drive(argv, option).split(",")


def test_a_cdrom_and_an_empty_one() -> None:
    argv = command({"ide0": "none,media=cdrom"})

    assert drive(argv, "ide0") == "if=none,id=drive-ide0,media=cdrom"
    assert drive(argv, "ide2").endswith("vm-106-cloudinit.qcow2,format=qcow2,media=cdrom")
    assert device(argv, "ide-cd,bus=ide.2")


def test_a_comma_in_a_path_is_written_twice() -> None:
    around = Surroundings(lambda volid: Path("/my,store/disk.raw"), HERE.bridges, None)

    assert "file=/my,,store/disk.raw" in drive(command(around=around), "scsi0")


def test_only_listed_devices_are_bootable_in_their_order() -> None:
    argv = command({"boot": "order=net0;scsi0"})

    assert device(argv, "virtio-net-pci").endswith(",bootindex=100")
    assert device(argv, "scsi-hd").endswith(",bootindex=101")
    assert "bootindex" not in device(argv, "ide-cd")
    assert boot_order({}) == ()


def test_a_guest_that_shall_not_boot_has_no_disk() -> None:
    argv = command(around=Surroundings(HERE.locate, HERE.bridges, 22106, boots=False))

    assert not [text for text in values(argv, "-device") if "scsi-hd" in text]
    assert device(argv, "ide-cd")


def test_the_network_is_the_bridge_s() -> None:
    (backend,) = values(command(), "-netdev")
    options = dict(part.split("=", 1) for part in backend.split(",")[1:])

    assert options["net"] == "192.168.1.0/24"
    assert options["dns"] == "192.168.1.1"
    assert options["host"] == "192.168.1.254"
    assert options["hostfwd"] == "tcp:127.0.0.1:22106-192.168.1.106:22"
    card = device(command(), "virtio-net-pci").split(",")
    assert {"mac=BC:24:11:5D:A6:1C", "romfile=", "bus=port-net0", "addr=0x0"} <= set(card)
    assert device(command(), "pcie-root-port,id=port-net0").endswith(",addr=0x12")
    assert options["ipv6"] == "off"


@pytest.mark.parametrize(
    ("ipconfig", "forward"),
    [
        (None, "hostfwd=tcp:127.0.0.1:22106-192.168.1.15:22"),
        ("ip=dhcp", "hostfwd=tcp:127.0.0.1:22106-192.168.1.15:22"),
        ("ip=10.0.0.5/24", None),
    ],
)
def test_ssh_is_forwarded_to_where_the_guest_will_be(ipconfig: str | None, forward: str | None) -> None:
    (backend,) = values(command({"ipconfig0": ipconfig}), "-netdev")

    assert [part for part in backend.split(",") if part.startswith("hostfwd")] == (
        [forward] if forward else []
    )


def test_only_the_first_card_is_forwarded() -> None:
    first, second = values(command({"net1": "e1000=BC:24:11:00:00:01,bridge=vmbr0"}), "-netdev")

    assert "hostfwd" in first
    assert "hostfwd" not in second


def test_an_unknown_bridge_is_refused() -> None:
    with pytest.raises(GuestError, match="bridge 'vmbr7' does not exist"):
        command({"net0": "virtio=BC:24:11:5D:A6:1C,bridge=vmbr7"})


def test_agent_serial_and_balloon_are_there_when_asked_for() -> None:
    argv = command()
    bare = command({"agent": "0", "serial0": None, "balloon": None})

    assert "socket,id=qga0,path=/lab/run/106.qga,server=on,wait=off" in values(argv, "-chardev")
    (serial,) = [text for text in values(argv, "-chardev") if "serial0" in text]
    assert serial.endswith("logfile=/lab/log/guests/106.console")
    assert not [text for text in values(argv, "-device") if "balloon" in text]
    assert [text.split(",")[1] for text in values(bare, "-chardev")] == ["id=qmp"]
    assert device(bare, "virtio-balloon-pci")


@pytest.mark.parametrize(
    ("agent", "is_enabled"),
    [
        ("1", True),
        ("enabled=1,fstrim_cloned_disks=1", True),
        ("0", False),
        ("fstrim_cloned_disks=1", False),
        (1, True),
    ],
)
def test_agent_words(agent: str | int, is_enabled: bool) -> None:
    assert agent_is_enabled({"agent": agent}) is is_enabled


def test_smbios_fields_may_be_base64() -> None:
    argv = command(
        {"smbios1": "base64=1,manufacturer=QUNNRSwgSW5jLg==,uuid=8c46a5a2-2f39-423d-b185-9cb819a9ff51"}
    )

    assert "manufacturer=ACME,, Inc." in values(argv, "-smbios")[0]


def test_args_come_last() -> None:
    assert command({"args": "-device 'edu'"})[-2:] == ("-device", "edu")


@pytest.mark.parametrize(("text", "mib"), [("1536", 1536), ("current=2048", 2048), (None, 512)])
def test_memory(text: str | None, mib: int) -> None:
    assert memory_mib({} if text is None else {"memory": text}) == mib


def test_where_the_guest_will_be() -> None:
    assert guest_address(VM106) == ipaddress.IPv4Address("192.168.1.106")
    assert guest_address({"ipconfig0": "ip=dhcp"}) is None
    assert guest_address({}) is None
