"""The one door to Ansible: a playbook against one host of the inventory, its tasks as progress."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_runner import Runner
from ansible_runner.config.runner import RunnerConfig

from vi_ops.errors import StepFailed, Unreachable
from vi_ops.execute.ssh import CONNECT_DEADLINE_S
from vi_ops.share import share_path

# What a user's shell may say to Ansible and still be heard: where the vault's password comes from.
_KEPT = {"ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"}


@dataclass(frozen=True)
class PlaybookResult:
    """What a playbook did to a host: how many tasks found things right, and how many changed something."""

    ok: int
    changed: int


def run_playbook(
    name: str,
    host: str,
    *,
    inventory: Path,
    known_hosts: Path,
    user: str | None,
    deadline_s: float,
    tell: Callable[[str], None] = lambda line: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> PlaybookResult:
    """Run `playbooks/<name>.yml` limited to `host`, against the same inventory that the specs come from.

    `user` logs in where the inventory names no ansible_user; host keys are those of `known_hosts`. No user
    config, and no ANSIBLE_* variable but the vault's, has a say. `tell` gets the name of each task as it
    begins; when `is_stopped` becomes true the playbook is ended. Raises StepFailed with the task and its
    message, Unreachable when Ansible could not connect, KeyboardInterrupt when it was ended.
    """
    log = _Log(tell)
    with tempfile.TemporaryDirectory(prefix="vi-ops-") as private:
        config = RunnerConfig(
            private_data_dir=private,
            playbook=str(share_path("playbooks") / f"{name}.yml"),
            inventory=str(inventory.resolve()),
            limit=host,
            timeout=round(deadline_s),
            quiet=True,
        )
        config.prepare()
        config.env = _environment(config.env, Path(private), known_hosts, user)
        runner = Runner(config, event_handler=log.take, cancel_callback=is_stopped)
        status, _ = runner.run()
        _check(name, host, status, log, deadline_s)
        return PlaybookResult(ok=log.count("ok", host), changed=log.count("changed", host))


class _Log:
    """What the events of one run said."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.failure: tuple[str, str] | None = None
        self.unreachable: str | None = None
        self.lines: list[str] = []
        self._stats: Mapping[str, Any] = {}

    def take(self, event: Mapping[str, Any]) -> bool:
        """Read one event; gives False, so that ansible-runner writes nothing of it to disk."""
        kind, told = event.get("event", ""), event.get("event_data", {})
        if event.get("stdout"):
            self.lines = [*self.lines, *str(event["stdout"]).splitlines()][-10:]
        if kind == "playbook_on_task_start":
            self._tell(told.get("task", ""))
        elif kind == "runner_on_failed" and not told.get("ignore_errors"):
            self.failure = (str(told.get("task")), _message(told.get("res", {})))
        elif kind == "runner_on_unreachable":
            self.unreachable = _message(told.get("res", {}))
        elif kind == "playbook_on_stats":
            self._stats = told
        return False

    def count(self, what: str, host: str) -> int:
        return int(self._stats.get(what, {}).get(host, 0))


def _check(name: str, host: str, status: str, log: _Log, deadline_s: float) -> None:
    if status == "canceled":
        raise KeyboardInterrupt
    if status == "timeout":
        raise StepFailed("ansible-deadline", f"{host}: playbook {name} was not done after {deadline_s:.0f} s")
    if log.unreachable:
        raise Unreachable("ansible-unreachable", f"{host}: Ansible cannot connect: {log.unreachable}")
    if log.failure:
        task, message = log.failure
        raise StepFailed("ansible-task-failed", f"{host}: playbook {name}, task {task!r} failed: {message}")
    if status != "successful":
        tail = "".join(f"\n    {line}" for line in log.lines)
        raise StepFailed("ansible-failed", f"{host}: playbook {name} did not run ({status}){tail}")


def _environment(
    base: Mapping[str, str], private: Path, known_hosts: Path, user: str | None
) -> dict[str, str]:
    """The environment of ansible-playbook: ansible-runner's own, less the user's, with our strictness."""
    theirs = {key for key in os.environ if key.startswith("ANSIBLE_")} - _KEPT
    runners = {"ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_RETRY_FILES_ENABLED"}
    kept = {key: value for key, value in base.items() if key not in theirs or key in runners}
    login = {"ANSIBLE_REMOTE_USER": user} if user else {}
    return (
        kept
        | login
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}",
            "ANSIBLE_CONFIG": str(share_path("playbooks") / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(share_path("playbooks") / "roles"),
            "ANSIBLE_HOME": str(private / "home"),
            "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(private / "cp"),
            "ANSIBLE_SSH_ARGS": _ssh_args(known_hosts),
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            # For a connection, and for sudo after it: 10 s is too short for an emulated guest.
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        }
    )


def _ssh_args(known_hosts: Path) -> str:
    """Options for Ansible's ssh, as strict as our own; quoted twice: for Ansible's split, and for ssh's."""
    options = {
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": f"{CONNECT_DEADLINE_S:.0f}",
        "ControlMaster": "auto",
        "ControlPersist": "30s",
    }
    words = ["-F", "/dev/null"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return shlex.join(words)


def _message(result: Mapping[str, Any]) -> str:
    """The words of a failed module: its message, and the end of what its command said."""
    if result.get("censored"):
        return str(result["censored"])
    parts = [str(result.get("msg", "")).strip()]
    streams = ("stderr", "module_stderr", "module_stdout")
    said = next((str(result[name]).strip() for name in streams if result.get(name)), "")
    if said and said not in parts[0]:
        parts += said.splitlines()[-10:]
    return "\n    ".join(part for part in parts if part) or "no message"
