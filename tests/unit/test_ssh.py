"""SSH against a real server on loopback: the host key comes first, words arrive as they were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.support.ssh_server import SshServer, ssh_server
from vi_ops.errors import StepFailed, Unreachable
from vi_ops.execute.host_key import HostKey, pin
from vi_ops.execute.ssh import open_shell, openssh
from vi_ops.specs.ssh import SshTarget


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path) as running:
        yield running


@pytest.fixture
def known_hosts(tmp_path: Path, server: SshServer) -> Path:
    path = tmp_path / "known_hosts"
    pin(path, "127.0.0.1", server.port, [server.host_key])
    return path


def test_words_arrive_as_they_were_given(server: SshServer, known_hosts: Path) -> None:
    words = ["a b", "$HOME", "`id`", "it's", "x;y", ""]
    with open_shell(server.target, known_hosts) as shell:
        answer = shell.run(["printf", "<%s>", *words], deadline_s=10)
    assert answer.out == "".join(f"<{word}>" for word in words)


def test_an_unknown_host_key_is_refused_before_anything_is_sent(server: SshServer, tmp_path: Path) -> None:
    with (
        pytest.raises(Unreachable, match="host key is not known") as caught,
        open_shell(server.target, tmp_path / "none"),
    ):
        pass
    assert caught.value.code == "ssh-host-key-unknown"


def test_a_changed_host_key_is_refused_with_its_fingerprint(server: SshServer, known_hosts: Path) -> None:
    server.key = paramiko.ECDSAKey.generate()
    with pytest.raises(Unreachable) as caught, open_shell(server.target, known_hosts):
        pass
    assert caught.value.code == "ssh-host-key-changed"
    assert server.host_key.fingerprint in caught.value.message


def test_a_key_of_another_type_is_another_key(server: SshServer, tmp_path: Path) -> None:
    pinned = paramiko.RSAKey.generate(2048)
    pin(tmp_path / "hosts", "127.0.0.1", server.port, [HostKey(pinned.get_name(), pinned.get_base64())])
    with pytest.raises(Unreachable) as caught, open_shell(server.target, tmp_path / "hosts"):
        pass
    assert caught.value.code == "ssh-host-key-changed"


def test_a_pin_that_cannot_be_read_is_no_pin(server: SshServer, tmp_path: Path) -> None:
    pin(tmp_path / "hosts", "127.0.0.1", server.port, [HostKey("ssh-unheard-of", "AAAA")])
    with pytest.raises(Unreachable), open_shell(server.target, tmp_path / "hosts"):
        pass
    assert server.commands == []


def test_a_refused_login_says_who_where_and_with_which_key(server: SshServer, known_hosts: Path) -> None:
    server.user_key = paramiko.ECDSAKey.generate()
    with pytest.raises(Unreachable) as caught, open_shell(server.target, known_hosts):
        pass
    assert caught.value.code == "ssh-login-refused"
    for part in (f"smith@127.0.0.1:{server.port}", str(server.user_key_file)):
        assert part in caught.value.message


@pytest.mark.parametrize("content", [None, "no key at all"])
def test_an_unusable_key_is_named(
    server: SshServer, known_hosts: Path, content: str | None, tmp_path: Path
) -> None:
    server.user_key_file = tmp_path / "another"
    if content:
        server.user_key_file.write_text(content)
    refusal = pytest.raises(Unreachable, match=str(tmp_path / "another"))
    with refusal as caught, open_shell(server.target, known_hosts):
        pass
    assert caught.value.code == "ssh-key-unusable"


def test_nobody_at_the_port_is_unreachable(server: SshServer, tmp_path: Path) -> None:
    target = SshTarget(host="127.0.0.1", port=1, user="smith", key_file=str(server.user_key_file))
    pin(tmp_path / "hosts", "127.0.0.1", 1, [server.host_key])
    with pytest.raises(Unreachable) as caught, open_shell(target, tmp_path / "hosts"):
        pass
    assert caught.value.code == "ssh-unreachable"


def test_a_failing_command_shows_its_last_lines(server: SshServer, known_hosts: Path) -> None:
    with open_shell(server.target, known_hosts) as shell, pytest.raises(StepFailed) as caught:
        shell.run(["sh", "-c", "seq 20 >&2; exit 3"], deadline_s=10)
    assert "status 3" in caught.value.message
    assert caught.value.message.endswith("20")
    assert "\n    10\n" not in caught.value.message


def test_a_status_can_be_asked_for(server: SshServer, known_hosts: Path) -> None:
    with open_shell(server.target, known_hosts) as shell:
        assert shell.run(["false"], deadline_s=10, check=False).status == 1


@pytest.mark.slow
def test_a_command_that_outlasts_its_deadline_is_left(server: SshServer, known_hosts: Path) -> None:
    with open_shell(server.target, known_hosts) as shell, pytest.raises(StepFailed) as caught:
        shell.run(["sleep", "5"], deadline_s=1)
    assert caught.value.code == "ssh-deadline"


def test_put_writes_bytes_with_their_mode(server: SshServer, known_hosts: Path) -> None:
    with open_shell(server.target, known_hosts) as shell:
        shell.put(b"\x00secret\n", "/token", mode=0o600)
        with pytest.raises(StepFailed, match="cannot write /absent/token"):
            shell.put(b"x", "/absent/token")
    written = server.root / "token"
    assert written.read_bytes() == b"\x00secret\n"
    assert written.stat().st_mode & 0o777 == 0o600


def test_the_openssh_client_is_as_strict(tmp_path: Path) -> None:
    target = SshTarget(host="127.0.0.1", port=22106, user="smith", key_file="~/key")
    argv = openssh(target, tmp_path / "known hosts", tty=True)
    assert argv[:5] == ["ssh", "-F", "/dev/null", "-p", "22106"]
    assert "StrictHostKeyChecking=yes" in argv
    assert "GlobalKnownHostsFile=/dev/null" in argv
    assert f'UserKnownHostsFile="{tmp_path}/known hosts"' in argv
    assert argv[-2:] == ["-t", "smith@127.0.0.1"]
