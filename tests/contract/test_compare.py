"""The comparison itself: it sees what differs, and overlooks what belongs to one machine only."""

from __future__ import annotations

from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest

from tests.contract.compare import differences
from tests.support.lab import Answer

JSON = "application/json;charset=UTF-8"
HOME = Path("/tmp/lab")
CONFIG, STATUS = "/nodes/pve1/qemu/1/config", "/nodes/pve1/status"
UPIDS = (
    "UPID:pve1:00000458:0006462F:6B001311:qmstart:1:ops@pve:",
    "UPID:pve1:0000AAAA:0016462F:6B00FFFF:qmstart:1:ops@pve:",
)


def seen(
    path: str, recorded: Any, answered: Any, status: tuple[int, int] = (200, 200), reason: str = "OK"
) -> list[str]:
    headers = HTTPMessage()
    headers["Content-Type"] = JSON
    record = {"path": path, "status": status[0], "reason": "OK", "content_type": JSON, "body": recorded}
    return differences(record, Answer(status[1], reason, headers, answered), None, HOME)


def data(value: Any) -> dict[str, Any]:
    return {"data": value}


@pytest.mark.parametrize(
    ("path", "recorded", "answered"),
    [
        (CONFIG, data({"cores": 2}), data({"cores": 2})),
        (CONFIG, data([1, 2]), data([2, 1])),
        (CONFIG, data({"digest": "a" * 40}), data({"digest": "b" * 40})),
        (CONFIG, data(UPIDS[0]), data(UPIDS[1])),
        (CONFIG, data("/var/lib/vz/import/x"), data("/tmp/lab/storage/local/import/x")),
        (STATUS, data({"cpu": 0}), data({"cpu": 0.5})),
        (STATUS, data({"cpu": 0}), data({"cpu": 1, "new": 1})),
        (STATUS, data([]), data([{"id": 1}])),
    ],
)
def test_match(path: str, recorded: Any, answered: Any) -> None:
    assert seen(path, recorded, answered) == []


@pytest.mark.parametrize(
    ("path", "recorded", "answered"),
    [
        (CONFIG, data({"cores": 2}), data({"cores": "2"})),
        (CONFIG, data({"cores": 2}), data({"cores": 3})),
        (CONFIG, data({"cores": 2}), data({})),
        (CONFIG, data({}), data({"cores": 2})),
        (CONFIG, data(UPIDS[0]), data(UPIDS[0].replace("qmstart", "qmstop"))),
        (STATUS, data({"cpu": 0}), data({})),
        (STATUS, data({"cpu": 0}), data({"cpu": "0"})),
        (STATUS, data([{"id": 1, "x": 1}]), data([{"id": 1}])),
        (STATUS, data([{"id": 1}]), data([])),
        (STATUS, data(None), {"data": None, "total": 0}),
        (STATUS, {"_raw": ""}, data(None)),
    ],
)
def test_difference(path: str, recorded: Any, answered: Any) -> None:
    assert len(seen(path, recorded, answered)) == 1


def test_status_reason_and_errors_differ() -> None:
    said = {"data": None, "message": "no\n", "errors": {"a": "x\ny\n"}}
    assert (
        seen(STATUS, said, {**said, "errors": {"a": "y\nx\n"}}, (400, 400)) == []
    )  # Perl's hashes have no order
    assert len(seen(STATUS, said, {**said, "errors": {"b": "x\ny\n"}}, (400, 400))) == 1
    assert len(seen(STATUS, said, {**said, "message": "yes\n"}, (400, 400))) == 1
    assert len(seen(STATUS, data(1), data(1), (200, 201))) == 1
    assert len(seen(STATUS, data(1), data(1), reason="Fine")) == 1
