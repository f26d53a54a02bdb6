"""One VM from whatever it is to a ready guest: look, plan, apply, look again, wait, base packages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from vi_ops.errors import LockHeld, Refused, StepFailed, ViOpsError
from vi_ops.execute.apply import Listener, Work, apply_plan
from vi_ops.execute.guest import Console, Guest
from vi_ops.execute.host_key import unpin
from vi_ops.execute.journal import Journal, StepRecord, open_journal
from vi_ops.execute.lock import hold_lock
from vi_ops.execute.look import look_around, look_at_node, look_at_vm, look_beside, recall
from vi_ops.execute.pve import Pve
from vi_ops.execute.state import SiteState
from vi_ops.facts.task import Upid, running_tasks
from vi_ops.facts.vm import VmFacts
from vi_ops.plan.cloud_init import UNTOLD
from vi_ops.plan.converge import unread_after
from vi_ops.plan.deadline import copy_deadline_s
from vi_ops.plan.destroy import plan_destroy
from vi_ops.plan.ready import ready_steps
from vi_ops.plan.step import Plan, PveCall, WaitUntil
from vi_ops.plan.vm import plan_vm
from vi_ops.specs.site import Site
from vi_ops.specs.vm import VmSpec

_CHECKED = "looked at on every run"


@dataclass(frozen=True)
class Target:
    """One VM to work on and everything that reaches it. Several targets of one node share its `pve`."""

    site: Site
    spec: VmSpec
    pve: Pve
    state: SiteState
    listener: Listener
    console: Console | None = None
    wait_s: float = 0
    is_stopped: Callable[[], bool] = lambda: False
    create_slots: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))


@dataclass(frozen=True)
class Outcome:
    """What a run did: its plan, what was seen at each stage, and how long it took.

    `cut_off` says why the guest can be worked on at its next start only, where that is so.
    """

    host: str
    plan: Plan
    stages: Mapping[str, str]
    elapsed_s: float
    cut_off: str | None = None

    @property
    def writes(self) -> int:
        """Calls that changed something on the node."""
        return sum(isinstance(step.do, PveCall) for step in self.plan.steps)


def look_and_plan(target: Target, journal: Journal, before: int | None = None) -> tuple[Plan, VmFacts | None]:
    """What is, and what would be done about it. Reads only."""
    spec, pve = target.spec, target.pve
    node = look_at_node(pve)
    vm = recall(look_at_vm(pve, spec.vmid, node), journal.started_with(spec.host))
    node = look_around(pve, node, [vm])
    node = look_beside(pve, node, target.site.vmids_on(spec.node), [vm])
    unfinished = journal.unfinished(spec.host, before)
    plan = plan_vm(spec, pve.spec, node, vm, target.site, unfinished=unfinished)
    return plan, vm


def provision(target: Target, show: Callable[[Plan], None]) -> Outcome:
    """Bring a VM to its spec and its guest to readiness; `show` gets the plan before anything is done.

    Raises LockHeld when another run or the node works on the VM, Refused with every finding that blocks, and
    what `apply_plan` raises. Run again after any of them: it goes on where this one stopped.
    """
    began_s = time.monotonic()
    with _run(target, f"provision {target.spec.host}") as work:
        _await_tasks(target, work)
        plan, vm = look_and_plan(target, work.journal, work.run)
        show(plan)
        _refuse_blocked(plan)
        if vm is not None:
            _keep_started_with(vm, plan, work)
        if any(step.key.endswith("/create") for step in plan.steps):
            unpin(target.state.known_hosts, target.spec.ssh.host, target.spec.ssh.port)
        apply_plan(plan, work)
        if any(isinstance(step.do, PveCall) for step in plan.steps):
            _verify(target, work)
        if not any(isinstance(step.do, WaitUntil) for step in plan.steps):
            apply_plan(Plan(plan.subject, steps=ready_steps(target.spec, _CHECKED)), work)
        guest, took_s = work.guest, time.monotonic() - began_s
        return Outcome(target.spec.host, plan, dict(guest.notes), took_s, guest.cut_off)


def destroy(target: Target, confirm: Callable[[Plan], str]) -> Plan:
    """Remove a VM with everything on its disks, once `confirm` was shown the plan and gave its name.

    It is looked at again after the answer: a VM that is not what was shown is left alone. Raises Refused
    for a protected VM, a wrong name, a changed VM. Gives the plan that was carried out.
    """
    spec, pve = target.spec, target.pve
    with _run(target, f"destroy {spec.host}") as work:
        vm = look_at_vm(pve, spec.vmid)
        shown = plan_destroy(spec, vm, snapshots=_snapshots(pve, work.guest.path) if vm else ())
        _refuse_blocked(shown)
        if vm is None:
            return shown
        typed = confirm(shown)
        now = look_at_vm(pve, spec.vmid)
        plan = plan_destroy(spec, now, snapshots=_snapshots(pve, work.guest.path) if now else (), typed=typed)
        _refuse_blocked(plan)
        if now is None or plan.losses != shown.losses or now.digest != vm.digest:
            raise Refused("destroy-changed", f"{spec.host}: VM {spec.vmid} changed since it was shown")
        apply_plan(plan, work)
        unpin(target.state.known_hosts, spec.ssh.host, spec.ssh.port)
        return plan


@contextmanager
def _run(target: Target, command: str) -> Iterator[Work]:
    """Hold the VM's lock and write down how the run ends."""
    spec, state, listener = target.spec, target.state, target.listener
    with (
        hold_lock(state.lock(spec.host), spec.host, command, wait_s=target.wait_s, tell=listener.note),
        open_journal(state.journal) as journal,
    ):
        run = journal.begin_run(command, spec.host)
        guest = Guest(spec, target.pve, state, target.console, tell=listener.note)
        work = Work(
            guest,
            target.site.path,
            journal,
            run,
            listener,
            target.is_stopped,
            create_slots=target.create_slots,
        )
        try:
            yield work
        except ViOpsError as error:
            journal.end_run(run, error.code)
            raise
        except KeyboardInterrupt:
            journal.end_run(run, "interrupted")
            raise
        except Exception:
            journal.end_run(run, "bug")
            raise
        journal.end_run(run, "ok")


