"""Every help page: complete, within 80 columns, with examples that the real parser takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.command_line import commands_in, is_group, parse, unknown_in, walk
from vi_ops.cli.main import GROUPS, app
from vi_ops.codes import register
from vi_ops.lab.fault import NAMES

TREE = dict(walk())
PAGES = pytest.mark.parametrize("words", TREE, ids=" ".join)
# Commands without --json, and why.
NO_JSON = {
    "ssh": "gives the terminal to OpenSSH",
    "console": "gives the terminal to the guest's serial port",
    "schema": "its output is JSON",
}


def page(words: tuple[str, ...], columns: int = 80) -> str:
    result = CliRunner().invoke(app, [*words[1:], "--help"], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.stdout


def examples(words: tuple[str, ...]) -> str:
    _, _, rest = page(words).partition("Examples:\n")
    return rest.partition("\n\n")[0]


@PAGES
def test_help_fits_80_columns_and_breaks_at_blanks(words: tuple[str, ...]) -> None:
    for line in page(words).splitlines():
        assert len(line) <= 80, line
        assert not re.search(r"[a-z]-$", line), f"broken in a word: {line}"
    _, _, summaries = page(words).partition("Commands:\n")
    assert "..." not in summaries, "a summary is cut off"


@PAGES
def test_values_go_by_their_own_names_and_not_by_types(words: tuple[str, ...]) -> None:
    assert not re.search(r"<[a-z|]|list\[|<=x|x<=|x>=|\b(TEXT|INTEGER|FLOAT|PATH)\b", page(words))


def test_i_names_what_holds_without_it() -> None:
    text = " ".join(page(("vi-ops",)).split())
    assert "else VI_OPS_INVENTORY, else ./inventory" in text


@PAGES
def test_examples_are_there_and_parse(words: tuple[str, ...]) -> None:
    text = examples(words)
    found = list(commands_in(text))
    assert found, "no example"
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        assert line.startswith("    vi-ops "), line
    for one in found:
        parse(one)
    own = " ".join(words[1:])
    assert any(" ".join(one).find(own) >= 0 for one in found), f"no example of {own} itself"


def test_a_stale_example_would_be_seen() -> None:
    for stale in ("plan vm106 --gone", "lab start", "plan --wait", "node status", "-i site init --from else"):
        with pytest.raises(Exception, match=r"(?i)no such|missing|not one of|requires an argument|invalid"):
            parse(stale.split())


def test_names_in_examples_exist() -> None:
    codes = [one[-1] for one in commands_in(examples(("vi-ops", "explain"))) if len(one) == 2]
    assert codes
    assert not set(codes) - set(register())
    inject = ("vi-ops", "lab", "fault", "inject")
    assert {one[3] for one in commands_in(examples(inject))} <= set(NAMES)


@PAGES
def test_every_command_option_and_argument_says_what_it_is(words: tuple[str, ...]) -> None:
    command: Any = TREE[words]
    assert command.help
    for option in command.params:
        assert option.help, option.name


@PAGES
def test_what_prints_has_json(words: tuple[str, ...]) -> None:
    command: Any = TREE[words]
    if is_group(command):
        return
    has_json = any("--json" in option.opts for option in command.params)
    assert has_json != (words[-1] in NO_JSON)


def test_summaries_of_groups_are_their_own() -> None:
    for name, summary in GROUPS.items():
        assert TREE[("vi-ops", name)].help.splitlines()[0] == summary


def test_the_judge_of_mentions_sees_what_is_gone() -> None:
    assert unknown_in("vi-ops plann vm106") == "plann"
    assert unknown_in("vi-ops lab fault injct NAME") == "injct"
    assert unknown_in("vi-ops plan --gone") == "--gone"
    assert unknown_in("vi-ops init --url") is None
    assert unknown_in("vi-ops -i inventory/lab plan vm106") is None
