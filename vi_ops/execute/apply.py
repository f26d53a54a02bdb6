"""Carrying out a plan: step by step, each written down before it is begun, each with its deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, assert_never

from vi_ops.errors import LockHeld, Refused, StepFailed, ViOpsError
from vi_ops.execute.ansible import run_playbook
from vi_ops.execute.guest import Guest
from vi_ops.execute.journal import Journal
from vi_ops.execute.pve import Pve, task_failed
from vi_ops.execute.ready import wait_until
from vi_ops.facts.task import is_upid
from vi_ops.plan.deadline import copy_deadline_s, start_deadline_s, stop_deadline_s
from vi_ops.plan.diff import is_same
from vi_ops.plan.step import Plan, Playbook, PveCall, Step, WaitUntil

PLAYBOOK_DEADLINE_S = 1800.0
_CALL_DEADLINE_S = 300.0


class Listener(Protocol):
    """Who is told what happens: each step is started once, and stopped or failed once."""

    def start(self, title: str) -> None:
        """A step begins."""

    def note(self, text: str) -> None:
        """Something that the step waits for, or a line of the node's own log."""

    def stop(self, text: str = "") -> None:
        """The step is done; `text` says with what result."""

    def skip(self, text: str) -> None:
        """The step was left out; `text` says why."""

    def fail(self, text: str) -> None:
        """The step failed."""


@dataclass
class Work:
    """One run on one VM: what carrying out a plan needs, and how far it is."""

    guest: Guest
    inventory: Path
    journal: Journal
    run: int
    listener: Listener
    is_stopped: Callable[[], bool] = lambda: False
    # An import reads and writes a whole image: more than two at once make a node's disks crawl.
    create_slots: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))
    done: list[Step] = field(default_factory=list)
    at: Step | None = None
    upid: str | None = None


def apply_plan(plan: Plan, work: Work) -> None:
    """Carry out the steps of a plan in order.

    Raises the error of the step that failed, with the step, its target and what was done before in the
    message. Nothing is undone: what is done is found by the next run.
    """
    steps = plan.steps
    ids = work.journal.plan_steps(
        work.run, [step.key for step in steps], [step.title or step.because for step in steps]
    )
    for step, number in zip(steps, ids, strict=True):
        if work.is_stopped():
            raise KeyboardInterrupt
        work.at, work.upid = step, None
        work.listener.start(step.title or step.because)
        work.journal.begin_step(number)
        try:
            result = _perform(step, number, work)
        except ViOpsError as error:
            work.journal.end_step(number, "refused" if isinstance(error, (Refused, LockHeld)) else error.code)
            work.listener.fail(error.message)
            raise _in_step(error, step, plan, work) from error
        except KeyboardInterrupt:
            work.journal.end_step(number, "interrupted")
            raise
        if _is_skipped(step, work.guest):
            work.journal.end_step(number, "skipped")
            work.listener.skip(result)
            continue
        work.journal.end_step(number, "ok")
        work.listener.stop(result)
        work.done.append(step)
    work.at = work.upid = None


def _perform(step: Step, number: int, work: Work) -> str:
    match step.do:
        case PveCall():
            return _call(step.do, number, work)
        case WaitUntil(stage, deadline_s):
            return wait_until(stage, work.guest, deadline_s, is_stopped=work.is_stopped)
        case Playbook(name, host):
            return work.guest.skip(name) if work.guest.cut_off else _play(name, host, work)
        case _:
            assert_never(step.do)


def _is_skipped(step: Step, guest: Guest) -> bool:
    match step.do:
        case WaitUntil(stage, _):
            return stage in guest.skipped
        case Playbook(name, _):
            return name in guest.skipped
    return False


def _call(call: PveCall, number: int, work: Work) -> str:
    if _is_create(call):
        with work.create_slots:
            return _send(call, number, work)
    return _send(call, number, work)


def _send(call: PveCall, number: int, work: Work) -> str:
    pve, listener = work.guest.pve, work.listener
    data = pve.write(call, lambda: has_landed(call, pve, work.guest.path))
    if not is_upid(data):
        return "done"
    work.upid = data
    work.journal.note_upid(number, data)
    result = pve.wait(data, call_deadline_s(call, work.guest), listener.note)
    if call.path.endswith("/status/start") and result.exitstatus.endswith("already running"):
        return "somebody else was faster: it runs"
    if not result.is_ok:
        raise task_failed(result, f"{call.method} {call.path}")
    for warning in result.warnings:
        listener.note(f"warning: {warning}")
    number = len(result.warnings)
    return f"done, with {number} warning{'s' if number > 1 else ''}" if number else "done"


def _play(name: str, host: str, work: Work) -> str:
    result = run_playbook(
        name,
        host,
        inventory=work.inventory,
        known_hosts=work.guest.state.known_hosts,
        user=work.guest.spec.ssh.user,
        deadline_s=PLAYBOOK_DEADLINE_S,
        tell=work.listener.note,
        is_stopped=work.is_stopped,
    )
    return f"{result.ok} tasks, {result.changed} changed"


def call_deadline_s(call: PveCall, guest: Guest) -> float:
    """Seconds to wait for the task of a call: at least what the node itself gives it."""
    if _is_create(call) or any("import-from=" in str(value) for value in call.params.values()):
        return copy_deadline_s(guest.spec.disk.size)
    if call.path.endswith("/status/start"):
        return start_deadline_s(guest.pve.get(f"{guest.path}/config"))
    if call.path.endswith("/status/stop"):
        return stop_deadline_s()
    return _CALL_DEADLINE_S


def has_landed(call: PveCall, pve: Pve, path: str) -> bool:
    """Whether the node shows the effect of a call whose answer was lost; `path` is the VM's."""
    if call.method == "DELETE":
        return not _exists(pve, path)
    if _is_create(call):
        return _exists(pve, path)
    if call.path.endswith(("/status/start", "/status/stop")):
        wanted = "running" if call.path.endswith("start") else "stopped"
        return bool(pve.get(f"{path}/status/current")["status"] == wanted)
    if call.path.endswith("/config"):
        now = pve.get(f"{path}/config")
        gone = str(call.params.get("delete", "")).split(",")
        kept = {key: value for key, value in call.params.items() if key not in {"delete", "digest"}}
        shown = {key: value for key, value in kept.items() if key not in call.secret}
        return not any(key in now for key in gone) and all(
            not isinstance(value, tuple) and is_same(key, value, now.get(key)) for key, value in shown.items()
        )
    return False


def _is_create(call: PveCall) -> bool:
    return call.method == "POST" and call.path.endswith("/qemu")


def _exists(pve: Pve, path: str) -> bool:
    try:
        pve.get(f"{path}/status/current")
    except StepFailed as error:
        if error.code == "pve-not-found":
            return False
        raise
    return True


def _in_step(error: ViOpsError, step: Step, plan: Plan, work: Work) -> ViOpsError:
    """The same error with its place: which step of how many, of what, and what was done before it."""
    at = f"step {plan.steps.index(step) + 1} of {len(plan.steps)} of {plan.subject}"
    done = "; ".join(one.title for one in work.done if not isinstance(one.do, WaitUntil)) or "nothing"
    error.message += f"\n  in {at}: {step.title or step.key}\n  done before: {done}"
    return error
