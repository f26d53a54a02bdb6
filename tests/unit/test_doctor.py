"""What the doctor says of a node that answers and is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import Answer, FakePve, node_spec, serve_fake
from vi_ops.execute.doctor import Check, Verdict, examine, examine_machine, examine_node
from vi_ops.plan.role import least_grants
from vi_ops.specs.site import Site

ROOT = Path(__file__).parents[2]
STATUS = {"cpuinfo": {"cpus": 8}, "memory": {"total": 2, "used": 1}, "pveversion": "pve-manager/9.2.4/0"}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        node.on("GET", "/version", {"version": "9.2.4"})
        node.on("GET", "/nodes/pve1/status", STATUS)
        node.on("GET", "/nodes/pve1/network", [])
        node.on("GET", "/nodes/pve1/qemu", [])
        storage(node, content="images,import")
        grants = least_grants(Site(tmp_path, {}, {}), node_spec(node), 9)
        tree = {grant.path: dict.fromkeys(grant.privileges, 1) for grant in grants}
        node.on("GET", "/access/permissions", tree)
        node.on("GET", "/nodes/pve1/storage/local/content", [])
        yield node


def storage(fake: FakePve, **fields: Any) -> None:
    fake.on("GET", "/nodes/pve1/storage", [{"storage": "local", "type": "dir", "active": 1, **fields}])


def checks(fake: FakePve) -> dict[str, Check]:
    spec = node_spec(fake, ca_file=str(fake.home / "node.pem"))
    site = Site(fake.home, {"pve1": spec}, {})
    return {check.code: check for check in examine_node(site, spec, fake.home / "state")}


def test_a_node_as_it_should_be(fake: FakePve) -> None:
    assert {str(check.verdict) for check in checks(fake).values()} == {"ok"}


@pytest.mark.parametrize(
    ("ahead_s", "verdict"), [(0, "ok"), (20, "ok"), (-20, "ok"), (60, "warn"), (-400, "fail"), (400, "fail")]
)
def test_the_clocks_difference_has_limits(fake: FakePve, ahead_s: float, verdict: str) -> None:
    fake.clock_ahead_s = ahead_s
    check = checks(fake)["doctor-clock"]
    assert check.verdict == verdict
    assert ("behind" in check.message) is (ahead_s < 0)


def test_missing_rights_are_named_before_they_are_needed(fake: FakePve) -> None:
    fake.on("GET", "/access/permissions", {"/vms": {"VM.Audit": 1}})
    words = "Permission check failed (/nodes/pve1, Sys.Audit)"
    fake.on("GET", "/nodes/pve1/status", Answer(403, reason=words))
    assert "pve-permission" not in checks(fake)
    fake.on("GET", "/nodes/pve1/network", Answer(403, reason=words))
    found = checks(fake)
    assert found["doctor-rights"].verdict == "warn"
    assert "Sys.Audit on /nodes/pve1" in found["doctor-rights"].message
    assert "VM.Allocate" in found["doctor-rights"].message
    assert "VM.Audit" not in found["doctor-rights"].message
    assert found["pve-permission"].verdict == "fail"


def test_a_release_that_nobody_knows(fake: FakePve) -> None:
    fake.on("GET", "/version", {"version": "7.4-3"})
    assert checks(fake)["doctor-release"].verdict == "fail"


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"content": "images"}, "doctor-import", "pvesm set local --content images,import"),
        ({"content": "import", "active": 0}, "doctor-storage", "the node has local"),
        ({"content": "import", "storage": "nas"}, "doctor-storage", "the node has nas"),
    ],
)
def test_a_storage_that_will_not_do(fake: FakePve, fields: dict[str, Any], code: str, words: str) -> None:
    storage(fake, **fields)
    check = checks(fake)[code]
    assert check.verdict == "fail"
    assert words in str(check.hint)


@pytest.mark.parametrize(("proof", "verdict"), [(True, "ok"), (False, "warn"), (None, "warn")])
def test_kvm_counts_only_when_it_was_seen_to_work(
    monkeypatch: pytest.MonkeyPatch, proof: bool | None, verdict: str
) -> None:
    monkeypatch.setattr("vi_ops.execute.doctor.may_use_kvm", lambda: True)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    found = {check.code: check for check in examine_machine(lambda: proof)}
    assert found["doctor-kvm"].verdict == verdict


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _program: None)
    found = {check.code: check for check in examine_machine(lambda: True)}
    assert found["doctor-ssh"].verdict == "fail"
    assert found["doctor-qemu"].verdict == "warn"
    assert found["doctor-kvm"].verdict == "warn"


def test_a_missing_key_is_told_and_the_node_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VI_OPS_INVENTORY", str(ROOT / "inventory" / "example"))
    found = {check.code: check for check in examine(lambda: None)}
    assert (found["ssh-key-missing"].subject, found["ssh-key-missing"].verdict) == ("vm106", Verdict.WARN)
    assert "ssh-keygen" in str(found["ssh-key-missing"].hint)
    assert found["secret-missing"].subject == "pve1"