def _await_tasks(target: Target, work: Work) -> None:
    """Wait for tasks that the node still carries out for this VM, ours from a killed run or anybody's."""
    pve, spec = target.pve, target.spec
    rows = pve.get(f"/nodes/{pve.node_name}/tasks", source="active", vmid=spec.vmid)
    left = {step.upid: step for step in work.journal.left(spec.host, work.run) if step.upid}
    for task in running_tasks(rows):
        work.listener.start(f"Wait for task {task}, which still runs on {pve.node_name}")
        work.listener.note(_of_whom(task, left.get(task.text)))
        work.upid = task.text
        result = pve.wait(task.text, copy_deadline_s(spec.disk.size), work.listener.note)
        work.listener.stop(result.exitstatus)
        work.upid = None


def _of_whom(task: Upid, step: StepRecord | None) -> str:
    if step is None or step.started is None:
        return f"begun by {task.user}, not by this site's journal: {task.text}"
    ago_s = max(0, round(time.time() - step.started))
    ago = f"{ago_s} s" if ago_s < 120 else f"{ago_s // 60} min"
    return f'resuming: "{step.name}" was begun {ago} ago by a run that ended before it: {task.text}'


def _refuse_blocked(plan: Plan) -> None:
    blocking = [finding for finding in plan.findings if finding.blocks]
    if not blocking:
        return
    if len(blocking) == 1:
        (only,) = blocking
        kind = LockHeld if only.code == "vm-locked" else Refused
        raise kind(only.code, f"{plan.subject}: {only.message}", hint=only.hint)
    lines = [
        f"\n  [{one.code}] {one.message}" + (f"\n    hint: {one.hint}" if one.hint else "")
        for one in blocking
    ]
    raise Refused("plan-blocked", f"{plan.subject}: {len(blocking)} checks say no{''.join(lines)}")


def _keep_started_with(vm: VmFacts, plan: Plan, work: Work) -> None:
    """Before anything is written: what the guest will not have read, and what no node would tell of that."""
    work.guest.unread = frozenset(unread_after(vm, plan.steps))
    for key in work.guest.unread.intersection(UNTOLD) - vm.started_with.keys():
        work.journal.note_started_with(plan.subject, key, str(vm.config.get(key, "")))


def _verify(target: Target, work: Work) -> None:
    """After writing, what is must be what was wanted, except for what waits for a power cycle."""
    plan, _ = look_and_plan(target, work.journal)
    left = [step for step in plan.steps if isinstance(step.do, PveCall)]
    if left:
        differs = "; ".join(f"{step.title or step.key} ({step.because})" for step in left)
        raise StepFailed(
            "apply-not-converged", f"{plan.subject} still differs after everything was done: {differs}"
        )


def _snapshots(pve: Pve, path: str) -> tuple[str, ...]:
    return tuple(row["name"] for row in pve.get(f"{path}/snapshot") if row["name"] != "current")
