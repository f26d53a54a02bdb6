"""Guests as processes, with a real QEMU that sits in its firmware: no image is needed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from vi_ops.lab import accelerator, cloudinit, console, daemon, guest, volume
from vi_ops.lab import process as qemu_process
from vi_ops.lab.fault import Fault
from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.store import write_json
from vi_ops.units import GIB, MIB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"
    ),
]
VMID = 106
BARE: Mapping[str, str | int] = {"name": "bare", "memory": 64, "agent": 1, "serial0": "socket"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    async def no(_home: Path) -> bool:
        return False

    monkeypatch.setattr(accelerator, "has_kvm", no)
    node = Node(tmp_path / "lab", "9.2")
    yield node
    asyncio.run(guest.stop(node, VMID, 5))


def start(node: Node, **changes: str | int) -> list[str]:
    log: list[str] = []
    asyncio.run(guest.start(node, VMID, {**BARE, **changes}, log.append))
    return log


def status(node: Node) -> dict[str, object]:
    return asyncio.run(guest.status(node, VMID))


def wait_for_console(node: Node, text: str, deadline_s: float = 30.0) -> None:
    until = time.monotonic() + deadline_s
    while not any(text in line for line in console.last_lines(node.log_dir, VMID, 200)):
        assert time.monotonic() < until, console.last_lines(node.log_dir, VMID)
        time.sleep(0.1)


def test_from_start_to_stop(node: Node) -> None:
    assert status(node) == {"status": "stopped", "qmpstatus": "stopped"}

    assert start(node) == []

    seen = status(node)
    assert (seen["status"], seen["qmpstatus"]) == ("running", "running")
    assert str(seen["running-machine"]).startswith("pc-i440fx-")
    assert seen["cpu"] == 0.0
    assert isinstance(seen["mem"], int)
    assert seen["mem"] > 10 * MIB
    with pytest.raises(GuestError, match=r"^VM 106 already running$"):
        start(node)
    process = psutil.Process(int(str(seen["pid"])))
    assert process.ppid() != os.getpid(), "the guest would die with the lab"

    asyncio.run(guest.stop(node, VMID))

    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not asyncio.run(guest.is_running(node, VMID))
    asyncio.run(guest.stop(node, VMID))


def test_a_guest_outlives_the_process_that_started_it_and_is_found_again(node: Node) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from vi_ops.lab import accelerator, guest\n"
        "from vi_ops.lab.node import Node\n"
        "async def no(home): return False\n"
        "accelerator.has_kvm = no\n"
        f"asyncio.run(guest.start(Node(Path(sys.argv[1]), '9.2'), {VMID}, {dict(BARE)!r}, print))\n"
    )
    subprocess.run([sys.executable, "-c", program, node.home], check=True, timeout=60)

    assert status(node)["qmpstatus"] == "running"


def test_a_pid_that_went_to_another_program_is_nobody_s_guest(node: Node) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (node.run_dir / f"{VMID}.pid").write_text(f"{other.pid}\n")

        assert not asyncio.run(guest.is_running(node, VMID))
        asyncio.run(guest.stop(node, VMID, 1))
        assert other.poll() is None
        start(node)
        assert status(node)["pid"] != other.pid
        other.kill()


def test_a_guest_that_was_killed_is_gone(node: Node) -> None:
    start(node)
    os.kill(int(str(status(node)["pid"])), signal.SIGKILL)

    until = time.monotonic() + 5
    while asyncio.run(guest.is_running(node, VMID)):
        assert time.monotonic() < until
        time.sleep(0.05)
    start(node)
    assert status(node)["qmpstatus"] == "running"


def test_two_starts_at_once_make_one_guest(node: Node) -> None:
    async def run() -> list[object]:
        starts = (guest.start(node, VMID, BARE, lambda _text: None) for _ in range(2))
        return await asyncio.gather(*starts, return_exceptions=True)

    results = asyncio.run(run())

    assert sorted(str(result) for result in results) == ["None", "VM 106 already running"]


def test_qemu_s_own_words_are_in_the_log(node: Node) -> None:
    log: list[str] = []
    with pytest.raises(GuestError, match=r"^start failed: QEMU exited with code 1$"):
        asyncio.run(guest.start(node, VMID, {**BARE, "scsi0": "local:106/nope.qcow2"}, log.append))

    assert len(log) == 1
    assert "nope.qcow2': No such file or directory" in log[0]
    assert not asyncio.run(guest.is_running(node, VMID))


def test_pause_and_resume_and_reset(node: Node) -> None:
    start(node)
    pid = status(node)["pid"]

    asyncio.run(guest.suspend(node, VMID))
    assert status(node)["qmpstatus"] == "paused"
    with pytest.raises(GuestError, match=r"^VM is paused - cannot shutdown$"):
        asyncio.run(guest.shutdown(node, VMID, 5))
    asyncio.run(guest.resume(node, VMID))
    assert status(node)["qmpstatus"] == "running"
    asyncio.run(guest.reset(node, VMID))
    assert status(node)["pid"] == pid
    asyncio.run(guest.suspend(node, VMID))
    asyncio.run(guest.shutdown(node, VMID, 5, force=True))
    assert status(node)["qmpstatus"] == "stopped"


@pytest.mark.parametrize("act", [guest.reset, guest.suspend, guest.resume])
def test_what_needs_a_running_guest_says_so(node: Node, act: object) -> None:
    with pytest.raises(GuestError, match=r"^VM 106 not running$"):
        asyncio.run(act(node, VMID))  # type: ignore[operator]
    with pytest.raises(GuestError, match=r"^VM 106 is not running$"):
        asyncio.run(guest.agent(node, VMID, "guest-ping"))


def test_a_guest_that_does_not_shut_down_fails_or_is_killed(node: Node) -> None:
    start(node)
    log: list[str] = []

    # A firmware has nobody who hears the power button, and no agent.
    with pytest.raises(GuestError, match=r"^VM quit/powerdown failed - got timeout$"):
        asyncio.run(guest.shutdown(node, VMID, 3.5, log=log.append, agent=True))
    assert log == ["QEMU Guest Agent is not running - VM 106 qga command 'guest-ping' failed - got timeout"]
    assert asyncio.run(guest.is_running(node, VMID))

    log.clear()
    asyncio.run(guest.shutdown(node, VMID, 0.5, force=True, log=log.append))
    assert log == ["VM still running - terminating now with SIGTERM"]
    assert not asyncio.run(guest.is_running(node, VMID))


def test_stop_ends_a_qemu_that_does_not_listen(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_process, "_TERM_S", 1.0)
    start(node)
    process = psutil.Process(int(str(status(node)["pid"])))
    process.suspend()
    try:
        log: list[str] = []
        asyncio.run(guest.stop(node, VMID, 0.5, log.append))
    finally:
        if process.is_running():
            process.kill()

    assert log == [
        "VM still running - terminating now with SIGTERM",
        "VM still running - terminating now with SIGKILL",
    ]
    assert not asyncio.run(guest.is_running(node, VMID))


def test_a_qemu_that_does_not_listen_still_has_a_status(node: Node) -> None:
    start(node)
    process = psutil.Process(int(str(status(node)["pid"])))
    process.suspend()
    try:
        seen = status(node)
    finally:
        process.resume()

    assert (seen["status"], seen["pid"]) == ("running", process.pid)
    assert "diskread" not in seen


def test_a_disk_grows_under_a_running_guest(node: Node) -> None:
    volid = asyncio.run(volume.allocate(node, "local", VMID, GIB))
    start(node, scsi0=f"{volid},size=1G", scsihw="virtio-scsi-single")

    asyncio.run(guest.resize_disk(node, VMID, "scsi0", volid, 2 * GIB))
    with pytest.raises(GuestError, match=r"^shrinking disks is not supported$"):
        asyncio.run(guest.resize_disk(node, VMID, "scsi0", volid, GIB))

    assert asyncio.run(volume.size(node, volid)) == 2 * GIB


def test_a_running_guest_finds_the_new_medium_in_its_drive(node: Node) -> None:
    volid = asyncio.run(volume.allocate_cloudinit(node, "local", VMID))
    config = {**BARE, "ide2": f"{volid},media=cdrom"}
    assert start(node, **config) == ["generating cloud-init ISO"]
    path = volume.path(node, volid)
    before = path.stat().st_ino
    assert before in opened(node)

    asyncio.run(cloudinit.build_iso(node, VMID, {**config, "name": "other"}, lambda _text: None))
    asyncio.run(guest.change_medium(node, VMID, "ide2", path, "qcow2"))

    assert before not in opened(node)
    assert path.stat().st_ino in opened(node)


def opened(node: Node) -> set[int]:
    """The inodes that the guest's QEMU has open."""
    folder = Path("/proc") / str(status(node)["pid"]) / "fd"
    return {fd.stat().st_ino for fd in folder.iterdir()}


