"""The one door to SSH: connections that know their host's key beforehand, and commands with a deadline."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabric import Config, Connection
from invoke.exceptions import CommandTimedOut
from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    PasswordRequiredException,
    PKey,
    RejectPolicy,
)
from paramiko.ssh_exception import NoValidConnectionsError, SSHException

from vi_ops.errors import StepFailed, Unreachable
from vi_ops.execute.host_key import pinned
from vi_ops.specs.ssh import SshTarget

CONNECT_DEADLINE_S = 15.0


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit status and its texts."""

    status: int
    out: str
    err: str


class Shell:
    """A host on which commands can be run."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    def run(self, argv: Sequence[str], *, deadline_s: float, check: bool = True) -> Answer:
        """Run a command, each word quoted for the shell at the other end.

        Raises StepFailed with the last ten lines when it fails (unless `check` is off) or outlasts its
        deadline, Unreachable when the connection breaks.
        """
        command = shlex.join(argv)
        try:
            result = self._connection.run(
                command, hide=True, warn=True, in_stream=False, timeout=max(1, round(deadline_s))
            )
        except CommandTimedOut as error:
            message = f"{self.name}: `{command}` was not done after {deadline_s:.0f} s"
            raise StepFailed("ssh-deadline", message + _tail(error.result.stderr)) from error
        except (SSHException, OSError, EOFError) as error:
            raise Unreachable(
                "ssh-broken", f"{self.name}: the connection broke while `{command}` ran: {error}"
            ) from error
        if check and result.exited != 0:
            text = _tail(result.stderr or result.stdout)
            raise StepFailed(
                "ssh-command-failed", f"{self.name}: `{command}` ended with status {result.exited}{text}"
            )
        return Answer(result.exited, result.stdout, result.stderr)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file at the other end, by SFTP; the directory has to exist."""
        try:
            with self._connection.sftp().open(path, "w") as file:
                file.chmod(mode)  # before the content, which may be secret
                file.write(content)
        except (SSHException, OSError) as error:
            raise StepFailed("ssh-put-failed", f"{self.name}: cannot write {path}: {error}") from error


@contextmanager
def open_shell(
    target: SshTarget, known_hosts: Path, *, deadline_s: float = CONNECT_DEADLINE_S
) -> Iterator[Shell]:
    """Connect with the key of the inventory to a host whose key is pinned.

    Nobody's ~/.ssh/config and no unknown host key is accepted. Raises Unreachable saying where, as whom
    and with which key it was tried.
    """
    name = describe(target)
    if not pinned(known_hosts, target.host, target.port):
        raise Unreachable(
            "ssh-host-key-unknown",
            f"{name}: its host key is not known, and an unknown one is not accepted",
            hint="`vi-ops provision` and `vi-ops ssh` ask the guest agent for it",
        )
    connection = _connection(target, known_hosts, deadline_s)
    try:
        _open(connection, target, name)
        yield Shell(connection, name)
    finally:
        connection.close()


def describe(target: SshTarget) -> str:
    """`smith@127.0.0.1:22106`, as messages name a connection."""
    user = f"{target.user}@" if target.user else ""
    return f"{user}{target.host}:{target.port}"


def _connection(target: SshTarget, known_hosts: Path, deadline_s: float) -> Connection:
    wanted: dict[str, Any] = {
        "allow_agent": target.key_file is None,
        "look_for_keys": target.key_file is None,
    }
    if target.key_file:
        wanted["pkey"] = _load_key(Path(target.key_file).expanduser())
    for part in ("banner_timeout", "auth_timeout", "channel_timeout"):
        wanted[part] = deadline_s
    connection = Connection(
        target.host,
        user=target.user,
        port=target.port,
        config=Config(overrides={"load_ssh_configs": False}, lazy=True),
        connect_timeout=max(1, round(deadline_s)),
        connect_kwargs=wanted,
    )
    connection.client.load_host_keys(str(known_hosts))
    connection.client.set_missing_host_key_policy(RejectPolicy())
    return connection


def _load_key(path: Path) -> PKey:
    """Load a private key ourselves: paramiko's own search reports the error of the last format it tried."""
    try:
        return PKey.from_path(path)
    except PasswordRequiredException as error:
        hint = "add it to ssh-agent and leave ansible_ssh_private_key_file away"
        raise Unreachable("ssh-key-unusable", f"{path}: the key has a passphrase", hint=hint) from error
    except (OSError, ValueError, SSHException) as error:
        raise Unreachable("ssh-key-unusable", f"{path}: not a usable private key: {error}") from error


def _open(connection: Connection, target: SshTarget, name: str) -> None:
    tried = f"with key {target.key_file}" if target.key_file else "with the keys of ssh-agent and ~/.ssh"
    try:
        connection.open()
    except BadHostKeyException as error:
        raise Unreachable(
            "ssh-host-key-changed",
            f"{name}: the host shows another {error.key.get_name()} key than the pinned one"
            f" ({error.key.fingerprint})",
            hint="somebody may be in between; `vi-ops provision` asks the guest agent again",
        ) from error
    except AuthenticationException as error:
        raise Unreachable("ssh-login-refused", f"{name}: login refused {tried}: {error}") from error
    except (NoValidConnectionsError, SSHException, OSError, EOFError) as error:
        why = str(error) or type(error).__name__
        raise Unreachable("ssh-unreachable", f"{name}: no SSH connection ({tried}): {why}") from error


def openssh(
    target: SshTarget,
    known_hosts: Path,
    *,
    tty: bool = False,
    is_first_asked: bool = False,
    user: str | None = None,
) -> list[str]:
    """The OpenSSH client's argv up to the host, with the same strictness as `open_shell`.

    `is_first_asked` lets a person confirm an unknown host key: for nodes, which no agent vouches for.
    `user` stands in where the inventory names none.
    """
    options = {
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "ask" if is_first_asked else "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(round(CONNECT_DEADLINE_S)),
    }
    argv = ["ssh", "-F", "/dev/null", "-p", str(target.port)]
    if target.key_file:
        options["IdentitiesOnly"] = "yes"
        argv += ["-i", str(Path(target.key_file).expanduser())]
    for name, value in options.items():
        argv += ["-o", f'{name}="{value}"' if " " in value else f"{name}={value}"]
    if tty:
        argv.append("-t")
    login = target.user or user
    return [*argv, f"{login}@{target.host}" if login else target.host]


def _tail(text: str, count: int = 10) -> str:
    lines = text.rstrip().splitlines()[-count:]
    return "".join(f"\n    {line}" for line in lines)
