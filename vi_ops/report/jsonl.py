"""JSON lines: one object a line, with stable keys, for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

from vi_ops.plan.step import Action, Plan, Playbook, PveCall, Step, WaitUntil


def print_record(record: Mapping[str, Any], stream: IO[str]) -> None:
    """Print one object on one line, at once: a reader may follow along."""
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    stream.flush()


def print_plan(plan: Plan, stream: IO[str]) -> None:
    """Print a plan: a line for each part of it, and its sum as the last."""
    for record in plan_records(plan):
        print_record(record, stream)


def plan_records(plan: Plan) -> Iterator[dict[str, Any]]:
    """Objects with `kind` and `subject`, without secrets.

    Kinds: finding, step, loss, waiting, unchanged, later, and as the last one plan.
    """
    for finding in plan.findings:
        yield {
            "kind": "finding",
            "subject": plan.subject,
            "code": finding.code,
            "message": finding.message,
            "hint": finding.hint,
            "blocks": finding.blocks,
        }
    for step in plan.steps:
        yield {"kind": "step", "subject": plan.subject, **step_record(step)}
    sentences = {
        "loss": plan.losses,
        "waiting": plan.waiting,
        "unchanged": plan.unchanged,
        "later": plan.later,
    }
    for kind, texts in sentences.items():
        for text in texts:
            yield {"kind": kind, "subject": plan.subject, "text": text}
    yield {
        "kind": "plan",
        "subject": plan.subject,
        "is_blocked": plan.is_blocked,
        "steps": len(plan.steps),
        "changes": len(plan.changes),
        "waiting": len(plan.waiting),
        "findings": len(plan.findings),
    }


def step_record(step: Step) -> dict[str, Any]:
    """A step as an object: `key`, `title`, `because`, `effect`, `do`, and `changes` of a config."""
    record: dict[str, Any] = {
        "key": step.key,
        "title": step.title,
        "because": step.because,
        "effect": str(step.effect),
        "do": _action(step.do),
    }
    if step.changes:
        record["changes"] = [
            {"key": one.key, "before": one.before, "after": one.after, "effect": str(one.effect)}
            for one in step.changes
        ]
    return record


def _action(do: Action) -> dict[str, Any]:
    match do:
        case PveCall():
            return {"type": "pve", "method": do.method, "path": do.path, "params": do.shown_params}
        case Playbook():
            return {"type": "playbook", "name": do.name, "host": do.host}
        case WaitUntil():
            return {"type": "wait", "stage": do.stage, "deadline_s": do.deadline_s}
