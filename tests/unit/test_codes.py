"""Every code in the source is in the register, and the register knows no code that is gone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vi_ops import codes, errors

PACKAGE = Path(codes.__file__).parents[1]
RAISERS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ViOpsError)
} | {"Finding"}


def codes_in_source() -> Iterator[tuple[str, str]]:
    """(code, place) for each call of an error class or Finding with a literal first argument or `code=`."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name not in RAISERS:
                continue
            given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "code")]
            for word in given:
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    yield word.value, f"{file.relative_to(PACKAGE)}:{node.lineno}"


def text_of_source() -> str:
    return "\n".join(file.read_text("utf-8") for file in sorted(PACKAGE.rglob("*.py")))


def test_every_code_in_the_source_is_registered() -> None:
    unknown = {f"{code} ({place})" for code, place in codes_in_source() if code not in codes.register()}
    assert not unknown


def test_every_registered_code_is_in_the_source() -> None:
    source = text_of_source()
    assert not {code for code in codes.register() if f'"{code}"' not in source}


@pytest.mark.parametrize("code", list(codes.register().values()), ids=lambda code: code.name)
def test_a_code_says_what_to_do(code: codes.Code) -> None:
    assert code.title
    assert not code.title.endswith(".")
    assert len(code.why) > 20
    assert len(code.remedy) > 20
