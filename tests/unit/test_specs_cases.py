"""Every case of tests/cases/specs: a site with something wrong in it, and what is said about it.

A case changes the site beside the cases: `files` replaces whole files, `edits` replaces texts in them.
It expects `findings` that block, `advice` that does not, or an `error` that stops the reading; exactly those.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vi_ops.errors import SpecError
from vi_ops.execute.inventory import load_site
from vi_ops.specs.check import format_path
from vi_ops.specs.load import InventoryError

CASES = Path(__file__).parents[1] / "cases" / "specs"


def cases() -> list[Any]:
    loaded = [
        (file.stem, case)
        for file in sorted(CASES.glob("*.yml"))
        for case in YAML(typ="safe").load(file.read_text("utf-8"))
    ]
    return [pytest.param(case, id=f"{name}: {case['about']}") for name, case in loaded]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(CASES / "site", tmp_path / "site"))


def change(site: Path, case: Mapping[str, Any]) -> None:
    for name, text in case.get("files", {}).items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text, "utf-8")
    for edit in case.get("edits", ()):
        file = site / edit["file"]
        text = file.read_text("utf-8")
        assert text.count(edit["old"]) == 1, f"{edit['old']!r} is not once in {edit['file']}"
        file.write_text(text.replace(edit["old"], edit["new"]), "utf-8")


@pytest.mark.parametrize("case", cases())
def test_case(case: Mapping[str, Any], site: Path) -> None:
    change(site, case)
    if "findings" in case:
        with pytest.raises(InventoryError) as raised:
            load_site(site)
        error = raised.value
        assert {(each.code, format_path(each.path)) for each in error.findings} == {
            (each["code"], each["path"]) for each in case["findings"]
        }
        assert error.code in {each["code"] for each in case["findings"]}
        lines = error.message.splitlines()[1:]
        assert len(lines) == len(case["findings"])
        for each in case["findings"]:
            start = f"  {each['place']}: {each['path']}: "
            line = next((line for line in lines if line.startswith(start)), None)
            assert line, f"no line starts with {start!r} in\n{error.message}"
            assert each["says"] in line
        assert case.get("never_says", "\0") not in error.message
    elif "error" in case:
        with pytest.raises(SpecError) as stopped:
            load_site(site)
        assert stopped.value.code == case["error"]["code"]
        assert case["error"]["place"] in stopped.value.message
        assert case["error"]["says"] in stopped.value.message
    else:
        loaded = load_site(site)
        wanted = {(each["code"], each["path"]): each["says"] for each in case.get("advice", ())}
        said = {(each.code, format_path(each.path)): each.message for each in loaded.advice}
        assert said.keys() == wanted.keys()
        assert all(wanted[key] in said[key] for key in wanted)


def test_the_site_of_the_cases_is_right(site: Path) -> None:
    loaded = load_site(site)
    assert set(loaded.vms) == {"vm106"}
    assert set(loaded.unmanaged) == {"vm107"}
    assert not loaded.advice