def test_a_silent_agent_keeps_its_caller_waiting(node: Node) -> None:
    start(node)
    node.faults.inject(Fault("agent-silent", vmid=VMID))
    began = time.monotonic()

    with pytest.raises(GuestError, match=r"^VM 106 qga command 'guest-ping' failed - got timeout$"):
        asyncio.run(guest.agent(node, VMID, "guest-ping", timeout_s=0.3))
    assert time.monotonic() - began >= 0.3


def test_a_guest_that_shall_not_boot_has_no_disk_this_once(node: Node) -> None:
    node.faults.inject(Fault("no-boot", vmid=VMID, count=1))
    disk = {"scsi0": "local:106/nope.qcow2"}

    start(node, **disk)
    asyncio.run(guest.stop(node, VMID))
    with pytest.raises(GuestError, match="start failed"):
        start(node, **disk)


def test_sockets_find_room_below_a_deep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no(_home: Path) -> bool:
        return False

    monkeypatch.setattr(accelerator, "has_kvm", no)
    deep = Node(tmp_path / "a-folder-with-a-long-name" / ("x" * 100) / "lab", "9.2")
    try:
        start(deep)
        assert status(deep)["qmpstatus"] == "running"
        sockets = console.socket_dir(deep.run_dir)
        assert len(os.fsencode(sockets)) < 60
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert console.socket_path(deep.run_dir, VMID).is_socket()
    finally:
        asyncio.run(guest.stop(deep, VMID, 5))
        shutil.rmtree(console.socket_dir(deep.run_dir))


