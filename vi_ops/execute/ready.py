"""From power to a guest that can be worked on: each stage looked at until it is reached or its time is up.

What is asked of the node are reads only: an agent call that POSTs nothing proves that the agent lives, and
cloud-init's own status file is read instead of running its command. A guest that is ready already costs
four calls and one SSH connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vi_ops.errors import StepFailed, Unreachable, ViOpsError
from vi_ops.execute.guest import Guest, vouch
from vi_ops.execute.host_key import pinned
from vi_ops.execute.ssh import describe, open_shell
from vi_ops.facts.answer import mapping_of
from vi_ops.facts.cloud_init_status import STATUS_FILE, parse_cloud_init_status
from vi_ops.facts.console import BootStage, boot_stage, no_boot, plain_lines
from vi_ops.facts.ready import APT_BUSY_SCRIPT, addresses_of, parse_apt_busy
from vi_ops.plan.diff import parse_net

_CONSOLE_LINES = 10
_POWER_CHECK_S = 10.0
_LOGIN_REFUSALS = 3
_APT_DEADLINE_S = 30.0

# QEMU's own words for a guest that does not go on by itself (qapi/run-state.json).
_STUCK = {"io-error", "internal-error", "guest-panicked", "shutdown"}
# Answers that mean "not yet": the guest boots, sshd starts, a file is not written, the API is away a while.
_NOT_YET = {
    "pve-agent-silent",
    "pve-agent-error",
    "pve-unreachable",
    "ssh-unreachable",
    "ssh-broken",
    "ssh-host-key",
    "cloud-init-status",
}
# What needs the address and the login that the spec states.
_NEEDS_LOGIN = {"address", "ssh", "apt"}
_SETS_ADDRESS = {"ipconfig0", "net0"}
_SETS_LOGIN = {"ciuser", "sshkeys", "cicustom"}
_CODES = {
    "powered": "ready-powered",
    "created": "ready-created",
    "firmware": "ready-firmware",
    "kernel": "ready-kernel",
    "agent": "ready-agent",
    "address": "ready-address",
    "cloud-init": "ready-cloud-init",
    "ssh": "ready-ssh",
    "apt": "ready-apt",
}


@dataclass(frozen=True)
class Seen:
    """What one look at a stage shows; `cause` is the error that it met, when it met one."""

    is_reached: bool
    note: str
    cause: ViOpsError | None = None


def wait_until(
    stage: str,
    guest: Guest,
    deadline_s: float,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Look at one stage until it is reached; gives what was seen then.

    A stage that needs what the guest reads at its next start only is skipped, and that is what it gives.

    Raises StepFailed or Unreachable with the cause and the last console lines when it cannot be reached,
    or not in time; KeyboardInterrupt when `is_stopped` becomes true.
    """
    look = _LOOKS.get(stage)
    if look is None:
        raise StepFailed("ready-stage-unknown", f"{guest.spec.host}: there is no stage {stage!r}")
    end_s = time.monotonic() + deadline_s
    power_s = time.monotonic() + _POWER_CHECK_S
    pause_s = 0.2
    while True:
        if guest.cut_off and stage in _NEEDS_LOGIN:
            return guest.skip(stage)
        seen = _look(look, guest, stage)
        if seen.is_reached:
            guest.notes[stage] = seen.note
            return seen.note
        if guest.cut_off and stage in _NEEDS_LOGIN:
            return guest.skip(stage)
        if is_stopped():
            raise KeyboardInterrupt
        if time.monotonic() + pause_s > end_s:
            raise _failed(stage, guest, f"not reached after {deadline_s:.0f} s: {seen.note}", seen.cause)
        guest.tell(seen.note)
        if time.monotonic() > power_s and stage != "created":
            _look(_powered, guest, "powered")
            power_s = time.monotonic() + _POWER_CHECK_S
        sleep(pause_s)
        pause_s = min(pause_s * 1.5, 2.0)


