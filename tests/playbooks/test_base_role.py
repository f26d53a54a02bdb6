"""The playbooks as Ansible reads them: syntax, argument specs, and defaults that are as documented."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vi_ops.share import share_path

PLAYBOOKS = share_path("playbooks")
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
BIN = Path(sys.executable).parent


def ansible(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    env["ANSIBLE_ROLES_PATH"] = str(PLAYBOOKS / "roles")
    argv = [str(BIN / program), *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS.glob("*.yml")), ids=lambda path: path.name)
def test_syntax(playbook: Path) -> None:
    ran = ansible("ansible-playbook", "--syntax-check", "-i", "vm106,", str(playbook))
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_specs(role: str) -> None:
    folder = PLAYBOOKS / "roles" / role
    defaults = yaml.safe_load((folder / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    assert {name: option.get("default") for name, option in options.items()} == defaults
    readme = (folder / "README.md").read_text()
    for name in defaults:
        assert name.startswith(f"{role}_")
        assert f"`{name}`" in readme


@pytest.mark.slow
@pytest.mark.parametrize("value", ["curl", "{a: 1}"])
def test_a_wrong_value_stops_before_the_first_task(tmp_path: Path, value: str) -> None:
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: all\n  gather_facts: false\n  connection: local\n"
        f"  roles: [{{role: base, base_packages: {value}, base_lock_timeout_s: soon}}]\n"
    )
    ran = ansible("ansible-playbook", "-i", "vm106,", str(play))
    assert ran.returncode != 0
    assert "base_lock_timeout_s" in ran.stdout
    assert "Read which packages" not in ran.stdout
