"""Wait for a task on a node: polled with growing pauses, its log told as it grows, an outage waited out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vi_ops.errors import FactError, LockHeld, StepFailed, Unreachable, ViOpsError
from vi_ops.execute.refusal import meaning_of
from vi_ops.facts.task import TaskResult, Upid, parse_log, parse_task, parse_upid

if TYPE_CHECKING:
    from vi_ops.execute.pve import Pve

Tell = Callable[[str], None]

POLL_FIRST_S: Final = 0.1
POLL_LONGEST_S: Final = 2.0


def wait_for_task(pve: Pve, upid: str, deadline_s: float, tell: Tell | None = None) -> TaskResult:
    """The result of a task, whatever it is. Raises StepFailed `pve-task-deadline`: the task goes on."""
    task = parse_upid(upid)
    end_s = time.monotonic() + deadline_s
    pause_s, told = POLL_FIRST_S, 0
    while True:
        outage: ViOpsError | None = None
        try:
            status = pve.get_once(f"{_path(task)}/status")
            done = parse_task(task, status, ())
            if tell or done:
                lines = _log(pve, task)
                for line in lines[told:] if tell else ():
                    tell(line)  # type: ignore[misc]
                told = len(lines)
            if done:
                return parse_task(task, status, lines) or done
        except Unreachable as error:
            if error.code != "pve-unreachable":
                raise
            outage = error
        if time.monotonic() + pause_s > end_s:
            raise _too_slow(pve, task, deadline_s, outage)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, POLL_LONGEST_S)


def task_failed(result: TaskResult, call: str) -> ViOpsError:
    """The error for a task that did not end well: its words, the end of its log, its UPID, a remedy.

    A task finds out about a lock only when it runs: that is LockHeld, as for a call that is refused at once.
    """
    meaning = meaning_of(result.exitstatus)
    log = "".join(f"\n  {line}" for line in result.tail)
    name, text = (f"task {result.upid}", f"\n{result.upid.text}") if result.upid else ("task", "")
    is_locked = meaning is not None and meaning.kind is LockHeld
    kind, code = (LockHeld, "pve-locked") if is_locked else (StepFailed, "pve-task-failed")
    return kind(
        code,
        f"{call}: {name} failed: {result.exitstatus}{log}{text}",
        hint=meaning.remedy(result.upid.node, result.upid.id) if meaning and result.upid else None,
    )


def _path(task: Upid) -> str:
    return f"/nodes/{task.node}/tasks/{task.text}"


def _log(pve: Pve, task: Upid) -> tuple[str, ...]:
    try:
        return parse_log(pve.get_once(f"{_path(task)}/log", limit=0))
    except (StepFailed, FactError):
        return ()  # the log is a courtesy; the exit status is the result


def _too_slow(pve: Pve, task: Upid, deadline_s: float, outage: ViOpsError | None) -> StepFailed:
    last = _log(pve, task)[-1:] if outage is None else ()
    state = f"the node does not answer: {outage.message}" if outage else "it still runs"
    words = f"; its log ends with: {last[0]}" if last else ""
    return StepFailed(
        "pve-task-deadline",
        f"task {task} was not finished after {deadline_s:.0f} s: {state}{words}\n{task.text}",
        hint=f"it goes on without us; on the node: pvenode task status {task.text}",
    )
