"""A write whose answer was lost: did it happen? Looks for the task that it started, and for its effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vi_ops.errors import StepFailed, ViOpsError
from vi_ops.execute.pve_session import NoAnswer
from vi_ops.facts.task import Upid, find_task, task_of_call
from vi_ops.plan.step import PveCall

if TYPE_CHECKING:
    from vi_ops.execute.pve import Pve

# After a dropped connection a write may still wait 10 s for a lock (pve-guest-common, lock_config).
SETTLE_S: Final = 12.0
# After a 596 or a read timeout the node works on, for as long as it takes; then we stop looking.
SETTLE_SLOW_S: Final = 90.0
# A worker starts a moment after its first effect, so that its task is worth another look.
LATE_TASK_S: Final = 1.5


@dataclass(frozen=True)
class LostWrite:
    """A write without an answer. `known` are the UPIDs of our earlier calls, `began_s` is by our clock."""

    call: PveCall
    failure: NoAnswer
    began_s: float
    known: Iterable[str]
    landed: Callable[[], bool] | None = None


def find_out(pve: Pve, lost: LostWrite) -> Any:
    """The UPID of the task that the write started, None if it happened without one.

    Raises StepFailed `pve-lost-answer` where nothing shows that it happened.
    """
    end_s = time.monotonic() + (SETTLE_SLOW_S if lost.failure.slow else SETTLE_S)
    pause_s = 0.3
    problem: ViOpsError | None = None
    can_look = lost.landed is not None or _find_kind(lost) is not None
    while can_look:
        try:
            if found := _find_task(pve, lost):
                return found.text
            if lost.landed and lost.landed():
                time.sleep(LATE_TASK_S if _find_kind(lost) else 0.0)
                late = _find_task(pve, lost)
                return late.text if late else None
            problem = None
        except ViOpsError as error:
            problem = error
        if time.monotonic() + pause_s > end_s:
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 3.0)
    raise _unknown(lost, can_look, problem)


def _find_kind(lost: LostWrite) -> Any:
    return task_of_call(lost.call.method, lost.call.path, lost.call.params)


def _find_task(pve: Pve, lost: LostWrite) -> Upid | None:
    kind = _find_kind(lost)
    if kind is None:
        return None
    if pve.clock_offset_s is None:
        pve.get("/version")
    if pve.clock_offset_s is None:
        return None  # without the node's clock an older task could be taken for this one
    # The node's times and its Date header are whole seconds.
    since = lost.began_s + pve.clock_offset_s - 2
    params = {"source": "all", "typefilter": kind.type, "limit": 50, "since": int(since)}
    return find_task(pve.get(f"/nodes/{kind.node}/tasks", params), kind, pve.authid, since, lost.known)


def _unknown(lost: LostWrite, looked: bool, problem: ViOpsError | None) -> StepFailed:
    sought = "nothing could tell whether it happened"
    if problem:
        sought = f"and looking for its effect failed: {problem.message}"
    elif looked:
        sought = "and the node shows no sign of it so far"
    return StepFailed(
        "pve-lost-answer",
        f"{lost.call.method} {lost.call.path}: the answer was lost ({lost.failure.words}), {sought}",
        hint="look at the node's task list, then run the command again: it begins by looking",
    )
