"""Facts from answers: recorded ones, and such as no node should give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from vi_ops.errors import FactError
from vi_ops.facts.node import NodeAnswers, parse_guests, parse_node, parse_storages, parse_taken
from vi_ops.facts.task import (
    TaskKind,
    find_task,
    is_upid,
    parse_log,
    parse_task,
    parse_upid,
    running_tasks,
    task_of_call,
)
from vi_ops.facts.vm import parse_pending, parse_started_with, parse_vm

CASES = Path(__file__).parents[1] / "cases" / "facts"
UPID = "UPID:pve1:00000079:0009913B:6B001B7F:qmstart:106:root@pam!viops:"

PARSERS: dict[str, Callable[[Any], Any]] = {
    "node": lambda asked: parse_node("pve1", NodeAnswers(**asked)),
    "storages": lambda asked: tuple(parse_storages(asked)),
    "guests": lambda asked: tuple(parse_guests(asked)),
    "taken": lambda asked: parse_taken(asked, "pve1"),
    "started-with": parse_started_with,
    "vm": lambda asked: parse_vm(106, "pve1", asked["pending"], asked["status"]),
    "upid": parse_upid,
    "task": lambda asked: parse_task(parse_upid(UPID), asked["status"], parse_log(asked["log"])),
    "task-of-call": lambda asked: task_of_call(asked["method"], asked["path"], asked.get("params", {})),
}


def cases() -> list[Any]:
    yaml = YAML(typ="safe")
    found = []
    for file in sorted(CASES.glob("*.yml")):
        for name, case in yaml.load(file).items():
            found.append(pytest.param(file.stem, case, id=f"{file.stem}: {name}"))
    return found


def plain(value: Any) -> Any:
    """A fact as YAML can say it: sets sorted, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def covers(got: Any, wanted: Any) -> bool:
    """Whether `got` has everything that `wanted` names; a case need not repeat the rest."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(key in got and covers(got[key], item) for key, item in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(got) == len(wanted) and all(map(covers, got, wanted))
    return bool(got == wanted)


@pytest.mark.parametrize(("parser", "case"), cases())
def test_case(parser: str, case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(FactError) as caught:
            PARSERS[parser](case["asked"])
        assert caught.value.code == case["error"]
        return
    got = plain(PARSERS[parser](case["asked"]))
    assert covers(got, case["fact"]), got


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(
            ["key", "value", "pending", "delete", "vmid", "storage", "content", "maxmem", "n", "t", "upid"]
        ),
        JSON,
    )
)


@given(JSON | ROWS)
def test_no_answer_breaks_a_parser(answer: Any) -> None:
    tuple(parse_storages(answer))
    tuple(parse_guests(answer))
    parse_taken(answer, "pve1")
    running_tasks(answer)
    parse_log(answer)
    find_task(answer, TaskKind("pve1", "qmstart", "106"), "root@pam", 0)
    parse_task(parse_upid(UPID), answer, ())
    for parse in (parse_pending, lambda rows: parse_node("pve1", NodeAnswers(status=rows, storage=rows))):
        try:
            parse(answer)
        except FactError:
            continue


def test_what_is_a_upid() -> None:
    assert is_upid(UPID)
    assert not any(map(is_upid, ("OK", None, 7, UPID[:-1], UPID.replace("UPID", "UPDI"))))


def row(upid: str = UPID) -> dict[str, Any]:
    return {"upid": upid}


KIND = TaskKind("pve1", "qmstart", "106")
SINCE = 0x6B001B7F


@pytest.mark.parametrize(
    ("rows", "user", "since", "known", "found"),
    [
        ([row()], "root@pam!viops", SINCE, (), True),
        ([row()], "root@pam!viops", SINCE + 1, (), False),
        ([row()], "root@pam", SINCE, (), False),
        ([row()], "root@pam!viops", SINCE, (UPID,), False),
        ([row(UPID.replace("qmstart", "qmstop"))], "root@pam!viops", SINCE, (), False),
        ([row(UPID.replace(":106:", ":107:"))], "root@pam!viops", SINCE, (), False),
        ([row("junk"), {}, None, row()], "root@pam!viops", SINCE, (), True),
    ],
)
def test_a_task_is_found_by_kind_user_and_time(
    rows: Any, user: str, since: int, known: tuple[str, ...], found: bool
) -> None:
    assert (find_task(rows, KIND, user, since, known) is not None) is found


def test_the_newest_task_is_taken() -> None:
    newer = UPID.replace("6B001B7F", "6B001B80")
    task = find_task([row(newer), row()], KIND, "root@pam!viops", SINCE)
    assert task is not None
    assert task.text == newer


def test_what_still_runs_is_waited_for_and_an_open_console_is_not() -> None:
    console = UPID.replace("qmstart", "vncproxy")
    rows = [
        {"upid": UPID, "status": "RUNNING"},
        {"upid": UPID, "type": "qmstart"},
        {"upid": console, "status": "RUNNING"},
        {"upid": UPID.replace("qmstart", "qmstop"), "status": "OK"},
        {"upid": "garbage"},
    ]
    assert [task.text for task in running_tasks(rows)] == [UPID]
