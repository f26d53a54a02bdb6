"""Plans in words: read as a whole at 80 and 140 columns, and as JSON lines without secrets."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from tests.support.plan_ground import CASES, load_yaml, plan_of, spec_of, vm_of
from vi_ops.plan.destroy import plan_destroy
from vi_ops.plan.step import Plan
from vi_ops.report.jsonl import plan_records, print_plan
from vi_ops.report.plan import closing_line, outcome_of, show_plan, show_plans
from vi_ops.report.table import print_table
from vi_ops.report.text import Page, console_on, count, duration

GIB = 2**30
HASH = "$6$salt$unmistakable"
GOLDEN = CASES / "report"
PLANS: dict[str, Plan] = {
    "unchanged": plan_of({}),
    "create": plan_of({"vm": "absent"}),
    "change": plan_of(
        {
            "spec": {
                "memory": 32 * GIB,
                "tags": ["batch", "gpu"],
                "network": {"address": "192.168.1.107/24"},
                "disk": {"size": 200 * GIB},
                "user": {"password_hash": HASH},
            },
            "vm": {"pending": ["vga"], "running": {"vga": "std"}},
        }
    ),
    "blocked": plan_of(
        {
            "vm": "absent",
            "spec": {"image": "ubuntu-24.04", "gpus": [{"mapping": "gpu0", "model": "GTX 1080 Ti"}]},
            "node": {"permissions": {"/": ["VM.Audit"]}, "storages": {"local-lvm": {"available": "100 GiB"}}},
        }
    ),
    "destroy": plan_destroy(spec_of({}), vm_of({}), snapshots=("before-upgrade",)),
}


def shown(*plans: Plan, width: int = 80, colour: bool | None = None) -> str:
    stream = io.StringIO()
    show_plans(plans, console_on(stream, width=width, colour=colour))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", PLANS)
def test_reads_as_it_was_read(name: str, width: int) -> None:
    """The files were read by eye; write them anew with `python -m tests.unit.test_report_plan`."""
    assert shown(PLANS[name], width=width) == (GOLDEN / f"{name}-{width}.txt").read_text("utf-8")


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", PLANS)
def test_fits_and_has_no_blanks_at_the_end(name: str, width: int) -> None:
    for line in shown(PLANS[name], width=width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


@pytest.mark.parametrize("name", PLANS)
def test_colour_only_adds_colour(name: str) -> None:
    plain, coloured = shown(PLANS[name]), shown(PLANS[name], colour=True)
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_no_secret_in_words_or_json() -> None:
    created = plan_of({"vm": "absent", "spec": {"user": {"password_hash": HASH}}})
    stream = io.StringIO()
    for plan in (created, PLANS["change"]):
        print_plan(plan, stream)
    said = shown(created) + shown(PLANS["change"]) + stream.getvalue()
    assert HASH not in said
    assert "cipassword" in said
    assert "***" in said


@pytest.mark.parametrize("name", PLANS)
def test_json_has_a_line_for_each_part_and_the_sum(name: str) -> None:
    plan, stream = PLANS[name], io.StringIO()
    print_plan(plan, stream)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    kinds = [record["kind"] for record in records]
    assert all(record["subject"] == "vm106" for record in records)
    assert kinds.count("step") == len(plan.steps)
    assert kinds.count("finding") == len(plan.findings)
    assert kinds.count("waiting") == len(plan.waiting)
    assert kinds.count("unchanged") == len(plan.unchanged)
    assert kinds.count("later") == len(plan.later)
    assert kinds.count("loss") == len(plan.losses)
    assert kinds[-1] == "plan"
    assert records[-1]["is_blocked"] is plan.is_blocked
    assert records[-1]["changes"] == len(plan.changes)


def test_json_of_steps_is_what_a_program_needs() -> None:
    steps = [record for record in plan_records(PLANS["change"]) if record["kind"] == "step"]
    assert [step["key"] for step in steps] == ["vm106/config", "vm106/resize"]
    assert steps[0]["effect"] == "power-cycle"
    assert {"key": "tags", "before": "gpu;video", "after": "batch;gpu", "effect": "now"} in steps[0][
        "changes"
    ]
    assert steps[1]["do"] == {
        "type": "pve",
        "method": "PUT",
        "path": "/nodes/pve1/qemu/106/resize",
        "params": {"disk": "scsi0", "size": "200G"},
    }
    kinds = {step["do"]["type"] for step in plan_records(PLANS["create"]) if step["kind"] == "step"}
    assert kinds == {"pve", "wait", "playbook"}


def test_many_plans_begin_with_a_table_and_details_follow_where_there_are_any() -> None:
    text = shown(PLANS["unchanged"], PLANS["change"], PLANS["blocked"])
    table, _, details = text.partition("\n\n")
    assert [line.split()[:3] for line in table.splitlines()[:4]] == [
        ["VM", "PLAN", "WAITING"],
        ["vm106", "nothing", "to"],
        ["vm106", "2", "changes"],
        ["vm106", "blocked", "-"],
    ]
    assert "Already right\n  = disk" not in details.partition("Steps")[0]
    assert "blocked by 2 findings" in details


@pytest.mark.parametrize(
    ("plan", "line", "outcome"),
    [
        (PLANS["unchanged"], "nothing to do: vm106 is as described", "nothing to do"),
        (PLANS["change"], "2 changes, 4 wait for a power cycle", "2 changes"),
        (PLANS["create"], "3 changes and the base playbook", "3 changes"),
        (
            plan_of({"vm": {}, "unfinished": ["vm106/base"]}),
            "the base playbook",
            "the base playbook",
        ),
        (PLANS["destroy"], "2 changes, 4 lost for good", "2 changes"),
        (
            Plan("vm1", waiting=("a",)),
            "nothing to do: vm1 is as described; 1 waits for a power cycle",
            "nothing to do",
        ),
    ],
)
def test_closing_line(plan: Plan, line: str, outcome: str) -> None:
    assert closing_line(plan) == line
    assert outcome_of(plan) == outcome


def test_a_difference_that_is_only_told_is_not_as_described() -> None:
    plan = plan_of({"spec": {"firmware": "seabios"}})
    assert closing_line(plan) == "nothing to do; 1 finding"


def test_a_description_cannot_paint_the_terminal() -> None:
    text = shown(plan_of({"spec": {"description": "two\nlines \x1b[2J"}}))
    assert "Video analysis -> two lines  [2J" in text


def test_commands_are_never_broken() -> None:
    page = Page(40)
    page.add("a sentence that leads up to it: `vi-ops image fetch ubuntu-24.04` and goes on", prefix="- ")
    lines = [line.plain for line in page.lines]
    assert "  `vi-ops image fetch ubuntu-24.04` and" in lines


def test_property_strings_break_after_commas_and_nowhere_else() -> None:
    page = Page(30)
    page.add("local-lvm:0,import-from=local:import/debian-13.qcow2,discard=on,ssd=1")
    lines = [line.plain for line in page.lines]
    assert "".join(lines) == "local-lvm:0,import-from=local:import/debian-13.qcow2,discard=on,ssd=1"
    assert all(line.endswith(",") for line in lines[:-1])


def test_table_aligns_and_wraps_the_last_column() -> None:
    stream = io.StringIO()
    rows = [("vm1", "ok", "-"), ("vm-long", "blocked", "one, two, three, four, five")]
    print_table(console_on(stream, width=42), ("VM", "PLAN", "FINDINGS"), rows)
    assert stream.getvalue().splitlines() == [
        "VM       PLAN     FINDINGS",
        "vm1      ok       -",
        "vm-long  blocked  one, two, three, four,",
        "                  five",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10.0 s"),
        (12.4, "12 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3725, "1 h 2 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_count() -> None:
    assert [count(number, "change") for number in (0, 1, 2)] == ["no changes", "1 change", "2 changes"]


def write_golden(folder: Path = GOLDEN) -> None:
    folder.mkdir(exist_ok=True)
    for name, plan in PLANS.items():
        for width in (80, 140):
            with (folder / f"{name}-{width}.txt").open("w", encoding="utf-8") as stream:
                show_plan(plan, console_on(stream, width=width))


def test_every_case_can_be_shown() -> None:
    for file in sorted((CASES / "vm").glob("*.yml")):
        for case in load_yaml(file):
            assert shown(plan_of(case)).splitlines()[-1] == closing_line(plan_of(case))


if __name__ == "__main__":
    write_golden()
