"""Carrying out plans: order, journal, what a failure says, what an interrupt leaves, lost answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.fake_node import FakeNode, FakeVm
from vi_ops.errors import StepFailed
from vi_ops.execute import apply
from vi_ops.execute.ansible import PlaybookResult
from vi_ops.execute.apply import Work, apply_plan, has_landed
from vi_ops.execute.guest import Guest
from vi_ops.execute.journal import Journal, open_journal
from vi_ops.execute.state import SiteState
from vi_ops.plan.step import Action, Plan, Playbook, PveCall, Step, WaitUntil
from vi_ops.specs.ssh import SshTarget
from vi_ops.specs.vm import DiskSpec, UserSpec, VmSpec

VM = "/nodes/pve1/qemu/106"
CREATE = PveCall("POST", "/nodes/pve1/qemu", {"vmid": 106, "name": "video-intelligence"})
START = PveCall("POST", f"{VM}/status/start")


def step(key: str, do: Action) -> Step:
    return Step(key=f"vm106/{key}", do=do, because="the test wants it", title=f"Ensure {key}")


PLAN = Plan(
    "vm106",
    steps=(
        step("create", CREATE),
        step("start", START),
        step("wait-powered", WaitUntil("powered", 1)),
        step("base", Playbook("base", "vm106")),
    ),
)


@dataclass
class Told:
    """What a listener was told."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def start(self, title: str) -> None:
        self.events.append(("start", title))

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def stop(self, text: str = "") -> None:
        self.events.append(("stop", text))

    def skip(self, text: str) -> None:
        self.events.append(("skip", text))

    def fail(self, text: str) -> None:
        self.events.append(("fail", text))


@dataclass
class Scene:
    """A fake node, a journal and a run."""

    node: FakeNode
    work: Work
    journal: Journal
    told: Told

    def left(self) -> list[tuple[str, str | None]]:
        return [(one.key, one.outcome) for one in self.journal.left("vm106")]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(apply, "run_playbook", lambda *args, **options: PlaybookResult(ok=2, changed=0))
    node, told = FakeNode(), Told()
    spec = VmSpec(
        host="vm106",
        ssh=SshTarget(host="127.0.0.1", port=22106),
        node="pve1",
        vmid=106,
        name="video-intelligence",
        image="debian-13",
        user=UserSpec(name="smith"),
        disk=DiskSpec(storage="local", size=4 * 1024**3),
    )
    guest = Guest(spec, node, SiteState(tmp_path))  # type: ignore[arg-type]
    with open_journal(tmp_path / "journal.db") as journal:
        run = journal.begin_run("provision vm106", "vm106")
        yield Scene(node, Work(guest, tmp_path, journal, run, told), journal, told)


def test_steps_are_carried_out_in_order_and_written_down(scene: Scene) -> None:
    apply_plan(PLAN, scene.work)
    assert scene.node.writes == [("POST", "/nodes/pve1/qemu"), ("POST", f"{VM}/status/start")]
    assert [text for kind, text in scene.told.events if kind == "start"] == [
        "Ensure create",
        "Ensure start",
        "Ensure wait-powered",
        "Ensure base",
    ]
    assert scene.told.events[-1] == ("stop", "2 tasks, 0 changed")
    assert scene.left() == []
    create, start, *_ = scene.journal.steps(scene.work.run)
    assert create.upid
    assert start.upid
    assert create.upid != start.upid


def test_a_vm_that_somebody_else_started_meanwhile_runs(scene: Scene) -> None:
    scene.node.endings[START.path] = "VM 106 already running"
    apply_plan(PLAN, scene.work)
    assert ("stop", "somebody else was faster: it runs") in scene.told.events


def test_a_failed_task_stops_everything_and_says_where(scene: Scene) -> None:
    scene.node.endings[START.path] = "start failed: no room"
    with pytest.raises(StepFailed) as caught:
        apply_plan(PLAN, scene.work)
    message = caught.value.message
    for part in ("start failed: no room", "step 2 of 4 of vm106: Ensure start", "done before: Ensure create"):
        assert part in message
    assert scene.left() == [
        ("vm106/start", "pve-task-failed"),
        ("vm106/wait-powered", None),
        ("vm106/base", None),
    ]
    assert scene.told.events[-1][0] == "fail"


def test_a_disk_that_came_larger_than_it_should_be_leaves_a_way_on(scene: Scene) -> None:
    scene.node.endings[START.path] = "shrinking disks is not supported"
    with pytest.raises(StepFailed) as caught:
        apply_plan(PLAN, scene.work)
    assert "state at least that, and `vi-ops provision VM` goes on" in str(caught.value.hint)


def test_an_interrupt_before_a_step_begins_it_not(scene: Scene) -> None:
    scene.node.on_write = lambda call: stop.set()
    stop = threading.Event()
    scene.work.is_stopped = stop.is_set
    with pytest.raises(KeyboardInterrupt):
        apply_plan(PLAN, scene.work)
    assert scene.node.writes == [("POST", "/nodes/pve1/qemu")]
    assert scene.left()[0] == ("vm106/start", None)


def test_an_interrupt_in_a_step_is_written_down(scene: Scene) -> None:
    def interrupted(call: PveCall) -> None:
        raise KeyboardInterrupt

    scene.node.on_write = interrupted
    with pytest.raises(KeyboardInterrupt):
        apply_plan(PLAN, scene.work)
    assert scene.left()[0] == ("vm106/create", "interrupted")


@pytest.mark.parametrize(
    ("call", "before", "after"),
    [
        (CREATE, {}, {106: FakeVm()}),
        (START, {106: FakeVm()}, {106: FakeVm(status="running")}),
        (PveCall("POST", f"{VM}/status/stop"), {106: FakeVm(status="running")}, {106: FakeVm()}),
        (PveCall("DELETE", VM, {"purge": True}), {106: FakeVm()}, {}),
        (
            PveCall("POST", f"{VM}/config", {"cores": 2, "delete": "vga,tags", "digest": "a"}),
            {106: FakeVm({"cores": 1, "tags": "x"})},
            {106: FakeVm({"cores": 2})},
        ),
        (
            PveCall("POST", f"{VM}/config", {"cipassword": "$6$x", "cores": 2}, frozenset({"cipassword"})),
            {106: FakeVm({"cores": 1})},
            {106: FakeVm({"cores": 2, "cipassword": "**********"})},
        ),
    ],
    ids=lambda value: f"{value.method} {value.path}" if isinstance(value, PveCall) else "",
)
def test_whether_a_lost_call_has_landed(
    call: PveCall, before: dict[int, FakeVm], after: dict[int, FakeVm]
) -> None:
    assert not has_landed(call, FakeNode(vms=before), VM)  # type: ignore[arg-type]
    assert has_landed(call, FakeNode(vms=after), VM)  # type: ignore[arg-type]
