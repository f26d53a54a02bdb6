"""Every command that a document, a hint or the register of codes names can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.command_line import commands_in, parse, unknown_in
from vi_ops.execute.inventory import load_site
from vi_ops.plan.role import DEFAULT_TOKEN

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0eGG4RkaGvG7pCuCx/i4PI2W0vCnVojgeTmNTX7M+5 me"
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


def test_the_vm_that_the_inventory_page_adds_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, text = (ROOT / "docs" / "inventory.md").read_text("utf-8").partition("## Add a VM")
    hosts, description = [found[2] for found in _FENCED.finditer(text.partition("\n## ")[0])]
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "hosts.yml").write_text(hosts)
    (tmp_path / "host_vars" / "vm106.yml").write_text(description)
    node = (ROOT / "inventory" / "example" / "host_vars" / "pve1.yml").read_text("utf-8")
    (tmp_path / "host_vars" / "pve1.yml").write_text(node)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(f"{KEY}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    site = load_site(tmp_path)
    assert not site.advice
    assert (site.vm("vm106").ssh.host, site.vm("vm106").user.ssh_keys) == ("192.168.1.106", (KEY,))


def test_one_token_and_one_place_for_its_secret() -> None:
    pages = [*DOCUMENTS, *(ROOT / "inventory").rglob("*.yml"), ROOT / "vi_ops" / "cli" / "init.py"]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assert set(re.findall(r"[\w-]+@pve![\w-]+", text)) == {DEFAULT_TOKEN}
    assert set(re.findall(r"~/\.config/vi-ops/[\w./-]+", text)) == {"~/.config/vi-ops/pve1.token"}
