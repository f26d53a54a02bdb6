"""Read a secret from where the inventory says: environment, a 0600 file, a command or a keyring."""

from __future__ import annotations

import importlib
import os
import subprocess
from pathlib import Path
from typing import Final

from vi_ops.errors import Refused, SpecError
from vi_ops.specs.node import SecretSpec

COMMAND_DEADLINE_S: Final = 30


def read_secret(spec: SecretSpec, owner: str, *, absent: str | None = None) -> str:
    """The secret, without surrounding blanks. `owner` says whose it is, `absent` what to do about no file.

    Raises SpecError where nothing can be read, and Refused for a file that others may read. The secret is in
    no message.
    """
    if spec.env is not None:
        text = _from_env(spec.env, owner)
    elif spec.file is not None:
        text = _from_file(Path(spec.file).expanduser(), owner, absent)
    elif spec.command is not None:
        text = _from_command(spec.command, owner)
    else:
        text = _from_keyring(str(spec.keyring), owner)
    secret = text.strip()
    if not secret:
        raise SpecError("secret-empty", f"{owner}: the secret is empty")
    if not secret.isprintable():
        raise SpecError("secret-malformed", f"{owner}: the secret has more than one line")
    return secret


def _from_env(name: str, owner: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SpecError("secret-missing", f"{owner}: the environment has no {name}", hint=f"export {name}=…")
    return value


def _from_file(path: Path, owner: str, absent: str | None) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise Refused(
                "secret-mode",
                f"{owner}: {path} has mode {mode:04o}, so others on this machine may read the secret",
                hint=f"chmod 600 {path}",
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        hint = absent or f"write the secret into it with mode 0600: (umask 077; cat > {path})"
        raise SpecError("secret-missing", f"{owner}: cannot read {path}: {reason}", hint=hint) from error


def _from_command(argv: tuple[str, ...], owner: str) -> str:
    if not argv:
        raise SpecError("secret-command", f"{owner}: the command that gives the secret is empty")
    try:
        # stderr stays connected: such commands ask for a passphrase there.
        done = subprocess.run(argv, stdout=subprocess.PIPE, timeout=COMMAND_DEADLINE_S, check=True, text=True)
    except subprocess.CalledProcessError as error:
        message = f"{owner}: {argv[0]} ended with status {error.returncode} instead of printing the secret"
        raise SpecError("secret-command", message) from None  # the cause carries what it printed
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise SpecError("secret-command", f"{owner}: cannot run {argv[0]}: {reason}") from None
    return done.stdout.partition("\n")[0]


def _from_keyring(name: str, owner: str) -> str:
    service, slash, user = name.rpartition("/")
    if not slash:
        raise SpecError("secret-keyring", f"{owner}: expected a keyring entry as service/name, got {name!r}")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        message = f"{owner}: the Python package keyring is not installed"
        raise SpecError("secret-keyring", message, hint="pipx inject vi-ops keyring") from error
    try:
        value = keyring.get_password(service, user)
    except Exception as error:  # each back end raises its own
        raise SpecError("secret-keyring", f"{owner}: the keyring said: {error}") from error
    if value is None:
        raise SpecError("secret-missing", f"{owner}: the keyring has no {user} under {service}")
    return str(value)
