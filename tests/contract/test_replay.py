"""The lab answers as Proxmox's own API server did, request by request, for both releases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.contract.replay import exceptions, records, replay

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("release", ["8.4", "9.2"])
def test_lab_answers_as_recorded(release: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = records(release)
    if recorded is None:
        pytest.skip("the recorded answers are not at hand (../shared/pve-api)")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU on this machine")
    known = exceptions(release)
    outcomes = list(replay(release, tmp_path / "lab"))
    differing = {outcome.index: outcome for outcome in outcomes if outcome.differences}
    with capsys.disabled():
        matches = len(outcomes) - len(differing)
        print(f"\nrelease {release}: {len(recorded)} records, {matches} matches, {len(known)} exceptions")
    assert len(outcomes) == len(recorded)
    assert known.keys() <= differing.keys(), "an exception is stale: the lab answers as recorded"
    unexpected = [o for o in differing.values() if o.index not in known]
    assert not unexpected, "\n".join(f"#{o.index} {o.asked}: {o.differences}" for o in unexpected)