def _look(look: Callable[[Guest], Seen], guest: Guest, stage: str) -> Seen:
    try:
        return look(guest)
    except (StepFailed, Unreachable) as error:
        if error.code not in _NOT_YET:
            raise
        return Seen(False, error.message, error)


def _failed(stage: str, guest: Guest, why: str, cause: ViOpsError | None = None) -> ViOpsError:
    lines = plain_lines(guest.console.text(), _CONSOLE_LINES) if guest.console else []
    console = "".join(f"\n    {line}" for line in lines)
    message = f"{guest.spec.host}: stage {stage}: {why}" + (f"\n  console:{console}" if console else "")
    kind = Unreachable if isinstance(cause, Unreachable) else StepFailed
    hint = (
        cause.hint
        if cause and cause.hint
        else f"`vi-ops console {guest.spec.host}` shows what the guest does"
    )
    return kind(_CODES[stage], message, hint=hint)


def _created(guest: Guest) -> Seen:
    config = guest.pve.get(f"{guest.path}/config")
    lock = config.get("lock")
    return Seen(lock != "create", "created" if lock != "create" else "the node is creating it")


def _powered(guest: Guest) -> Seen:
    status = guest.pve.get(f"{guest.path}/status/current")
    state = status.get("qmpstatus", status["status"])
    if status["status"] != "running" and _is_managed(status):
        return Seen(False, "the HA manager has not started it yet")
    if status["status"] != "running":
        raise _failed("powered", guest, f"the VM is {status['status']}")
    if state in _STUCK:
        raise _failed("powered", guest, f"QEMU says {state}")
    return Seen(state == "running", f"QEMU says {state}")


def _is_managed(status: Mapping[str, Any]) -> bool:
    """Whether a start is a request to the HA manager, whose task ends long before the VM runs."""
    return str(mapping_of(status.get("ha")).get("managed", 0)) == "1"


def _firmware(guest: Guest) -> Seen:
    return _boot(guest, BootStage.FIRMWARE, "the serial console is silent")


def _kernel(guest: Guest) -> Seen:
    return _boot(guest, BootStage.KERNEL, "the firmware is at work")


def _boot(guest: Guest, wanted: BootStage, waiting: str) -> Seen:
    """The console tells, where it can be read; an agent that answers tells as well: it runs on a kernel."""
    if guest.console is None:
        return Seen(True, "not observable: the API does not show the console")
    reached = boot_stage(guest.console.text())
    if reached >= wanted:
        return Seen(True, f"seen on the serial console ({reached.name.lower()})")
    if _agent(guest).is_reached:
        return Seen(True, "the guest agent answers")
    if words := no_boot(guest.console.text()):
        return Seen(
            False, f"the firmware found nothing that it can boot: {words}", _not_booting(guest, words)
        )
    return Seen(False, waiting)


def _not_booting(guest: Guest, words: str) -> StepFailed:
    spec = guest.spec
    hint = (
        f"look at scsi0 and the boot order of VM {spec.vmid}; nothing in the guest powers it off:"
        f" `qm stop {spec.vmid}` on {guest.pve.node_name} (in the lab `vi-ops lab down` and `vi-ops lab up`),"
        f" then `vi-ops provision {spec.host}`"
    )
    return StepFailed("ready-kernel", words, hint=hint)


def _agent(guest: Guest) -> Seen:
    try:
        guest.interfaces = list(guest.ask_agent("network-get-interfaces"))
    except (StepFailed, Unreachable) as error:
        if error.code not in _NOT_YET:
            raise
        return Seen(False, "the guest agent does not answer yet", error)
    return Seen(True, "the guest agent answers")


