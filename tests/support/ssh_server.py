"""An SSH server on loopback that runs commands on this machine and writes files below a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from vi_ops.execute.host_key import HostKey
from vi_ops.specs.ssh import SshTarget


@dataclass
class SshServer:
    """A running server. Replace `key` to play a guest that was made anew."""

    root: Path
    port: int
    key: paramiko.PKey
    user_key: paramiko.PKey
    user_key_file: Path
    commands: list[str] = field(default_factory=list)

    @property
    def target(self) -> SshTarget:
        return SshTarget(host="127.0.0.1", port=self.port, user="smith", key_file=str(self.user_key_file))

    @property
    def host_key(self) -> HostKey:
        return HostKey(self.key.get_name(), self.key.get_base64())


class _Login(paramiko.ServerInterface):
    def __init__(self, server: SshServer) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        right = username == "smith" and key == self._server.user_key
        return paramiko.common.AUTH_SUCCESSFUL if right else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.commands.append(command.decode())
        threading.Thread(target=_run, args=(channel, command), daemon=True).start()
        return True


class _Files(paramiko.SFTPServerInterface):
    root: Path

    def __init__(self, server: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self.root = server._server.root

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            descriptor = os.open(self.root / path.lstrip("/"), flags, 0o644)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        file = os.fdopen(descriptor, "wb")
        handle = paramiko.SFTPHandle(flags)
        handle.writefile = file  # type: ignore[attr-defined]
        handle.chattr = lambda wanted: _chmod(file, wanted)  # type: ignore[method-assign,assignment]
        return handle


def _chmod(file: Any, wanted: Any) -> int:
    os.fchmod(file.fileno(), wanted.st_mode)
    return paramiko.SFTP_OK


def _run(channel: paramiko.Channel, command: bytes) -> None:
    with suppress(OSError, paramiko.SSHException):
        done = subprocess.run(["sh", "-c", command.decode()], capture_output=True, check=False, timeout=30)
        channel.sendall(done.stdout)
        channel.sendall_stderr(done.stderr)
        channel.send_exit_status(done.returncode)
        channel.close()


@contextmanager
def ssh_server(root: Path) -> Iterator[SshServer]:
    """Serve until the block ends; `root` holds the user's key and what SFTP writes."""
    listener = socket.create_server(("127.0.0.1", 0))
    user_key_file = root / "id_ecdsa"
    user_key = paramiko.ECDSAKey.generate()
    user_key.write_private_key_file(str(user_key_file))
    server = SshServer(root, listener.getsockname()[1], paramiko.ECDSAKey.generate(), user_key, user_key_file)
    transports: list[paramiko.Transport] = []
    thread = threading.Thread(target=_accept, args=(listener, server, transports), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for transport in transports:
            transport.close()


def _accept(listener: socket.socket, server: SshServer, transports: list[paramiko.Transport]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        transport = paramiko.Transport(client)
        transport.add_server_key(server.key)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
        transports.append(transport)
        with suppress(paramiko.SSHException, EOFError):
            transport.start_server(server=_Login(server))
