"""Every call that a plan can hold is one that the published schemas of both releases accept."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from tests.support.plan_ground import spec_of, vm_of
from tests.support.plan_node import carried_out
from tests.unit.test_plan_twice import SPECS, plan
from vi_ops.lab.schema import Schema
from vi_ops.plan.destroy import plan_destroy
from vi_ops.plan.step import Param, Plan, PveCall

SCHEMAS = Path(__file__).parents[3] / "shared" / "pve-api"
pytestmark = [
    pytest.mark.skipif(
        not SCHEMAS.exists(), reason="the published schemas are not at hand (../shared/pve-api)"
    ),
    pytest.mark.parametrize("release", ["8.4", "9.2"]),
]


@cache
def schema(release: str) -> Schema:
    return Schema.load(SCHEMAS / f"pve-{release}.json", release)


def on_the_wire(value: Param) -> Any:
    return str(int(value)) if isinstance(value, bool | int) else value


def check_calls(release: str, *plans: Plan) -> None:
    for step in (step for one in plans for step in one.steps):
        if isinstance(step.do, PveCall):
            template = re.sub(
                r"^/nodes/[^/]+", "/nodes/{node}", re.sub(r"/qemu/\d+", "/qemu/{vmid}", step.do.path)
            )
            assert f"{step.do.method} {template}" in schema(release).methods
            params = {"node": "pve1", "vmid": "106", **{k: on_the_wire(v) for k, v in step.do.params.items()}}
            schema(release).check(step.do.method, template, params)


@pytest.mark.slow
@given(before=SPECS, after=SPECS)
@settings(deadline=None, max_examples=50)
def test_creation_and_change(release: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    first = plan(before, None)
    check_calls(release, first, plan(after, carried_out(first, None)))


def test_destroying(release: str) -> None:
    check_calls(release, plan_destroy(spec_of({}), vm_of({})))
