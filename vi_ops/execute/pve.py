"""The Proxmox API of one node: reads that are retried, writes that never are blindly, tasks as values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote

import stamina
from proxmoxer.core import ProxmoxResource, ResourceException

from vi_ops.errors import FactError, StepFailed, Unreachable, ViOpsError
from vi_ops.execute.pve_session import NoAnswer, Password, PveSession, Token, read_data, read_words
from vi_ops.execute.refusal import masked, meaning_of, refusal
from vi_ops.execute.secret import read_secret
from vi_ops.execute.trust import endpoint, establish_trust
from vi_ops.facts.task import (
    TaskKind,
    TaskResult,
    Upid,
    find_task,
    is_upid,
    parse_log,
    parse_task,
    parse_upid,
    task_of_call,
)
from vi_ops.plan.step import PveCall
from vi_ops.specs.node import NodeSpec

Tell = Callable[[str], None]

GET_ATTEMPTS: Final = 4
GET_DEADLINE_S: Final = 75.0
# After a dropped connection a write may still wait 10 s for a lock (pve-guest-common, lock_config).
SETTLE_S: Final = 12.0
# After a 596 or a read timeout the node works on, for as long as it takes; then we stop looking.
SETTLE_SLOW_S: Final = 90.0
LATE_TASK_S: Final = 1.5
POLL_FIRST_S: Final = 0.1
POLL_LONGEST_S: Final = 2.0

# pveproxy's own client: 595 found no daemon to hand the call to; the others lost it (AnyEvent::HTTP).
_NOBODY_THERE: Final = 595
_LOST: Final = frozenset({502, 503, 504, 596, 597, 598, 599})
_SLOW: Final = frozenset({504, 596})


class _Serializer:
    """What proxmoxer asks of an answer: its data, or everything that a refusal says."""

    loads = staticmethod(read_data)
    loads_errors = staticmethod(read_words)


class Pve:
    """One node's API. Usable from several threads; close it, or use it as a context manager."""

    def __init__(self, spec: NodeSpec, session: PveSession) -> None:
        self.spec = spec
        self.node_name = spec.name
        self._session = session
        self._api = ProxmoxResource(base_url=session.base_url, session=session, serializer=_Serializer)
        self._known: set[str] = set()
        # pvedaemon has three workers, and an agent call occupies one until the guest answers.
        self.agent_slots = threading.BoundedSemaphore(2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Tasks on the node go on."""
        self._session.close()

    @property
    def authid(self) -> str:
        """Who we are to the node: `user@realm!token`, or `user@realm`."""
        return self._session.authid

    @property
    def clock_offset_s(self) -> float | None:
        """How far the node's clock is ahead of ours, by its last answer; None before the first."""
        return self._session.clock_offset_s

    def get(self, path: str, params: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """The `data` of a GET below /api2/json; retried while the node does not answer.

        Parameters with a hyphen go in the mapping. Raises Unreachable, Refused (rights), StepFailed with the
        node's own words, FactError for an answer that is not Proxmox's.
        """
        call = PveCall("GET", path, {**(params or {}), **named})
        try:
            for attempt in stamina.retry_context(
                on=_is_worth_another,
                attempts=GET_ATTEMPTS,
                timeout=GET_DEADLINE_S,
                wait_initial=0.2,
                wait_max=3.0,
            ):
                with attempt:
                    return self._ask(call)
        except NoAnswer as failure:
            self._give_up(call, failure)

    def get_once(self, path: str, params: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """A GET that is never repeated, for the calls that answer only once (agent/exec-status)."""
        call = PveCall("GET", path, {**(params or {}), **named})
        try:
            return self._ask(call)
        except NoAnswer as failure:
            self._give_up(call, failure)

    def write(self, call: PveCall, landed: Callable[[], bool] | None = None) -> Any:
        """Carry out a writing call once, and give its `data`: often a UPID, or None.

        When the answer is lost, looks whether the call happened: by the task that it started, and by
        `landed`, which asks the node for the intended effect. Sends again only what never arrived.
        Raises StepFailed `pve-lost-answer` where that cannot be known; else as `get`.
        """
        began_s = time.time()
        try:
            for attempt in stamina.retry_context(
                on=lambda error: isinstance(error, NoAnswer) and not error.sent and error.again,
                attempts=GET_ATTEMPTS,
                timeout=30.0,
                wait_initial=0.3,
                wait_max=3.0,
            ):
                with attempt:
                    data = self._ask(call)
        except NoAnswer as failure:
            if not failure.sent:
                self._give_up(call, failure)
            data = self._find_out(call, failure, began_s, landed)
        if is_upid(data):
            self._known.add(data)
        return data

    def wait(self, upid: str, deadline_s: float, tell: Tell | None = None) -> TaskResult:
        """Wait for a task and give its result, whatever it is; `tell` gets the log's lines as they appear.

        An outage of the API meanwhile is waited out. Raises StepFailed `pve-task-deadline`: the task goes on.
        """
        task = parse_upid(upid)
        path = f"/nodes/{task.node}/tasks/{upid}"
        end_s = time.monotonic() + deadline_s
        pause_s, told, outage = POLL_FIRST_S, 0, None
        while True:
            try:
                status, outage = self.get(f"{path}/status"), None
                if tell:
                    told = self._tell_more(path, told, tell)
                if parse_task(task, status, ()):
                    lines = self._log(path)
                    for line in lines[told:] if tell else ():
                        tell(line)  # type: ignore[misc]
                    result = parse_task(task, status, lines)
                    assert result is not None  # noqa: S101
                    return result
            except Unreachable as error:
                if error.code != "pve-unreachable":
                    raise
                outage = error
            if time.monotonic() + pause_s > end_s:
                raise self._too_slow(task, deadline_s, outage)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_LONGEST_S)

    def run(
        self,
        call: PveCall,
        deadline_s: float,
        tell: Tell | None = None,
        landed: Callable[[], bool] | None = None,
    ) -> TaskResult:
        """Carry out a call and wait for its task; a call that the node carries out at once has no UPID.

        Raises StepFailed `pve-task-failed` with the end of the log; else as `write` and `wait`.
        """
        data = self.write(call, landed)
        if not is_upid(data):
            return TaskResult(None, "OK")
        result = self.wait(data, deadline_s, tell)
        if not result.is_ok:
            raise task_failed(result, f"{call.method} {call.path}")
        return result

    def _ask(self, call: PveCall) -> Any:
        verb = getattr(self._api(_quoted(call.path)), call.method.lower())
        try:
            data = verb(**sendable(call.params))
        except ResourceException as error:
            words, by_name = error.errors
            status = int(error.status_code)
            if status == _NOBODY_THERE or status in _LOST:
                failure = NoAnswer(f"{status} {words}", sent=status != _NOBODY_THERE)
                failure.slow = status in _SLOW
                raise failure from error
            hidden = [str(call.params[name]) for name in call.secret if name in call.params]
            told = {name: masked(text, hidden) for name, text in by_name.items()}
            raise refusal(
                f"{call.method} {call.path}", self.authid, self.spec.host, status, masked(words, hidden), told
            ) from None
        return data

    def _give_up(self, call: PveCall, failure: NoAnswer) -> NoReturn:
        where = f"{self.spec.host} at {self.spec.api.url}"
        raise Unreachable(
            "pve-unreachable",
            f"{call.method} {call.path}: no answer from {where}: {failure.words}",
            hint="is the node up, the VPN connected, the port open? vi-ops doctor looks at each",
        ) from failure

    def _find_out(
        self, call: PveCall, failure: NoAnswer, began_s: float, landed: Callable[[], bool] | None
    ) -> Any:
        """Look for the effect of a write whose answer was lost: its UPID, None if it happened without one."""
        kind = task_of_call(call.method, call.path, call.params)
        end_s = time.monotonic() + (SETTLE_SLOW_S if failure.slow else SETTLE_S)
        pause_s, looked = 0.3, kind is not None or landed is not None
        problem: ViOpsError | None = None
        while looked:
            try:
                if kind and (found := self._find_task(kind, began_s)):
                    return found.text
                if landed and landed():
                    # A worker starts a moment after its first effect: its task is worth another look.
                    time.sleep(LATE_TASK_S if kind else 0.0)
                    late = self._find_task(kind, began_s) if kind else None
                    return late.text if late else None
                problem = None
            except ViOpsError as error:
                problem = error
            if time.monotonic() + pause_s > end_s:
                break
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 3.0)
        sought = "nothing could tell whether it happened"
        if problem:
            sought = f"and looking for its effect failed: {problem.message}"
        elif looked:
            sought = "and the node shows no sign of it so far"
        raise StepFailed(
            "pve-lost-answer",
            f"{call.method} {call.path}: the answer was lost ({failure.words}), {sought}",
            hint="look at the node's task list, then run the command again: it begins by looking",
        ) from failure

    def _find_task(self, kind: TaskKind, began_s: float) -> Upid | None:
        offset_s = self.clock_offset_s
        # The node's times and its Date header are whole seconds.
        since = None if offset_s is None else began_s + offset_s - 2
        params = {"source": "all", "typefilter": kind.type, "limit": 50}
        if since is not None:
            params["since"] = int(since)
        return find_task(self.get(f"/nodes/{kind.node}/tasks", params), kind, self.authid, since, self._known)

    def _log(self, path: str, start: int = 0) -> tuple[str, ...]:
        try:
            return parse_log(self.get(f"{path}/log", start=start, limit=0))
        except (StepFailed, FactError):
            return ()  # the log is a courtesy; the exit status is the result

    def _tell_more(self, path: str, told: int, tell: Tell) -> int:
        lines = self._log(path, told)
        for line in lines:
            tell(line)
        return told + len(lines)

    def _too_slow(self, task: Upid, deadline_s: float, outage: ViOpsError | None) -> StepFailed:
        last = self._log(f"/nodes/{task.node}/tasks/{task.text}")[-1:] if outage is None else ()
        state = f"the node does not answer: {outage.message}" if outage else "it still runs"
        words = f"; its log ends with: {last[0]}" if last else ""
        return StepFailed(
            "pve-task-deadline",
            f"task {task} was not finished after {deadline_s:.0f} s: {state}{words}\n{task.text}",
            hint=f"it goes on without us; on the node: pvenode task status {task.text}",
        )


def connect(spec: NodeSpec, *, state_dir: Path, confirm: Callable[[str], bool] | None = None) -> Pve:
    """A client for a node: reads its secret, and establishes whose certificate to expect. Sends no request.

    On first contact without CA or fingerprint the certificate is fetched and its fingerprint shown to
    `confirm`; a yes pins it in `state_dir`. Raises SpecError, Refused, Unreachable.
    """
    api = spec.api
    endpoint(api.url)
    login: Token | Password
    owner = f"{spec.host}: api.secret"
    if api.token is not None:
        secret = read_secret(api.secret, owner)
        login = Token(api.token, secret.removeprefix(f"{api.token}="))
    else:
        login = Password(str(api.user), read_secret(api.secret, owner))
    trust = establish_trust(api, spec.host, state_dir, confirm)
    return Pve(spec, PveSession(api.url.rstrip("/") + "/api2/json", trust, login))


def sendable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the node reads them: booleans 0 and 1, lists repeated, None left out, sshkeys encoded.

    sshkeys is stored percent-encoded, and form-encoded on top of that (qemu-server, format `urlencoded`).
    """
    sent: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, bool):
            sent[name] = int(value)
        elif name == "sshkeys" and value is not None:
            sent[name] = quote(str(value), safe="")
        elif isinstance(value, tuple | list | frozenset):
            sent[name] = [int(item) if isinstance(item, bool) else item for item in value]
        elif value is not None:
            sent[name] = value
    return sent


def task_failed(result: TaskResult, call: str) -> StepFailed:
    """The error for a task that did not end well: its words, the end of its log, its UPID, a remedy."""
    meaning = meaning_of(result.exitstatus)
    log = "".join(f"\n  {line}" for line in result.tail)
    name, text = (f"task {result.upid}", f"\n{result.upid.text}") if result.upid else ("task", "")
    return StepFailed(
        "pve-task-failed",
        f"{call}: {name} failed: {result.exitstatus}{log}{text}",
        hint=meaning.hint if meaning else None,
    )


def _is_worth_another(error: Exception) -> bool:
    return isinstance(error, NoAnswer) and error.again


def _quoted(path: str) -> str:
    return quote(path.strip("/"), safe="/:@!$,;=+~%")
