"""Pydantic's errors in the words of this project, each at the place where the value was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vi_ops.specs.check import KeyPath, SpecFinding
from vi_ops.specs.host_vars import FROM_ANSIBLE, SSH_VARS, HostVars
from vi_ops.specs.model import Spec
from vi_ops.specs.nearest import did_you_mean


def findings_of(error: ValidationError, model: type[Spec], host: HostVars) -> tuple[SpecFinding, ...]:
    """One finding for each path that `model` refused."""
    return tuple(_one_for_each_path(_translate(detail, model, host) for detail in error.errors()))


def _one_for_each_path(findings: Iterable[SpecFinding]) -> Iterable[SpecFinding]:
    """A union fails once for each of its branches: keep the first, name the others."""
    first: dict[KeyPath, SpecFinding] = {}
    for finding in findings:
        if finding.path not in first:
            first[finding.path] = finding
        elif finding.message.startswith("expected '"):
            other = finding.message.split(", got ")[0].removeprefix("expected ")
            first[finding.path] = replace(first[finding.path], hint=f"or {other}")
    return first.values()


def _translate(detail: ErrorDetails, model: type[Spec], host: HostVars) -> SpecFinding:
    """One pydantic error as a finding in the words of this project."""
    loc = tuple(part for part in detail["loc"][:-1] if not _is_union_branch(part))
    if detail["type"] == "extra_forbidden" or not _is_union_branch(detail["loc"][-1]):
        loc += detail["loc"][-1:]
    path: KeyPath = (SSH_VARS[str(loc[1])],) if loc[:1] == ("ssh",) and len(loc) > 1 else (host.kind, *loc)
    kind, context = detail["type"], detail.get("ctx", {})
    got = "" if host.is_hidden(path) else f", got {show(detail['input'])}"
    if kind == "missing":
        return SpecFinding("spec-missing-key", host.name, path, f"required: {_describe(model, loc)}")
    if kind == "extra_forbidden":
        known = _keys_of(model, loc[:-1]) - FROM_ANSIBLE.keys()
        return SpecFinding(
            "spec-unknown-key", host.name, path, "unknown key", did_you_mean(str(loc[-1]), known)
        )
    if kind == "literal_error":
        return SpecFinding("spec-invalid", host.name, path, f"expected {context['expected']}{got}")
    if kind == "value_error":  # our own words: vi_ops/units.py
        return SpecFinding("spec-invalid", host.name, path, str(context["error"]))
    if "-" in kind:
        shown = got if kind == "spec-invalid" else ""
        return SpecFinding(kind, host.name, path, detail["msg"] + shown)
    ours = _EXPECTED.get(kind)
    expected = ours.format(**context) if ours else detail["msg"].replace("Input should be", "expected")
    return SpecFinding("spec-invalid", host.name, path, expected[:1].lower() + expected[1:] + got)


_EXPECTED: Final = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "string_too_long": "expected at most {max_length} characters",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a text (put it in quotes)",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}


def _is_union_branch(part: object) -> bool:
    """Pydantic puts the tried branch of a union into the path: `literal['auto']`, `function-after[...]`."""
    return isinstance(part, str) and "[" in part


def show(value: object, width: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _model_at(model: type[Spec], loc: tuple[int | str, ...]) -> type[Spec] | None:
    """The model that the keys of a path lead to."""
    here: type[Spec] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        if here is None or part not in here.model_fields:
            return None
        here = _inner_model(here.model_fields[part].annotation)
    return here


def _inner_model(annotation: Any) -> type[Spec] | None:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    inner = (_inner_model(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model), None)


def _keys_of(model: type[Spec], loc: tuple[int | str, ...]) -> set[str]:
    found = _model_at(model, loc)
    return set(found.model_fields) if found else set()


def _describe(model: type[Spec], loc: tuple[int | str, ...]) -> str:
    owner = _model_at(model, loc[:-1])
    known = owner.model_fields.get(str(loc[-1])) if owner else None
    text = known.description if known else None
    if not text and known and (inner := _inner_model(known.annotation)):
        text = inner.__doc__
    return (text or str(loc[-1])).strip().splitlines()[0].rstrip(".")
