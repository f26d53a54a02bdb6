"""Tasks: names, logs and how they end, whatever becomes of the client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import RunningLab
from vi_ops.lab.fault import Fault, Faults
from vi_ops.lab.route import Refusal, User, parameter_error
from vi_ops.lab.task import Log, Tasks, Upid

OPS = User("ops@pve!viops")


def tasks_of(folder: Path) -> Tasks:
    return Tasks(folder / "tasks", "pve1", Faults(folder / "faults.json"))


def run(folder: Path, worker: Any) -> tuple[Tasks, Upid]:
    async def start() -> tuple[Tasks, Upid]:
        tasks = tasks_of(folder)
        upid = tasks.start(OPS, "qmstart", "106", worker)
        assert await tasks.wait(upid)
        return tasks, Upid.parse(upid)

    return asyncio.run(start())


async def fine(log: Log) -> None:
    log("working")


async def warned(log: Log) -> None:
    log("WARN: no boot disk\nWARN: no network\nINFO: fine")


async def broken(log: Log) -> None:
    raise RuntimeError("first line\nsecond line\n")


async def refused(log: Log) -> None:
    raise parameter_error(scsi1="hotplug problem")


@pytest.mark.parametrize(
    ("worker", "exitstatus", "last"),
    [
        (fine, "OK", "TASK OK"),
        (warned, "WARNINGS: 2", "TASK WARNINGS: 2"),
        (broken, "first line second line", "TASK ERROR: first line second line"),
        (
            refused,
            "400 Parameter verification failed. scsi1: hotplug problem",
            "TASK ERROR: 400 Parameter verification failed. scsi1: hotplug problem",
        ),
    ],
)
def test_task_ends_as_the_node_says(tmp_path: Path, worker: Any, exitstatus: str, last: str) -> None:
    tasks, upid = run(tmp_path, worker)
    assert tasks.status(upid)["exitstatus"] == exitstatus
    assert tasks.lines(upid)[-1] == last
    assert [entry["status"] for entry in tasks.finished()] == [exitstatus]


def test_upid_is_in_exact_form(tmp_path: Path) -> None:
    tasks, upid = run(tmp_path, fine)
    parts = str(upid).split(":")
    assert parts[:2] == ["UPID", "pve1"]
    assert [len(part) for part in parts[2:5]] == [8, 8, 8]
    assert parts[5:] == ["qmstart", "106", "ops@pve!viops", ""]
    assert str(upid) == str(upid).replace("upid", "UPID")
    assert Upid.parse(str(upid)) == upid
    shown = tasks.status(upid)
    assert (shown["user"], shown["tokenid"], shown["pid"]) == ("ops@pve", "viops", upid.pid)


def test_tasks_of_one_moment_have_different_names(tmp_path: Path) -> None:
    async def start() -> set[str]:
        tasks = tasks_of(tmp_path)
        names = {tasks.start(OPS, "qmstart", "106", fine) for _ in range(50)}
        for name in names:
            await tasks.wait(name)
        return names

    assert len(asyncio.run(start())) == 50


def test_interrupted_task_says_so(tmp_path: Path) -> None:
    async def start() -> str:
        tasks = tasks_of(tmp_path)
        upid = Upid.parse(tasks.start(OPS, "qmstart", "106", lambda log: asyncio.sleep(60)))
        await asyncio.sleep(0.01)
        assert tasks.active()[0]["status"] == "RUNNING"
        await tasks.stop(upid)
        return tasks.exitstatus(upid)

    assert asyncio.run(start()) == "received interrupt"


def test_killed_server_leaves_an_unexpected_status(tmp_path: Path) -> None:
    tasks, upid = run(tmp_path, fine)
    log = tasks.log_path(upid)
    log.write_text("working\n")  # as a SIGKILL leaves it
    (tmp_path / "tasks" / "index").unlink()
    again = tasks_of(tmp_path)
    again.close_orphans()
    again.close_orphans()
    assert [entry["status"] for entry in again.finished()] == ["unexpected status"]


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "UPID:pve1:0000000G:00000001:6B000C01:qmstart:107:root@pam:",
        "UPID:pve1:00000001:00000001:6B000C01:qmstart:107:root@pam",
        "UPID:pve1:00000001:00000001:6B000C01:qm/start:107:root@pam:",
        "UPID:pve1:00000001:00000001:6B000C01:qmstart:../../x:root@pam:",
    ],
)
def test_malformed_upid_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        Upid.parse(text)
    assert caught.value.errors == {"upid": "unable to parse worker upid"}


def test_slow_task_and_task_with_warnings_by_fault(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults.json")
    faults.inject(Fault("slow-task", path="qmstart", seconds=0.2, count=1))
    faults.inject(Fault("task-warnings", vmid=106, count=1))

    async def start() -> tuple[float, list[str]]:
        tasks, loop = tasks_of(tmp_path), asyncio.get_running_loop()
        began = loop.time()
        first = await tasks.wait(tasks.start(OPS, "qmstart", "106", fine))
        took_s = loop.time() - began
        return took_s, [first, await tasks.wait(tasks.start(OPS, "qmstart", "106", fine))]

    took_s, ends = asyncio.run(start())
    assert took_s > 0.19
    assert ends == ["WARNINGS: 1", "OK"]


@pytest.fixture
def task_lab(fresh_lab: RunningLab) -> RunningLab:
    """A lab with three finished tasks: fine, broken, one with warnings."""

    async def start() -> None:
        tasks = fresh_lab.node.tasks
        for vmid, worker in (("100", fine), ("101", broken), ("102", warned)):
            await tasks.wait(tasks.start(OPS, "qmstart", vmid, worker))
        await tasks.wait(tasks.start(User("root@pam"), "qmstop", "100", fine))

    asyncio.run_coroutine_threadsafe(start(), fresh_lab.loop).result(10)
    return fresh_lab


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, ["100", "102", "101", "100"]),
        ({"vmid": 101}, ["101"]),
        ({"typefilter": "qmstop"}, ["100"]),
        ({"errors": 1}, ["102", "101"]),
        ({"statusfilter": "warning,ok"}, ["100", "102", "100"]),
        ({"limit": 2}, ["100", "102"]),
        ({"limit": 0}, ["100", "102", "101", "100"]),
        ({"start": 3}, ["100"]),
        ({"source": "active"}, []),
        ({"since": 4_000_000_000}, []),
    ],
)
def test_task_list_is_narrowed(task_lab: RunningLab, params: dict[str, Any], ids: list[str]) -> None:
    assert [entry["id"] for entry in task_lab.ask("GET", "/nodes/pve1/tasks", params).data] == ids


def test_log_is_paged(fresh_lab: RunningLab) -> None:
    async def chatty(log: Log) -> None:
        log("\n".join(f"line {n}" for n in range(1, 61)))

    async def start() -> str:
        upid = fresh_lab.node.tasks.start(OPS, "qmstart", "1", chatty)
        await fresh_lab.node.tasks.wait(upid)
        return upid

    upid = asyncio.run_coroutine_threadsafe(start(), fresh_lab.loop).result(10)
    path = f"/nodes/pve1/tasks/{upid}/log"
    assert len(fresh_lab.ask("GET", path).data) == 50
    everything = fresh_lab.ask("GET", path, {"limit": 0}).body
    assert (len(everything["data"]), everything["total"]) == (61, 61)
    part = fresh_lab.ask("GET", path, {"start": 59, "limit": 5}).data
    assert part == [{"n": 60, "t": "line 60"}, {"n": 61, "t": "TASK OK"}]
