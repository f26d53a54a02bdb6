"""Readiness: each stage reached, waited for, or failed with its cause; and what a ready guest costs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.support.fake_node import CLOUD_INIT_DONE, FakeNode, FakeVm
from tests.support.ssh_server import SshServer, ssh_server
from vi_ops.errors import StepFailed, Unreachable, ViOpsError
from vi_ops.execute import ready
from vi_ops.execute.guest import ConsoleLog, Guest, vouch
from vi_ops.execute.host_key import pin, pinned
from vi_ops.execute.state import SiteState
from vi_ops.facts.cloud_init_status import parse_cloud_init_status
from vi_ops.facts.console import BootStage, boot_stage, no_boot, plain_lines
from vi_ops.facts.ready import addresses_of, parse_apt_busy
from vi_ops.plan.ready import STAGES
from vi_ops.specs.ssh import SshTarget
from vi_ops.specs.vm import DiskSpec, NetworkSpec, UserSpec, VmSpec

HOST_KEY_FILE = "/etc/ssh/ssh_host_ed25519_key.pub"
FIRMWARE = '\x1b[2J\x1b[01;01HBdsDxe: loading Boot0001 "UEFI QEMU HARDDISK"\r\n'
KERNEL = FIRMWARE + "[    0.000000] Linux version 6.12.0 (debian)\r\n"


def spec(ssh: SshTarget, address: str = "192.168.1.106/24") -> VmSpec:
    return VmSpec(
        host="vm106",
        ssh=ssh,
        node="pve1",
        vmid=106,
        name="video-intelligence",
        image="debian-13",
        user=UserSpec(name="smith"),
        disk=DiskSpec(storage="local", size=4 * 1024**3),
        network=NetworkSpec(address=address),
    )


@dataclass
class Scene:
    """A guest behind a fake node and a real SSH server."""

    node: FakeNode
    guest: Guest
    server: SshServer
    told: list[str] = field(default_factory=list)

    @property
    def vm(self) -> FakeVm:
        return self.node.vms[106]

    def wait(self, stage: str, deadline_s: float = 0.0) -> str:
        return ready.wait_until(stage, self.guest, deadline_s, sleep=lambda seconds: None)

    def fails(self, stage: str, deadline_s: float = 0.0) -> ViOpsError:
        with pytest.raises(ViOpsError) as caught:
            self.wait(stage, deadline_s)
        return caught.value


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    state = SiteState(tmp_path)
    with ssh_server(tmp_path) as server:
        vm = FakeVm(status="running")
        vm.files[HOST_KEY_FILE] = f"{server.host_key.type} {server.host_key.blob} root@guest\n"
        node = FakeNode(vms={106: vm})
        told: list[str] = []
        guest = Guest(spec(server.target), node, state, tell=told.append)  # type: ignore[arg-type]
        yield Scene(node, guest, server, told)


def test_a_ready_guest_costs_five_reads_and_no_write(scene: Scene) -> None:
    pin(scene.guest.state.known_hosts, "127.0.0.1", scene.server.port, [scene.server.host_key])
    for stage in STAGES:
        scene.wait(stage.name)
    assert scene.node.writes == []
    assert len(scene.node.calls) <= 5
    assert len(scene.server.commands) == 1


def test_the_first_contact_is_vouched_for(scene: Scene) -> None:
    note = scene.wait("ssh", 10)
    assert scene.server.host_key.fingerprint in note
    assert pinned(scene.guest.state.known_hosts, "127.0.0.1", scene.server.port) == (scene.server.host_key,)
    assert any("the agent vouches for it" in line for line in scene.told)


def test_a_guest_that_was_made_anew_is_vouched_for_again(scene: Scene) -> None:
    scene.wait("ssh", 10)
    scene.server.key = paramiko.ECDSAKey.generate()
    scene.vm.files[HOST_KEY_FILE] = f"{scene.server.host_key.type} {scene.server.host_key.blob}"
    scene.guest.vouched = ()
    assert scene.server.host_key.fingerprint in scene.wait("ssh", 10)
    assert any("in place of the one pinned before" in line for line in scene.told)


def test_a_key_that_the_agent_does_not_vouch_for_is_refused(scene: Scene) -> None:
    scene.server.key = paramiko.ECDSAKey.generate()
    error = scene.fails("ssh", 10)
    assert isinstance(error, Unreachable)
    assert error.code == "ssh-host-key-unvouched"


def test_a_wrong_login_is_not_tried_for_long(scene: Scene) -> None:
    scene.server.user_key = paramiko.ECDSAKey.generate()
    error = scene.fails("ssh", 100)
    assert error.code == "ssh-login-refused"
    assert scene.guest.login_refusals == 3


@pytest.mark.parametrize("address", ["192.168.1.55/24", "dhcp"])
def test_an_address_that_the_guest_gets_at_its_next_start_is_not_waited_for(
    scene: Scene, address: str
) -> None:
    scene.guest.spec = spec(scene.server.target, address)
    scene.guest.unread = frozenset({"ipconfig0"})
    for stage in ("address", "ssh", "apt"):
        assert scene.wait(stage).startswith("skipped: net0")
    assert "finished" in scene.wait("cloud-init")
    assert scene.guest.skipped == {"address", "ssh", "apt"}
    assert scene.server.commands == []


def test_an_address_that_does_not_come_is_no_matter_of_the_next_start(scene: Scene) -> None:
    scene.guest.spec = spec(scene.server.target, "192.168.1.55/24")
    for unread in (frozenset[str](), frozenset({"ciuser", "sshkeys"})):
        scene.guest.unread = unread
        assert scene.fails("address").code == "ready-address"
    assert scene.guest.cut_off is None


@pytest.mark.parametrize("key", ["ciuser", "sshkeys", "cicustom"])
def test_a_login_that_the_guest_gets_at_its_next_start_is_tried_and_skipped(scene: Scene, key: str) -> None:
    scene.guest.unread = frozenset({key})
    scene.server.user_key = paramiko.ECDSAKey.generate()
    assert f"the guest gets its {key} at its next start" in scene.wait("ssh", 100)
    assert scene.guest.login_refusals == 3
    assert scene.wait("apt").startswith("skipped: ")


def test_a_login_that_works_already_is_used(scene: Scene) -> None:
    scene.guest.unread = frozenset({"ciuser", "sshkeys", "ipconfig0"})
    for stage in STAGES:
        scene.wait(stage.name)
    assert scene.guest.skipped == set()


def test_the_agent_is_waited_for(scene: Scene) -> None:
    scene.vm.boots = 3
    assert scene.wait("agent", 100) == "the guest agent answers"
    assert scene.told.count("the guest agent does not answer yet") == 3


def test_a_silent_agent_fails_with_the_last_console_lines(scene: Scene, tmp_path: Path) -> None:
    scene.vm.boots = 99
    (tmp_path / "console").write_text(KERNEL + "Kernel panic - not syncing\r\n")
    scene.guest.console = ConsoleLog(tmp_path / "console")
    error = scene.fails("agent")
    assert error.code == "ready-agent"
    for part in ("vm106", "not reached after 0 s", "Kernel panic - not syncing"):
        assert part in error.message


def test_a_guest_that_powers_off_is_noticed_while_another_stage_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_POWER_CHECK_S", 0.0)
    scene.vm.files.pop("/run/cloud-init/status.json")
    scene.vm.status = "stopped"
    scene.node.failing["GET", "/nodes/pve1/qemu/106/agent/file-read"] = StepFailed("pve-agent-silent", "gone")
    error = scene.fails("cloud-init", 100)
    assert error.code == "ready-powered"


@pytest.mark.parametrize("state", ["io-error", "guest-panicked", "internal-error"])
def test_a_guest_that_cannot_go_on_fails_at_once(scene: Scene, state: str) -> None:
    scene.vm.qmpstatus = state
    error = scene.fails("powered", 100)
    assert state in error.message


def test_without_a_console_firmware_and_kernel_are_said_to_be_unobservable(scene: Scene) -> None:
    assert "not observable" in scene.wait("firmware")
    assert "not observable" in scene.wait("kernel")


def test_the_console_shows_how_far_the_boot_is(scene: Scene, tmp_path: Path) -> None:
    scene.vm.boots = 99
    log = tmp_path / "console"
    scene.guest.console = ConsoleLog(log)
    assert scene.fails("firmware").code == "ready-firmware"
    log.write_text(FIRMWARE)
    assert "firmware" in scene.wait("firmware")
    assert scene.fails("kernel").code == "ready-kernel"
    log.write_text(FIRMWARE + "BdsDxe: No bootable option or device was found.\r\n")
    error = scene.fails("kernel")
    assert "found nothing that it can boot: No bootable option or device was found" in error.message
    assert "`qm stop 106`" in str(error.hint)
    log.write_text(KERNEL)
    assert "kernel" in scene.wait("kernel")


def test_a_silent_console_does_not_hold_up_a_guest_whose_agent_answers(scene: Scene, tmp_path: Path) -> None:
    scene.guest.console = ConsoleLog(tmp_path / "absent")
    assert scene.wait("kernel") == "the guest agent answers"


def test_another_address_than_the_specs_is_named(scene: Scene) -> None:
    scene.vm.addresses = ["192.168.1.15/24"]
    error = scene.fails("address")
    assert "192.168.1.15/24, and should have 192.168.1.106/24; a changed one takes" in error.message


def test_a_nic_that_waits_for_a_power_cycle_is_not_looked_for(scene: Scene) -> None:
    scene.vm.running = dict(scene.vm.config)
    scene.vm.config["net0"] = "virtio=BC:24:11:00:00:99,bridge=vmbr0"
    assert "192.168.1.106/24" in scene.wait("address")


def test_with_dhcp_any_address_will_do(scene: Scene) -> None:
    scene.guest.spec = spec(scene.server.target, "dhcp")
    scene.vm.addresses = ["192.168.1.15/24"]
    assert "192.168.1.15/24" in scene.wait("address")
    scene.vm.addresses = []
    assert "no address" in scene.fails("address").message


def test_failed_modules_of_cloud_init_are_listed(scene: Scene) -> None:
    status = json.loads(CLOUD_INIT_DONE)
    status["v1"]["modules-final"]["errors"] = ["('scripts_user', RuntimeError('1 failed'))"]
    scene.vm.files["/run/cloud-init/status.json"] = json.dumps(status)
    error = scene.fails("cloud-init", 100)
    assert error.code == "ready-cloud-init"
    assert "modules-final: ('scripts_user', RuntimeError('1 failed'))" in error.message


def test_package_locks_are_waited_for(scene: Scene) -> None:
    scene.guest.apt_busy = ("apt-get (pid 812) holds /var/lib/dpkg/lock-frontend",)
    pin(scene.guest.state.known_hosts, "127.0.0.1", scene.server.port, [scene.server.host_key])
    assert scene.wait("apt", 20) == "nobody holds the package locks"
    assert "apt-get (pid 812)" in scene.told[0]


def test_an_outage_of_the_api_is_waited_out_and_named_when_it_lasts(scene: Scene) -> None:
    path = "/nodes/pve1/qemu/106/agent/network-get-interfaces"
    scene.node.failing["GET", path] = Unreachable("pve-unreachable", "no answer from pve1")
    assert scene.wait("agent", 10)
    scene.node.failing["GET", path] = Unreachable("pve-unreachable", "no answer from pve1")
    error = scene.fails("agent")
    assert isinstance(error, Unreachable)


def test_two_agent_calls_at_a_time_go_to_one_node(scene: Scene) -> None:
    before = len(scene.node.calls)
    for _ in range(2):
        scene.node.agent_slots.acquire()
    third = threading.Thread(target=scene.guest.ask_agent, args=("network-get-interfaces",), daemon=True)
    third.start()
    third.join(0.2)
    assert len(scene.node.calls) == before
    scene.node.agent_slots.release()
    third.join(5)
    assert len(scene.node.calls) == before + 1


def test_an_interrupt_is_heard(scene: Scene) -> None:
    scene.vm.boots = 99
    with pytest.raises(KeyboardInterrupt):
        ready.wait_until("agent", scene.guest, 100, is_stopped=lambda: True)


def test_an_unknown_stage_is_no_bug(scene: Scene) -> None:
    assert scene.fails("nirvana").code == "ready-stage-unknown"


def test_every_stage_of_a_plan_is_known() -> None:
    assert {stage.name for stage in STAGES} <= ready._LOOKS.keys() == ready._CODES.keys()


def test_keys_of_other_kinds_are_tried_in_order(scene: Scene) -> None:
    key = scene.vm.files.pop(HOST_KEY_FILE)
    scene.vm.files["/etc/ssh/ssh_host_rsa_key.pub"] = key
    assert vouch(scene.guest) == (scene.server.host_key,)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("", BootStage.SILENT),
        ("\x1b[2J\x1b[H", BootStage.SILENT),
        (FIRMWARE, BootStage.FIRMWARE),
        (KERNEL, BootStage.KERNEL),
        (
            KERNEL + "Debian GNU/Linux 13 video-intelligence ttyS0\r\n\r\nvideo-intelligence login: ",
            BootStage.LOGIN,
        ),
    ],
)
def test_boot_stages(text: str, stage: BootStage) -> None:
    assert boot_stage(text) is stage


def test_console_lines_are_plain() -> None:
    assert plain_lines("\x1b[0m[  \x1b[0;32mOK\x1b[0m] Started \x1b]0;t\x07ssh\r\n\r\n\x00 \n", 5) == [
        "[  OK] Started ssh"
    ]


@pytest.mark.parametrize(
    ("interface", "found"),
    [
        ({"ip-addresses": [{"ip-address": "192.168.1.6", "prefix": 24}]}, ("192.168.1.6/24",)),
        ({"ip-addresses": [{"ip-address": "fe80::1%ens18", "prefix": 64}]}, ()),
        ({}, ()),
        (
            {
                "ip-addresses": [
                    {"ip-address": "2001:db8::6", "prefix": 64},
                    {"ip-address": "10.0.0.6", "prefix": 8},
                ]
            },
            ("10.0.0.6/8", "2001:db8::6/64"),
        ),
    ],
)
def test_addresses_are_those_of_the_mac(interface: dict[str, Any], found: tuple[str, ...]) -> None:
    docker = {
        "hardware-address": "02:42:00:00:00:01",
        "ip-addresses": [{"ip-address": "172.17.0.1", "prefix": 16}],
    }
    mine = {"hardware-address": "bc:24:11:00:01:06", **interface}
    assert addresses_of([{"name": "lo"}, docker, mine], "BC:24:11:00:01:06") == found


@pytest.mark.parametrize(
    ("text", "busy"),
    [
        ("end\n", ()),
        ("lock /var/lib/dpkg/lock 812 apt-get\nend\n", ("apt-get (pid 812) holds /var/lib/dpkg/lock",)),
        ("lock /var/lib/dpkg/lock 812 \nend\n", ("a process (pid 812) holds /var/lib/dpkg/lock",)),
        ("unit apt-daily.service\nend\n", ("apt-daily.service is running",)),
    ],
)
def test_who_holds_the_packages(text: str, busy: tuple[str, ...]) -> None:
    assert parse_apt_busy(text) == busy


@pytest.mark.parametrize("text", ["", "lock /var/lib/dpkg/lock 812 apt-get\n"])
def test_an_answer_about_packages_that_was_cut_off_is_no_answer(text: str) -> None:
    with pytest.raises(StepFailed):
        parse_apt_busy(text)


def test_cloud_init_is_finished_only_after_its_last_stage() -> None:
    status = json.loads(CLOUD_INIT_DONE)
    assert parse_cloud_init_status(json.dumps(status)).is_finished
    status["v1"]["stage"] = "modules-final"
    status["v1"]["modules-final"]["finished"] = None
    facts = parse_cloud_init_status(json.dumps(status))
    assert not facts.is_finished
    assert facts.stage == "modules-final"


def test_recoverable_errors_are_warnings_and_deprecations_are_not() -> None:
    status = json.loads(CLOUD_INIT_DONE)
    status["v1"]["init"]["recoverable_errors"] = {"WARNING": ["odd key"], "DEPRECATED": ["old key"]}
    facts = parse_cloud_init_status(json.dumps(status))
    assert (facts.is_finished, facts.errors, facts.warnings) == (True, (), ("init: odd key",))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"v1": {"modules-final": 3}}'])
def test_a_foreign_status_file_is_refused(text: str) -> None:
    with pytest.raises(StepFailed, match="not as expected"):
        parse_cloud_init_status(text)


def test_what_the_ha_manager_starts_is_waited_for(scene: Scene) -> None:
    scene.vm.status = "stopped"
    assert scene.fails("powered").code == "ready-powered"
    looks = iter([("stopped", 1), ("stopped", 1), ("running", 1)])

    def status(path: str) -> Any:
        now, managed = next(looks)
        return {"status": now, "qmpstatus": now, "ha": {"managed": managed}}

    scene.guest.pve.get = status  # type: ignore[method-assign,assignment]
    assert scene.wait("powered", 5) == "QEMU says running"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", None),
        (FIRMWARE, None),
        ("Booting from Hard Disk...\r\nNo bootable device.\r\n", "No bootable device"),
        (FIRMWARE + "\x1b[1mUEFI Interactive Shell v2.2\r\nShell> ", "Shell>"),
        ("error: no such device\r\ngrub rescue> ", "grub rescue>"),
        ("No bootable device.\n" + "the next boot prints\n" * 20, None),
    ],
)
def test_a_boot_that_gave_up_says_so(text: str, words: str | None) -> None:
    assert no_boot(text) == words
