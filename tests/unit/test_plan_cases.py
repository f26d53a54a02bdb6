"""Every case of tests/cases/plan/vm: a spec, a node and a VM, and the plan that they must give.

A case changes the ground in site.yml (`spec`, `node_spec`, `node`, `vm`, `others`, `siblings`,
`unfinished`; `vm: absent`
for none). It expects, exactly: `steps` (keys without the VM's name; `ready` stands for all waits and the base
playbook), `blocked` and `told` (codes of findings), `changes` (key: [before, after, effect]); `waiting`,
`later` (one text for each sentence, found in it); as far as named: `params` by step, `unchanged`,
`not_unchanged`, `says`, `says_not` (findings and hints).
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.plan_ground import CASES, Case, load_yaml, plan_of
from vi_ops.plan.ready import STAGES
from vi_ops.plan.step import Plan, PveCall

READY = [*(f"wait-{stage.name}" for stage in STAGES), "base"]


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{file.stem}: {case['about']}")
        for file in sorted((CASES / "vm").glob("*.yml"))
        for case in load_yaml(file)
    ]


@pytest.mark.parametrize("case", cases())
def test_case(case: Case) -> None:
    plan, expect = plan_of(case), case["expect"]
    keys = [step.key.removeprefix("vm106/") for step in plan.steps]
    assert keys == steps_of(expect.get("steps", []))
    assert [one.code for one in plan.findings if one.blocks] == expect.get("blocked", [])
    assert [one.code for one in plan.findings if not one.blocks] == expect.get("told", [])
    changes = {
        one.key: [one.before, one.after, str(one.effect)] for step in plan.steps for one in step.changes
    }
    assert changes == expect.get("changes", {})
    check_sentences(plan.waiting, expect.get("waiting", []))
    check_sentences(plan.later, expect.get("later", []))
    for words in expect.get("not_unchanged", []):
        assert not any(words in sentence for sentence in plan.unchanged), (words, plan.unchanged)
    for words in expect.get("unchanged", []):
        assert any(words in sentence for sentence in plan.unchanged), (words, plan.unchanged)
    check_params(plan, expect.get("params", {}))
    said = "\n".join(f"{one.message}\n{one.hint}" for one in plan.findings)
    for words in expect.get("says", []):
        assert words in said
    for words in expect.get("says_not", []):
        assert words not in said
    if not plan.steps and not plan.findings:
        assert plan.unchanged, "a plan that does nothing says why"


def steps_of(words: list[str]) -> list[str]:
    return [key for word in words for key in (READY if word == "ready" else [word])]


def check_sentences(sentences: tuple[str, ...], expected: list[str]) -> None:
    assert len(sentences) == len(expected), sentences
    for sentence, words in zip(sentences, expected, strict=True):
        assert words in sentence


def check_params(plan: Plan, expected: dict[str, dict[str, Any]]) -> None:
    for key, params in expected.items():
        (call,) = [step.do for step in plan.steps if step.key == f"vm106/{key}"]
        assert isinstance(call, PveCall)
        for name, value in params.items():
            assert call.params.get(name) == value, name
