"""The Proxmox API of one node: reads that are retried, writes that never are blindly, tasks as values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote, unquote

import stamina
from proxmoxer.core import ProxmoxResource, ResourceException

from vi_ops.errors import SpecError, Unreachable
from vi_ops.execute.pve_lost import LostWrite, find_out
from vi_ops.execute.pve_session import NoAnswer, Password, PveSession, Token, read_data, read_words
from vi_ops.execute.pve_task import Tell, task_failed, wait_for_task
from vi_ops.execute.refusal import masked, refusal
from vi_ops.execute.secret import read_secret
from vi_ops.execute.trust import endpoint, establish_trust
from vi_ops.execute.upload import Multipart, checksum_fields
from vi_ops.facts.task import TaskResult, is_upid
from vi_ops.plan.deadline import copy_deadline_s
from vi_ops.plan.step import PveCall
from vi_ops.specs.node import NodeSpec

# stamina writes a line to stderr for each retry; ours are told by what they end in.
stamina.instrumentation.set_on_retry_hooks(())

__all__ = ["Pve", "connect", "sendable", "task_failed"]

GET_ATTEMPTS: Final = 4
GET_DEADLINE_S: Final = 75.0
# The node writes an upload to /var/tmp before it answers.
UPLOAD_DEADLINES_S: Final = (30.0, 300.0)

# pveproxy's own client: 595 found no daemon to hand the call to; the others lost it (AnyEvent::HTTP).
_NOBODY_THERE: Final = 595
_NODE_DOWN: Final = "is the node up, the VPN connected, the port open? `vi-ops doctor` looks at each"
_LAB_DOWN: Final = "is the lab up (`vi-ops lab up` starts it), or the tunnel that begins at this address?"
_LOST: Final = frozenset({502, 503, 504, 596, 597, 598, 599})
_SLOW: Final = frozenset({504, 596})
# The worker died before its parent let it begin (pve-common, src/PVE/RESTEnvironment.pm, fork_worker).
_NOT_BEGUN: Final = "got no worker upid"


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
                wait_jitter=0.2,
                wait_max=3.0,
            ):
                with attempt:
                    return self._ask(call)
        except NoAnswer as failure:
            self._give_up(call, failure)

    def get_once(self, path: str, params: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """A GET without another try, for those who ask again anyway."""
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
                wait_jitter=0.2,
                wait_max=3.0,
            ):
                with attempt:
                    data = self._ask(call)
        except NoAnswer as failure:
            if not failure.sent:
                self._give_up(call, failure)
            data = find_out(self, LostWrite(call, failure, began_s, self._known, landed))
        if is_upid(data):
            self._known.add(data)
        return data

    def upload(
        self,
        node: str,
        storage: str,
        path: Path,
        content: str = "import",
        checksum: str | None = None,
        tell: Tell | None = None,
        filename: str | None = None,
    ) -> TaskResult:
        """Stream a file to a storage and wait until the node has checked and moved it.

        `content` is import or iso; `checksum` is `sha256:<hex>`; `tell` hears of each tenth. Raises as `run`.
        """
        fields = {"content": content, **checksum_fields(checksum)}
        call = PveCall("POST", f"/nodes/{node}/storage/{storage}/upload", fields)
        began_s = time.time()
        with Multipart(fields, path, filename or path.name, tell) as body:
            try:
                data = self._send(call, body)
            except NoAnswer as failure:
                if not (failure.sent and body.is_sent):
                    self._give_up(call, failure)
                data = find_out(self, LostWrite(call, failure, began_s, self._known))
        return self._outcome(call, data, copy_deadline_s(len(body)), tell)

    def wait(self, upid: str, deadline_s: float, tell: Tell | None = None) -> TaskResult:
        """Wait for a task and give its result, whatever it is; `tell` gets the log's lines as they appear.

        An outage of the API meanwhile is waited out. Raises StepFailed `pve-task-deadline`: the task goes on.
        """
        return wait_for_task(self, upid, deadline_s, tell)

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
        return self._outcome(call, self.write(call, landed), deadline_s, tell)

    def _outcome(self, call: PveCall, data: Any, deadline_s: float, tell: Tell | None) -> TaskResult:
        if not is_upid(data):
            return TaskResult(None, "OK")
        result = self.wait(data, deadline_s, tell)
        if not result.is_ok:
            raise task_failed(result, f"{call.method} {call.path}")
        return result

    def _ask(self, call: PveCall) -> Any:
        """One request, through proxmoxer, and what its answer means. Raises NoAnswer and ViOpsError."""
        verb = getattr(self._api(_quoted(call.path)), call.method.lower())
        try:
            return verb(**sendable(call.params))
        except ResourceException as error:
            raise self._refused(call, int(error.status_code), *error.errors) from None

    def _send(self, call: PveCall, body: Multipart) -> Any:
        """One upload, beside proxmoxer, which would hold the file in memory, but over the same session."""
        answer = self._session.request(
            call.method,
            f"{self._session.base_url}/{_quoted(call.path)}",
            data=body,
            headers={"Content-Type": body.content_type},
            timeout=UPLOAD_DEADLINES_S,
        )
        if answer.status_code >= 400:
            raise self._refused(call, answer.status_code, *read_words(answer))
        return read_data(answer)

    def _refused(self, call: PveCall, status: int, words: str, by_name: Mapping[str, str]) -> Exception:
        if words.startswith(_NOT_BEGUN):
            return NoAnswer(words, sent=False)
        if status == _NOBODY_THERE or status in _LOST:
            return NoAnswer(f"{status} {words}", sent=status != _NOBODY_THERE, slow=status in _SLOW)
        hidden = [str(call.params[name]) for name in call.secret if name in call.params]
        told = {name: masked(text, hidden) for name, text in by_name.items()}
        what = f"{call.method} {call.path}"
        return refusal(what, self.authid, self.spec.host, status, masked(words, hidden), told)

    def _give_up(self, call: PveCall, failure: NoAnswer) -> NoReturn:
        where = f"{self.spec.host} at {self.spec.api.url}"
        raise Unreachable(
            "pve-unreachable",
            f"{call.method} {call.path}: no answer from {where}: {failure.words}",
            hint=_LAB_DOWN if _is_here(self.spec.api.url) else _NODE_DOWN,
        ) from failure


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
        secret = read_secret(api.secret, owner, absent=_LAB_DOWN if _is_here(api.url) else None)
        if not secret.isascii():
            raise SpecError("secret-malformed", f"{owner}: a token's secret is plain ASCII, a UUID")
        login = Token(api.token, secret.removeprefix(f"{api.token}="))
    else:
        login = Password(str(api.user), read_secret(api.secret, owner))
    trust = establish_trust(api, spec.host, state_dir, confirm)
    return Pve(spec, PveSession(api.url.rstrip("/") + "/api2/json", trust, login))


def _is_here(url: str) -> bool:
    return "//127.0.0.1" in url or "//localhost" in url


def sendable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the node reads them: booleans 0 and 1, lists repeated, None left out, sshkeys encoded.

    sshkeys is stored percent-encoded, and form-encoded on top of that (qemu-server, format `urlencoded`).
    """
    sent: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, bool):
            sent[name] = int(value)
        elif name == "sshkeys" and value is not None:
            sent[name] = quote(unquote(str(value)), safe="")  # encoded once, whether it came encoded or not
        elif isinstance(value, tuple | list | frozenset):
            sent[name] = [int(item) if isinstance(item, bool) else item for item in value]
        elif value is not None:
            sent[name] = value
    return sent


def _is_worth_another(error: Exception) -> bool:
    return isinstance(error, NoAnswer) and error.again


def _quoted(path: str) -> str:
    return quote(path.strip("/"), safe="/:@!$,;=+~%")
