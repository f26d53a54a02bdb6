"""Imports point one way, each outside library has one door, and `--help` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vi_ops"
BASE = {"errors", "units"}
MAY_IMPORT = {
    "errors": set[str](),
    "units": set[str](),
    "codes": set[str](),
    "share": set[str](),
    "specs": {"specs", *BASE},
    "facts": {"facts", *BASE},
    "plan": {"plan", "specs", "facts", *BASE},
    "report": {"report", "plan", "specs", "facts", *BASE},
    "execute": {"execute", "plan", "specs", "facts", "share", *BASE},
    "watch": {"watch", "execute", "plan", "specs", "facts", *BASE},
    "lab": {"lab", "facts", "share", *BASE},
}
DOORS = {
    "proxmoxer": {"execute/pve"},
    "requests": {"execute/pve"},
    "urllib3": {"execute/pve"},
    "paramiko": {"execute/ssh"},
    "fabric": {"execute/ssh"},
    "ansible": {"execute/inventory"},
    "ansible_runner": {"execute/ansible"},
    "psutil": {"execute/local", "lab/"},
    "qemu": {"lab/"},
    "aiohttp": {"lab/"},
    "rich": {"report/"},
}
HEAVY = {
    "pydantic",
    "rich",
    "proxmoxer",
    "requests",
    "paramiko",
    "fabric",
    "pynvml",
    "psutil",
    "pyudev",
    "jinja2",
    "yaml",
    "ruamel",
    "ansible",
    "ansible_runner",
    "aiohttp",
    "qemu",
    "sqlite3",
    "filelock",
    "stamina",
}


def modules() -> Iterator[tuple[str, str, ast.AST]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).with_suffix("").as_posix()
        yield name, name.split("/")[0], ast.parse(file.read_text("utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module == "vi_ops":
                yield from (f"vi_ops.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("name", "layer", "tree"), list(modules()), ids=lambda value: str(value)[:40])
def test_imports_point_one_way(name: str, layer: str, tree: ast.AST) -> None:
    allowed = MAY_IMPORT.get(layer)
    if allowed is None:
        assert layer in {"cli", "__init__", "__main__"}, f"{name}: layer {layer} has no rule"
        return
    for module in imports(tree):
        if module.startswith("vi_ops.") and module != "vi_ops.__version__":
            target = module.split(".")[1]
            assert target in allowed, f"{name} imports {module}: {layer} may import {sorted(allowed)}"


@pytest.mark.parametrize(("name", "layer", "tree"), list(modules()), ids=lambda value: str(value)[:40])
def test_each_outside_library_has_one_door(name: str, layer: str, tree: ast.AST) -> None:
    for module in imports(tree):
        doors = DOORS.get(module.split(".")[0])
        if doors is not None:
            assert any(name.startswith(door) for door in doors), (
                f"{name} imports {module}; use {sorted(doors)}"
            )


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from vi_ops.cli import main, image, lab, node\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not HEAVY & set(loaded)
