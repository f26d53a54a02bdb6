"""The guest agent of one VM: commands, programs and files in the guest, over the node's API."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vi_ops.errors import FactError, StepFailed, Unreachable
from vi_ops.execute.pve import Pve
from vi_ops.plan.step import PveCall

# Source of the split: the published schema, /nodes/{node}/qemu/{vmid}/agent/*.
_READS: Final = frozenset({"exec-status", "file-read", "info", "network-get-interfaces"})
# `content` takes 61,440 characters of base64 (qemu-server, src/PVE/API2/Qemu/Agent.pm).
FILE_WRITE_BYTES: Final = 46080
INPUT_BYTES: Final = 64 * 1024
POLL_FIRST_S: Final = 0.1
POLL_LONGEST_S: Final = 2.0


@dataclass(frozen=True)
class GuestExit:
    """How a program in the guest ended. `signal` is set instead of a meaningful `code` when it was killed."""

    code: int
    out: str
    err: str
    signal: int | None = None
    is_truncated: bool = False


@dataclass(frozen=True)
class Agent:
    """The agent of one VM. At most two calls at a time go to a node: each occupies one of its few workers."""

    pve: Pve
    vmid: int

    def call(self, command: str, params: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """One agent command and its result. Reads are repeated when the answer is lost, writes never.

        Raises StepFailed `pve-agent-error`, also for an error that the node wraps into a good answer;
        `pve-agent-silent`, `pve-agent-off`, `pve-not-running`; else as `Pve.get` and `Pve.write`.
        """
        path = f"/nodes/{self.pve.node_name}/qemu/{self.vmid}/agent/{command}"
        given = {**(params or {}), **named}
        with self.pve.agent_slots:
            if command in _READS or command.startswith("get-"):
                answer = self.pve.get(path, given)
            else:
                answer = self.pve.write(PveCall("POST", path, given))
        return _result(f"VM {self.vmid}: agent {command}", answer)

    def is_answering(self) -> bool:
        """Whether the agent answers a ping. Raises for a VM without agent, or one that does not run."""
        try:
            self.call("ping")
        except StepFailed as error:
            if error.code in {"pve-agent-silent", "pve-lost-answer"}:
                return False
            raise
        return True

    def interfaces(self) -> list[dict[str, Any]]:
        """The guest's network interfaces, as the agent lists them; loopback and docker bridges included."""
        answer = self.call("network-get-interfaces")
        return [row for row in answer if isinstance(row, dict)] if isinstance(answer, list) else []

    def run(self, argv: Sequence[str], deadline_s: float, stdin: bytes = b"") -> GuestExit:
        """Run a program in the guest, without a shell, and wait for its end.

        Its output comes only then. A status other than 0 is a result, no error. Raises StepFailed
        `pve-agent-deadline` (it goes on in the guest) and `pve-agent-lost` (it ended, its output is gone).
        """
        params: dict[str, Any] = {"command": tuple(argv)}
        if stdin:
            if len(stdin) > INPUT_BYTES:
                raise _too_large(f"VM {self.vmid}: input of {argv[0]}", len(stdin), INPUT_BYTES)
            params["input-data"] = stdin.decode("utf-8")
        started = self.call("exec", params)
        if not isinstance(started, Mapping) or "pid" not in started:
            raise FactError("pve-answer", f"VM {self.vmid}: agent exec: expected a pid, got {started!r}")
        end_s = time.monotonic() + deadline_s
        pause_s = POLL_FIRST_S
        while True:
            status = self._status(int(started["pid"]), argv[0])
            if status is not None:
                return status
            if time.monotonic() + pause_s > end_s:
                raise StepFailed(
                    "pve-agent-deadline",
                    f"VM {self.vmid}: {argv[0]} did not end within {deadline_s:.0f} s; pid {started['pid']}",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_LONGEST_S)

    def _status(self, pid: int, program: str) -> GuestExit | None:
        """One look at a program. The agent forgets a finished one as soon as it has told of it."""
        try:
            status = self.call("exec-status", pid=pid)
        except Unreachable:
            return None  # it may have told of the end just then: the next look says whether it still knows
        except StepFailed as error:
            if error.code == "pve-agent-error" and "does not exist" in error.message:
                raise StepFailed(
                    "pve-agent-lost",
                    f"VM {self.vmid}: {program} (pid {pid}) has ended, but its result was lost on the way",
                ) from error
            if error.code == "pve-agent-silent":
                return None
            raise
        if not isinstance(status, Mapping) or not int(status.get("exited") or 0):
            return None
        return GuestExit(
            code=int(status.get("exitcode") or 0),
            out=_bytes(status.get("out-data")).decode("utf-8", errors="replace"),
            err=_bytes(status.get("err-data")).decode("utf-8", errors="replace"),
            signal=int(status["signal"]) if status.get("signal") is not None else None,
            is_truncated=any(int(status.get(key) or 0) for key in ("out-truncated", "err-truncated")),
        )

    def read_file(self, path: str) -> bytes:
        """A file in the guest, up to 16 MiB. Raises FactError for a file that did not come whole."""
        answer = self.call("file-read", file=path)
        answer = answer if isinstance(answer, Mapping) else {}
        if int(answer.get("truncated") or 0):
            raise FactError(
                "pve-agent-size", f"VM {self.vmid}: {path} is larger than the agent reads (16 MiB)"
            )
        return _bytes(answer.get("content"))

    def write_file(self, path: str, content: bytes) -> None:
        """Write a small file in the guest, replacing it; mode and owner are the agent's (0644, root)."""
        if len(content) > FILE_WRITE_BYTES:
            raise _too_large(f"VM {self.vmid}: {path}", len(content), FILE_WRITE_BYTES)
        text = base64.b64encode(content).decode("ascii")
        # Left to itself the node encodes Latin-1 and breaks on anything else.
        self.call("file-write", file=path, content=text, encode=False)


def _result(what: str, answer: Any) -> Any:
    result = answer.get("result", answer) if isinstance(answer, Mapping) else answer
    error = result.get("error") if isinstance(result, Mapping) else None
    if error:
        # An agent that does not know a command gives an error inside an answer with status 200.
        words = error.get("desc", error) if isinstance(error, Mapping) else error
        raise StepFailed("pve-agent-error", f"{what}: {words}")
    return result


def _bytes(text: Any) -> bytes:
    """Undo what the node does to output: each byte sent as the code point of the same number."""
    words = str(text or "")
    try:
        return words.encode("latin-1")
    except UnicodeEncodeError:
        return words.encode("utf-8")


def _too_large(what: str, size: int, limit: int) -> StepFailed:
    return StepFailed(
        "pve-agent-size", f"{what}: {size} bytes are more than the {limit} that one agent call takes"
    )
