"""The known_hosts file: one entry for each host and port, others left alone, nothing taken that is no key."""

from __future__ import annotations

import threading
from pathlib import Path

import paramiko
import pytest

from vi_ops.errors import FactError
from vi_ops.execute.host_key import HostKey, host_pattern, parse_public_key, pin, pinned, unpin

KEY = paramiko.ECDSAKey.generate()
HOST_KEY = HostKey(KEY.get_name(), KEY.get_base64())


def test_a_public_key_is_parsed_and_fingerprinted() -> None:
    key = parse_public_key(f"{KEY.get_name()} {KEY.get_base64()} root@video-intelligence\n")
    assert key == HOST_KEY
    assert key.fingerprint == KEY.fingerprint


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", f"ssh-rsa {KEY.get_base64()}", "a b c"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(FactError):
        parse_public_key(text)


def test_a_new_pin_replaces_the_old_one_of_that_host_only(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    other = HostKey("ssh-ed25519", "AAAA")
    pin(path, "127.0.0.1", 22101, [other])
    pin(path, "127.0.0.1", 22106, [other])
    pin(path, "127.0.0.1", 22106, [HOST_KEY])
    assert pinned(path, "127.0.0.1", 22101) == (other,)
    assert pinned(path, "127.0.0.1", 22106) == (HOST_KEY,)
    assert path.stat().st_mode & 0o777 == 0o600


def test_unpin_says_whether_there_was_a_key(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    assert not unpin(path, "pve1", 22)
    pin(path, "pve1", 22, [HOST_KEY])
    assert unpin(path, "pve1", 22)
    assert pinned(path, "pve1", 22) == ()


def test_host_names_are_those_of_known_hosts() -> None:
    assert host_pattern("192.168.1.106", 22) == "192.168.1.106"
    assert host_pattern("127.0.0.1", 22106) == "[127.0.0.1]:22106"


def test_pins_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    threads = [threading.Thread(target=pin, args=(path, "h", port, [HOST_KEY])) for port in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(pinned(path, "h", port) for port in range(1, 21))
