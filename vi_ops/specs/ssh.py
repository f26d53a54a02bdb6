"""How SSH reaches a host: Ansible's own variables, read once."""

from __future__ import annotations

from vi_ops.specs.model import Spec


class SshTarget(Spec):
    """From `ansible_host`, `ansible_port`, `ansible_user` and `ansible_ssh_private_key_file`."""

    host: str
    port: int = 22
    user: str | None = None
    key_file: str | None = None
