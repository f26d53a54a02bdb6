"""Every command that a document, a hint or the register of codes names can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import commands_in, parse, unknown_in

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted([*(ROOT / "vi_ops").rglob("*.py"), *(ROOT / "vi_ops").rglob("*.toml")])
_FENCED = re.compile(r"^( *)```[a-z]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_MENTION = re.compile(r"`(vi-ops [^`]*)`")


def blocks(text: str) -> list[str]:
    fenced = [found[2] for found in _FENCED.finditer(text)]
    return [*fenced, *_INDENTED.findall(_FENCED.sub("", text))]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_commands_of_a_document_parse(file: Path) -> None:
    for block in blocks(file.read_text("utf-8")):
        for words in commands_in(block):
            try:
                parse(words)
            except Exception as error:
                pytest.fail(f"vi-ops {' '.join(words)}: {error}")


def test_blocks_are_found() -> None:
    text = "\n\n".join(blocks((ROOT / "README.md").read_text("utf-8")))
    assert ["provision", "vm106"] in list(commands_in(text))
    fenced = "1. x\n\n   ```sh\n   vi-ops a\n   ```\n\n    vi-ops b   # c\n    vi-ops d | vi-ops e && f\n"
    found = [words for block in blocks(fenced) for words in commands_in(block)]
    assert found == [["a"], ["b"], ["d"], ["e"]]


@pytest.mark.parametrize("file", [*DOCUMENTS, *SOURCES], ids=lambda file: str(file.relative_to(ROOT)))
def test_mentions_name_what_exists(file: Path) -> None:
    gone = {
        mention: unknown
        for mention in _MENTION.findall(file.read_text("utf-8"))
        if (unknown := unknown_in(mention))
    }
    assert not gone
