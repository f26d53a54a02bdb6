"""What `status` writes in a row: how long ago a run ended, and no more than the screen holds."""

from __future__ import annotations

import io

import pytest

from vi_ops.cli import status
from vi_ops.execute.journal import RunRecord
from vi_ops.report.table import print_table
from vi_ops.report.text import console_on


@pytest.mark.parametrize(
    ("finished", "outcome", "words"),
    [
        (998.0, "ok", "provision: ok, 2 s ago"),
        (None, None, "provision: ended without a word (killed?), 15 min ago"),
    ],
)
def test_a_run_is_as_old_as_its_end(
    monkeypatch: pytest.MonkeyPatch, finished: float | None, outcome: str | None, words: str
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert status._run(RunRecord(1, "provision vm106", "vm106", "me", 100.0, finished, outcome)) == words


def test_a_crowded_row_fits_and_keeps_its_words() -> None:
    headers = ("VM", "VMID", "NODE", "STATE", "SSH", "LAST RUN")
    last = "provision: ended without a word (killed?), 24 s ago"
    rows = [
        ("vm106", "106", "pve1", "stopped, locked: create", "smith@127.0.0.1:22106 (no key)", last),
        ("vm101", "101", "pve1", "absent", "smith@127.0.0.1:22101", "none"),
    ]
    stream = io.StringIO()
    print_table(console_on(stream, width=80), headers, rows)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    for row in rows:
        for word in " ".join(row).split():
            assert word in words
    assert sum("smith@127.0.0.1:22106" in line for line in lines) == 1
