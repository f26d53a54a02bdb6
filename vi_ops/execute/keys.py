"""Public SSH keys for cloud-init: the user's own, or the half of a pair that the tool keeps for itself."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from platformdirs import user_data_path

from vi_ops.errors import SpecError
from vi_ops.execute.state import state_root

# OpenSSH's default identities, in its order: ssh_config(5), IdentityFile.
_OWN_KEYS = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")


def public_keys(entry: str, key_file: Path | None, home: Path) -> tuple[str, ...]:
    """Key texts for one entry of `ssh_keys`: `auto`, a path of a `.pub` file, or a text, given back as it is.

    `auto` is the public half of `key_file` (Ansible's `ansible_ssh_private_key_file`) where that is set, so
    that the key that cloud-init installs is the one that SSH and Ansible log in with; else every default key
    in `home`/.ssh. Raises SpecError `ssh-key-missing` with the command that makes one.
    """
    if entry == "auto":
        return _keys_of_pair(key_file) if key_file else _own_keys(home)
    if entry.startswith(("~", "/", ".")) or entry.endswith(".pub"):
        return _read(Path(entry).expanduser())
    return (entry,)


def _own_keys(home: Path) -> tuple[str, ...]:
    files = [home / ".ssh" / f"{name}.pub" for name in _OWN_KEYS]
    keys = tuple(key for file in files if file.is_file() for key in _read(file))
    if not keys:
        raise SpecError(
            "ssh-key-missing",
            f"there is no SSH key in {home / '.ssh'}",
            hint="make one with `ssh-keygen -t ed25519`",
        )
    return keys


def _keys_of_pair(key_file: Path) -> tuple[str, ...]:
    public = key_file.with_name(f"{key_file.name}.pub")
    if not public.is_file():
        if not _is_ours(key_file):
            raise SpecError(
                "ssh-key-missing",
                f"{public} is not there: 'auto' is the public half of ansible_ssh_private_key_file",
                hint=f"make it with `ssh-keygen -y -f {key_file} > {public}`"
                if key_file.is_file()
                else f"make the pair with `ssh-keygen -t ed25519 -f {key_file}`",
            )
        make_key_pair(key_file)
    return _read(public)


def _is_ours(path: Path) -> bool:
    """Whether a path lies in a directory that belongs to the tool: its state, its data, the lab's home."""
    lab = os.environ.get("VI_OPS_LAB_DIR")
    ours = (state_root(), user_data_path("vi-ops"), *([Path(lab)] if lab else []))
    return any(path.resolve().is_relative_to(folder.expanduser().resolve()) for folder in ours)


def make_key_pair(key_file: Path) -> None:
    """Make an Ed25519 pair, or the missing public half: `key_file` (0600) and `key_file`.pub.

    Two at once agree on one pair: the private half is linked into place, the loser takes the winner's.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not key_file.exists():
        text = Ed25519PrivateKey.generate().private_bytes(
            form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()
        )
        draft = _draft(key_file.parent, text)
        try:
            os.link(draft, key_file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    private = form.load_ssh_private_key(key_file.read_bytes(), None)
    public = private.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    _draft(key_file.parent, public + b" vi-ops\n").replace(key_file.with_name(f"{key_file.name}.pub"))


def _draft(folder: Path, content: bytes) -> Path:
    """A new file of mode 0600 with a name that nobody else has."""
    with NamedTemporaryFile(dir=folder, prefix=".", delete=False) as draft:
        draft.write(content)
    return Path(draft.name)


def _read(file: Path) -> tuple[str, ...]:
    """The keys of a file, one on each line that is neither empty nor a comment."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SpecError("ssh-key-missing", f"cannot read the public key {file}: {reason}") from error
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
