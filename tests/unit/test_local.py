"""This machine's figures."""

from __future__ import annotations

import os
from pathlib import Path

from vi_ops.execute.local import free_bytes, may_use_kvm


def test_room_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    there = os.statvfs(tmp_path)
    expected = there.f_bavail * there.f_frsize
    assert abs(free_bytes(tmp_path / "not" / "yet") - expected) < 0.05 * expected


def test_a_device_that_is_not_there_cannot_be_used(tmp_path: Path) -> None:
    assert not may_use_kvm(tmp_path / "kvm")
    (tmp_path / "kvm").touch()
    assert may_use_kvm(tmp_path / "kvm")
