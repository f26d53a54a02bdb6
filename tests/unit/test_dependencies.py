"""What the package imports is what pyproject.toml declares."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    return {re.split(r"[<>=\[; ]", line)[0].lower().replace("_", "-") for line in lines}


def imported() -> dict[str, str]:
    places: dict[str, str] = {}
    for file in sorted((ROOT / "vi_ops").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            places.update({name.split(".")[0]: file.name for name in names})
    return places


def test_every_import_is_declared() -> None:
    owners = importlib.metadata.packages_distributions()
    for module, file in imported().items():
        if module == "vi_ops" or module in sys.stdlib_module_names:
            continue
        packages = {name.lower().replace("_", "-") for name in owners.get(module, ["nobody"])}
        assert packages & declared(), (
            f"{file} imports {module} of {packages}, which pyproject.toml does not declare"
        )
