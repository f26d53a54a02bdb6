"""The wheel, installed outside the checkout, is a tool that works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def vi_ops(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment that holds the wheel, with its dependencies and not the checkout.

    A plain line in a .pth file adds a folder and does not read the .pth files in it, so that the
    editable install of the checkout stays out.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin/python"),
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, "--quiet", str(wheel)], check=True)
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(dependencies + "\n")
    return home / "bin/vi-ops"


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(command), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_wheel_holds_what_is_not_code(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("playbooks/", "templates/", "inventory/example/hosts.yml", "inventory/lab/hosts.yml"):
        assert any(name.startswith(f"vi_ops/share/{wanted}") for name in names), wanted


def test_it_does_not_run_from_the_checkout(vi_ops: Path, tmp_path: Path) -> None:
    python = vi_ops.with_name("python")
    shown = subprocess.run(
        [str(python), "-c", "import vi_ops; print(vi_ops.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.startswith(str(vi_ops.parents[1]))


def test_init_then_plan(vi_ops: Path, tmp_path: Path) -> None:
    made = run(vi_ops, "init", "--from", "lab", "site", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    up = run(vi_ops, "lab", "up", "--port", "0", cwd=tmp_path)
    assert up.returncode == 0, up.stderr
    try:
        plan = run(vi_ops, "-i", "site", "plan", "vm106", "--json", cwd=tmp_path)
    finally:
        run(vi_ops, "lab", "down", cwd=tmp_path)
    records = [json.loads(line) for line in plan.stdout.splitlines()]
    # The lab is empty: the one thing that stands against the plan is the image that nobody pushed yet.
    assert [one["code"] for one in records if one["kind"] == "finding"] == ["image-missing"], plan.stderr
    assert any(one["kind"] == "step" and one["key"] == "vm106/create" for one in records)
    assert plan.returncode == 6