@pytest.mark.timeout(180)
@pytest.mark.skipif(not volume.FIRMWARE.exists(), reason="OVMF is not installed")
def test_ovmf_runs_and_its_console_is_kept(node: Node) -> None:
    efidisk, _ = asyncio.run(volume.allocate_efidisk(node, "local", VMID))
    start(node, bios="ovmf", machine="q35", efidisk0=f"{efidisk},efitype=4m", memory=256)

    wait_for_console(node, "BdsDxe", 90)
    assert str(status(node)["running-machine"]).startswith("pc-q35-")
    lines = console.last_lines(node.log_dir, VMID, 3)
    assert len(lines) <= 3
    assert all(line.isprintable() and line == line.strip() for line in lines)


def test_ssh_ports_end_where_ports_end(node: Node) -> None:
    log: list[str] = []
    write_json(node.home / "lab.json", {"ssh_port_base": 65535})
    crowded = Node(node.home, "9.2")
    config = {**BARE, "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"}

    asyncio.run(guest.start(crowded, VMID, config, log.append))

    assert log == ["no port is left for SSH to VM 106: 65535 + 106 is above 65535"]


FAKE_QEMU = """#!/bin/sh
for word; do case "$word" in file:*) serial=${word#file:};; esac; done
%s
"""


@pytest.mark.skipif(not volume.FIRMWARE.exists(), reason="OVMF is not installed")
@pytest.mark.parametrize(
    ("behaviour", "works"),
    [
        ('echo "BdsDxe: loading Boot0000" > "$serial"; exec sleep 60', True),
        ("exit 1", False),
        ('echo "SeaBIOS" > "$serial"; exec sleep 60', False),
    ],
)
def test_kvm_counts_only_when_a_firmware_runs_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, works: bool
) -> None:
    qemu = tmp_path / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.write_text(FAKE_QEMU % behaviour)
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{qemu.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(accelerator.os, "access", lambda *_: True)
    monkeypatch.setattr(accelerator, "_DEADLINE_S", 1.0)

    assert asyncio.run(accelerator.has_kvm(tmp_path)) is works
    qemu.write_text("#!/bin/sh\nexit 1\n")
    assert asyncio.run(accelerator.has_kvm(tmp_path)) is works, "the verdict was not kept"


def test_a_console_that_somebody_talks_to_is_taken(node: Node) -> None:
    start(node)
    taken = [daemon.is_console_taken(node.home, VMID)]  # no lab.json yet: no lab there
    write_json(node.home / "lab.json", {"release": "9.2", "node": "pve1"})
    taken.append(daemon.is_console_taken(node.home, VMID))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(str(console.socket_path(node.run_dir, VMID)))
        taken.append(daemon.is_console_taken(node.home, VMID))
    taken.append(daemon.is_console_taken(node.home, VMID))
    asyncio.run(guest.stop(node, VMID))
    taken.append(daemon.is_console_taken(node.home, VMID))
    assert taken == [False, False, True, False, False]
