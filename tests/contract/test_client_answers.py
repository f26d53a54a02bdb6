"""Every refusal that a real node was recorded with becomes an error with a code, its words and a remedy.

The records are played back to the client byte for byte: status, reason phrase and body. They were taken from
Proxmox's own API server (see ../shared/pve-api/README.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pve import Answer, FakePve, node_spec, serve_fake
from vi_ops.codes import register
from vi_ops.errors import ViOpsError
from vi_ops.execute.pve import Pve, connect
from vi_ops.execute.refusal import meaning_of
from vi_ops.plan.step import PveCall

SHARED = Path(__file__).parents[3] / "shared" / "pve-api"
RELEASES = ("8.4", "9.2")
# Texts of a server that lacked a program or a database; a node that works never says them.
ODD = ("RRD error", "start worker failed")


def records(release: str) -> list[dict[str, Any]]:
    file = SHARED / f"transcripts-{release}.jsonl"
    if not file.exists():
        pytest.skip(f"../shared/pve-api/{file.name} is not here")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakePve]:
    with serve_fake(tmp_path) as node:
        yield node


@pytest.fixture
def pve(fake: FakePve) -> Iterator[Pve]:
    with connect(node_spec(fake, ca_file=str(fake.home / "node.pem")), state_dir=fake.home) as api:
        yield api


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_refusal_is_understood(release: str, fake: FakePve, pve: Pve) -> None:
    refused = [record for record in records(release) if record["status"] >= 400]
    assert len(refused) > 30
    for record in refused:
        error = played_back(record, fake, pve)
        assert error.code in register()
        assert error.hint, record
        assert f"{record['method']} {record['path']}" in error.message
        assert " ".join(record["reason"].split()).rstrip(".") in error.message
        for name in record["body"].get("errors", {}):
            assert name in error.message
        if not any(words in record["reason"] for words in ODD):
            assert error.code != "pve-failed", error.message


def played_back(record: dict[str, Any], fake: FakePve, pve: Pve) -> ViOpsError:
    body = record["body"]
    raw = body["_raw"].encode() if "_raw" in body else json.dumps(body).encode()
    call = PveCall(record["method"], record["path"])
    fake.faults.clear()
    fake.fail(call.method, call.path, *[Answer(record["status"], reason=record["reason"], raw=raw)] * 4)
    with pytest.raises(ViOpsError) as caught:
        pve.get(call.path) if call.method == "GET" else pve.write(call)
    return caught.value


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_failure_of_a_task_has_a_remedy(release: str) -> None:
    ended = [
        record["task"].get("status", {}).get("exitstatus")
        for record in records(release)
        if record.get("task")
    ]
    failed = [
        words for words in ended if words and words != "OK" and not words.startswith(("WARNINGS", "command"))
    ]
    assert failed
    assert not [words for words in failed if meaning_of(words) is None]


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_success_is_its_data(release: str, fake: FakePve, pve: Pve) -> None:
    for record in records(release):
        if record["status"] == 200 and record["method"] == "GET" and "data" in record["body"]:
            fake.fail("GET", record["path"], Answer(raw=json.dumps(record["body"]).encode()))
            assert pve.get(record["path"]) == record["body"]["data"]