def _address(guest: Guest) -> Seen:
    if guest.mac is None:
        net = str(guest.pve.get(f"{guest.path}/config", current=True).get("net0", ""))  # the NIC in force
        guest.mac = parse_net(net).get("macaddr")
        if guest.mac is None:
            raise _failed("address", guest, f"net0 has no MAC address: {net!r}")
    interfaces, guest.interfaces = guest.interfaces, None
    if interfaces is None:
        interfaces = list(guest.ask_agent("network-get-interfaces"))
    found = addresses_of(interfaces, guest.mac)
    wanted = guest.spec.network.address
    has = f"net0 ({guest.mac}) has {', '.join(found) or 'no address'}"
    waits = guest.unread & _SETS_ADDRESS
    if wanted == "dhcp" and not waits:
        return Seen(any("." in address for address in found), has)
    if wanted in found:
        return Seen(True, has)
    if "net0" in waits or (waits and found):
        guest.cut_off = f"{has}, and gets {'one by DHCP' if wanted == 'dhcp' else wanted} at its next start"
        return Seen(False, guest.cut_off)
    when = "; a changed one takes effect at the VM's next start" if found else ""
    return Seen(False, f"{has}, and should have {wanted}{when}")


def _cloud_init(guest: Guest) -> Seen:
    facts = parse_cloud_init_status(guest.ask_agent("file-read", file=STATUS_FILE)["content"])
    if facts.errors:
        raise _failed(
            "cloud-init", guest, "failed modules:" + "".join(f"\n    {one}" for one in facts.errors)
        )
    if not facts.is_finished:
        return Seen(False, f"cloud-init runs {facts.stage or 'between stages'}")
    if facts.warnings:
        warnings = "a warning" if len(facts.warnings) == 1 else f"{len(facts.warnings)} warnings"
        return Seen(True, f"finished, with {warnings}: {'; '.join(facts.warnings)}")
    return Seen(True, f"finished ({facts.datasource})")


def _ssh(guest: Guest) -> Seen:
    target = guest.spec.ssh
    if not pinned(guest.state.known_hosts, target.host, target.port):
        vouch(guest)
    try:
        with open_shell(target, guest.state.known_hosts) as shell:
            answer = shell.run(["sh", "-c", APT_BUSY_SCRIPT], deadline_s=_APT_DEADLINE_S)
            guest.apt_busy = parse_apt_busy(answer.out)
    except Unreachable as error:
        return _ssh_refused(guest, error)
    key = pinned(guest.state.known_hosts, target.host, target.port)[0]
    return Seen(True, f"{describe(target)}, host key {key.fingerprint}")


def _ssh_refused(guest: Guest, error: Unreachable) -> Seen:
    if error.code == "ssh-host-key-changed":
        if guest.vouched:
            raise Unreachable("ssh-host-key-unvouched", f"{error.message}; the agent vouches for another key")
        vouch(guest)
        return Seen(False, "the guest has a new host key, and its agent vouches for it")
    if error.code == "ssh-login-refused":
        # pam_nologin refuses everybody until the boot is over; a wrong key stays wrong.
        guest.login_refusals += 1
        if guest.login_refusals < _LOGIN_REFUSALS:
            return Seen(False, error.message, error)
        if waits := guest.unread & _SETS_LOGIN:
            guest.cut_off = (
                f"{error.message}; the guest gets its {', '.join(sorted(waits))} at its next start"
            )
            return Seen(False, guest.cut_off, error)
    raise error


def _apt(guest: Guest) -> Seen:
    busy, guest.apt_busy = guest.apt_busy, None
    if busy is None:
        with open_shell(guest.spec.ssh, guest.state.known_hosts) as shell:
            busy = parse_apt_busy(shell.run(["sh", "-c", APT_BUSY_SCRIPT], deadline_s=_APT_DEADLINE_S).out)
    return Seen(not busy, "; ".join(busy) or "nobody holds the package locks")


_LOOKS: dict[str, Callable[[Guest], Seen]] = {
    "created": _created,
    "powered": _powered,
    "firmware": _firmware,
    "kernel": _kernel,
    "agent": _agent,
    "address": _address,
    "cloud-init": _cloud_init,
    "ssh": _ssh,
    "apt": _apt,
}
