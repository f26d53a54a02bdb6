"""A playbook through our door: what it did as numbers, what failed as words, and nobody's config but ours."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vi_ops.errors import StepFailed, Unreachable
from vi_ops.execute import ansible
from vi_ops.execute.ansible import PlaybookResult, run_playbook

pytestmark = pytest.mark.slow

HOSTS = """
guests:
  hosts:
    vm106: {ansible_connection: local}
    vm101: {ansible_connection: local}
    away: {ansible_host: 127.0.0.1, ansible_port: 1, ansible_user: smith}
"""
PLAYBOOKS = {
    "file": """
- hosts: guests
  gather_facts: false
  tasks:
    - name: Ensure the file is there
      ansible.builtin.copy: {content: "x", dest: "{{ playbook_dir }}/made", mode: "0644"}
    - name: Read it
      ansible.builtin.command: {argv: [cat, "{{ playbook_dir }}/made"]}
      changed_when: false
""",
    "fails": """
- hosts: guests
  gather_facts: false
  tasks:
    - name: Ensure the impossible
      ansible.builtin.command: {argv: [sh, -c, "echo no room >&2; exit 7"]}
""",
    "environment": """
- hosts: guests
  gather_facts: false
  tasks:
    - name: Show
      ansible.builtin.fail:
        msg: "{{ lookup('config', 'DEFAULT_TIMEOUT') }} {{ lookup('config', 'DEFAULT_HOST_LIST') }}"
""",
    "hangs": """
- hosts: guests
  gather_facts: false
  tasks:
    - name: Wait for nothing
      ansible.builtin.command: {argv: [sleep, "30"]}
""",
    "broken": "- hosts: guests\n  roles: [absent]\n",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "hosts.yml").write_text(HOSTS)
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    for name, text in PLAYBOOKS.items():
        (playbooks / f"{name}.yml").write_text(text)
    (playbooks / "ansible.cfg").write_text("[defaults]\n")
    monkeypatch.setattr(ansible, "share_path", lambda name: tmp_path / name)
    return folder


def run(site: Path, name: str, host: str = "vm106", **options: object) -> PlaybookResult:
    wanted = {
        "inventory": site,
        "known_hosts": site / "known_hosts",
        "user": None,
        "deadline_s": 60,
        **options,
    }
    return run_playbook(name, host, **wanted)  # type: ignore[arg-type]


def test_a_second_run_changes_nothing(site: Path) -> None:
    tasks: list[str] = []
    assert run(site, "file", tell=tasks.append) == PlaybookResult(ok=2, changed=1)
    assert tasks == ["Ensure the file is there", "Read it"]
    assert run(site, "file") == PlaybookResult(ok=2, changed=0)


def test_a_failed_task_is_named_with_its_words(site: Path) -> None:
    with pytest.raises(StepFailed) as caught:
        run(site, "fails")
    assert caught.value.code == "ansible-task-failed"
    for part in ("vm106", "Ensure the impossible", "no room"):
        assert part in caught.value.message


def test_a_host_that_does_not_answer_is_unreachable(site: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        run(site, "file", "away")
    assert "away" in caught.value.message


def test_the_users_config_has_no_say(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.cfg"
    own.write_text("[defaults]\ntimeout = 77\n")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(own))
    monkeypatch.setenv("ANSIBLE_TIMEOUT", "78")
    monkeypatch.setenv("ANSIBLE_INVENTORY", "/absent/hosts")
    with pytest.raises(StepFailed) as caught:
        run(site, "environment")
    assert "77" not in caught.value.message
    assert "78" not in caught.value.message
    assert "/absent" not in caught.value.message


def test_a_folder_with_a_blank_stays_one_folder() -> None:
    words = shlex.split(ansible._ssh_args(Path("/home/me/my state/known_hosts")))
    assert 'UserKnownHostsFile="/home/me/my state/known_hosts"' in words
    assert "StrictHostKeyChecking=yes" in words


def test_a_deadline_ends_it(site: Path) -> None:
    with pytest.raises(StepFailed) as caught:
        run(site, "hangs", deadline_s=3)
    assert caught.value.code == "ansible-deadline"


def test_an_interrupt_ends_it(site: Path) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(site, "hangs", tell=seen.append, is_stopped=lambda: bool(seen))


def test_a_playbook_that_cannot_start_says_why(site: Path) -> None:
    with pytest.raises(StepFailed, match="absent") as caught:
        run(site, "broken")
    assert caught.value.code == "ansible-failed"
