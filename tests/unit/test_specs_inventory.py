"""Reading inventory folders: the shipped ones, keys, paths, vaults, and how long it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vi_ops.errors import SpecError
from vi_ops.execute.inventory import find_inventory, load_site
from vi_ops.execute.keys import make_key_pair
from vi_ops.specs.load import InventoryError
from vi_ops.units import GIB

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests" / "cases" / "specs" / "site"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0eGG4RkaGvG7pCuCx/i4PI2W0vCnVojgeTmNTX7M+5"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without keys."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("VI_OPS_LAB_PORT", raising=False)
    return folder


@pytest.fixture
def site(tmp_path: Path, home: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "site"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def test_the_example_is_the_site_of_the_card(home: Path) -> None:
    (home / ".ssh" / "id_ed25519.pub").write_text(f"{KEY} me@laptop\n")
    site = load_site(ROOT / "inventory" / "example")
    assert not site.advice
    node = site.node("pve1")
    assert (node.memory, node.sockets, node.ssh.host) == (128 * GIB, 2, "10.8.0.2")
    assert [(disk.storage, disk.size // GIB, disk.kind) for disk in node.disks] == [
        ("data-hdd", 931, "hdd"),
        ("local-lvm", 931, "ssd"),
        ("nvme-lvm", 477, "nvme"),
    ]
    assert node.api.secret.file == str(home / ".config/vi-ops/pve1.token")
    vm = site.vm("vm106")
    assert (vm.vmid, vm.name, vm.image) == (106, "video-intelligence", "ubuntu-24.04")
    assert (vm.cpu.sockets, vm.cpu.cores, vm.cpu.type, vm.memory) == (2, 20, "host", "auto")
    assert (vm.machine, vm.firmware, vm.disk.storage, vm.disk.size) == ("q35", "ovmf", "local-lvm", 150 * GIB)
    assert (vm.network.address, vm.ssh.host, vm.ssh.user) == ("192.168.1.106/24", "192.168.1.106", "smith")
    assert (vm.gpus[0].model, vm.usb[0].id, vm.usb[0].label, vm.usb[0].mount) == (
        "GTX 1080 Ti",
        "174c:55aa",
        "videos",
        "/mnt/videos",
    )
    assert vm.user.ssh_keys == (f"{KEY} me@laptop",)
    counted = {
        other.vmid: (other.name, (other.memory or 0) // GIB, other.disk.size // GIB)
        for other in site.unmanaged.values()
        if other.disk
    }
    assert counted == {
        101: ("vm101", 16, 150),
        103: ("smith-mvp", 8, 50),
        104: ("kali-pentest", 8, 80),
        105: ("smith-test", 32, 50),
    }


def test_the_lab_site_follows_the_lab(home: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"  # VI_OPS_LAB_DIR, set for every test
    site = load_site(ROOT / "inventory" / "lab")
    assert not site.advice
    vm = site.vm("vm106")
    assert site.node("pve1").api.url == "https://127.0.0.1:8006"
    assert site.node("pve1").api.ca_file == str(lab / "ca.pem")
    assert site.node("pve1").api.secret.file == str(lab / "token")
    assert (vm.ssh.host, vm.ssh.port, vm.ssh.user) == ("127.0.0.1", 22106, "smith")
    (lab / "lab.json").write_text('{"port": 18006, "ssh_port_base": 30000, "node": "pve1", "url": "x"}')
    moved = load_site(ROOT / "inventory" / "lab")
    assert moved.node("pve1").api.url == "https://127.0.0.1:18006"
    assert moved.vm("vm106").ssh.port == 30106


def test_the_lab_without_settings_lies_in_the_data_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VI_OPS_LAB_DIR")
    site = load_site(ROOT / "inventory" / "lab")
    assert site.node("pve1").api.ca_file == str(home / ".local/share/vi-ops/lab/ca.pem")
    monkeypatch.setenv("VI_OPS_LAB_PORT", "18007")
    assert load_site(ROOT / "inventory" / "lab").node("pve1").api.url == "https://127.0.0.1:18007"


def test_the_lab_key_is_made_once_and_is_the_one_that_ssh_uses(home: Path, tmp_path: Path) -> None:
    first = load_site(ROOT / "inventory" / "lab").vm("vm106")
    key_file = Path(str(first.ssh.key_file))
    assert key_file == tmp_path / "lab" / "ssh" / "id_ed25519"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    said = subprocess.run(["ssh-keygen", "-y", "-f", key_file], check=True, capture_output=True, text=True)
    assert first.user.ssh_keys[0].split()[:2] == said.stdout.split()[:2]
    assert load_site(ROOT / "inventory" / "lab").vm("vm106").user.ssh_keys == first.user.ssh_keys


@pytest.mark.slow
def test_ansible_and_the_spec_reach_a_guest_the_same_way(home: Path, tmp_path: Path) -> None:
    vm = load_site(ROOT / "inventory" / "lab").vm("vm106")
    wanted = "{{ [ansible_host, ansible_port, ansible_ssh_private_key_file, vm.user.name] | to_json }}"
    said = subprocess.run(
        [
            Path(sys.executable).with_name("ansible"),
            *("-i", ROOT / "inventory" / "lab", "vm106", "-o", "-m", "ansible.builtin.debug"),
            *("-a", f"msg={wanted}"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = json.loads(said.stdout.split("=>", 1)[1])["msg"]
    assert json.loads(told) == [vm.ssh.host, vm.ssh.port, vm.ssh.key_file, vm.ssh.user]


def test_two_at_once_agree_on_one_key_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file = tmp_path / "ssh" / "id_ed25519"
    real_link = os.link

    def somebody_else_was_faster(draft: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real_link)
        make_key_pair(key_file)
        real_link(draft, target)

    monkeypatch.setattr(os, "link", somebody_else_was_faster)
    make_key_pair(key_file)
    assert os.link is real_link, "the other one never came"
    said = subprocess.run(["ssh-keygen", "-y", "-f", key_file], check=True, capture_output=True, text=True)
    assert (tmp_path / "ssh" / "id_ed25519.pub").read_text().split()[:2] == said.stdout.split()[:2]
    assert sorted(file.name for file in key_file.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


def test_a_key_pair_of_the_user_is_never_made(site: Path, home: Path) -> None:
    edit(site / "host_vars/vm106.yml", f"      - {KEY} smith", "      - auto")
    edit(
        site / "host_vars/vm106.yml",
        "ansible_host:",
        "ansible_ssh_private_key_file: ~/.ssh/site\nansible_host:",
    )
    loaded = load_site(site)
    (advice,) = loaded.advice
    assert advice.code == "ssh-key-missing"
    assert "ssh-keygen -t ed25519 -f" in str(advice.hint)
    assert "ssh_keys" not in loaded.vm("vm106").user.model_fields_set, "the keys of a VM that exists are left"
    assert not list((home / ".ssh").iterdir())


def test_auto_beside_other_keys(site: Path, home: Path) -> None:
    make_key_pair(home / ".ssh" / "id_ed25519")
    (home / "other.pub").write_text(f"# of a colleague\n\n{KEY} other\n")
    edit(site / "host_vars/vm106.yml", "      - ssh", "      - auto\n      - ~/other.pub\n      - ssh")
    keys = load_site(site).vm("vm106").user.ssh_keys
    assert [key.split()[2] for key in keys] == ["vi-ops", "other", "smith"]


def test_a_relative_path_starts_at_the_inventory_folder(site: Path) -> None:
    assert load_site(site).node("pve1").api.secret.file == str(site / "secrets/pve1.token")


def test_no_trace_of_ansible_is_left_in_a_spec(site: Path) -> None:
    vm = load_site(site).vm("vm106")
    for value in (vm.name, vm.vmid, vm.user.ssh_keys[0], vm.ssh.host, vm.gpus[0].mapping):
        assert type(value) in {str, int}


def encrypted(text: str, password: str) -> str:
    from ansible.parsing.vault import VaultLib, VaultSecret

    return VaultLib([("default", VaultSecret(password.encode()))]).encrypt(text).decode()


def indented(text: str) -> str:
    return "".join(f"      {line}\n" for line in text.splitlines())


@pytest.fixture
def vault_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "vault-password"
    file.write_text("correct horse\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(file))
    return file


def test_vault_values_and_vault_files(site: Path, vault_password: Path) -> None:
    value = indented(encrypted("$6$salt$hash", "correct horse"))
    edit(
        site / "host_vars/vm106.yml",
        "    name: smith\n",
        f"    name: smith\n    password_hash: !vault |\n{value}",
    )
    (site / "group_vars").mkdir()
    (site / "group_vars" / "all.yml").write_text(encrypted("site_image: ubuntu-24.04\n", "correct horse"))
    edit(site / "host_vars/vm106.yml", "image: debian-13", 'image: "{{ site_image }}"')
    vm = load_site(site).vm("vm106")
    assert vm.user.password_hash == "$6$salt$hash"
    assert vm.image == "ubuntu-24.04"
    assert "hash" not in repr(vm.user).replace("password_hash", "")


def test_a_wrong_vault_password_for_a_value_is_a_finding(site: Path, vault_password: Path) -> None:
    value = indented(encrypted("$6$salt$hash", "another"))
    edit(
        site / "host_vars/vm106.yml",
        "    name: smith\n",
        f"    name: smith\n    password_hash: !vault |\n{value}",
    )
    with pytest.raises(SpecError, match=r"host_vars/vm106\.yml:23: vm\.user\.password_hash") as refused:
        load_site(site)
    assert refused.value.code == "inventory-vault"


@pytest.mark.parametrize("configured", [True, False])
def test_a_vault_file_that_cannot_be_opened(
    site: Path, vault_password: Path, configured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not configured:
        monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
    (site / "group_vars").mkdir()
    (site / "group_vars" / "all.yml").write_text(encrypted("a: 1\n", "another"))
    with pytest.raises(SpecError, match=r"group_vars/all\.yml") as refused:
        load_site(site)
    assert refused.value.code == "inventory-vault"
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in str(refused.value.hint)


def test_a_value_from_a_vault_is_never_shown(site: Path, vault_password: Path) -> None:
    value = indented(encrypted("top_secret_name", "correct horse"))
    edit(site / "host_vars/vm106.yml", "  name: video\n", f"  name: !vault |\n{value}")
    with pytest.raises(InventoryError, match="expected a DNS name") as refused:
        load_site(site)
    assert "top_secret_name" not in refused.value.message


def test_the_settings_of_ansible_are_put_back(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_DUPLICATE_YAML_DICT_KEY", "ignore")
    load_site(site)
    assert os.environ["ANSIBLE_DUPLICATE_YAML_DICT_KEY"] == "ignore"
    assert "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED" not in os.environ


def test_a_home_that_cannot_be_written(site: Path) -> None:
    code = f"""
from pathlib import Path
from vi_ops.errors import SpecError
from vi_ops.execute.inventory import load_site
try:
    load_site(Path({str(site)!r}))
except SpecError as error:
    print(error.code)
"""
    environment = {**os.environ, "HOME": "/proc/nowhere"}  # Ansible looks once, when it is imported
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "inventory-ansible\n"


def test_find_inventory(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_inventory(site) == site
    assert find_inventory(site / "hosts.yml") == site
    with pytest.raises(SpecError) as missing:
        find_inventory(None)
    assert missing.value.code == "inventory-missing"
    assert "--inventory site" in str(missing.value.hint)
    monkeypatch.setenv("VI_OPS_INVENTORY", "site")
    assert find_inventory(None) == site
    monkeypatch.setenv("VI_OPS_INVENTORY", "elsewhere")
    with pytest.raises(SpecError, match=r"elsewhere/hosts\.yml is not there"):
        find_inventory(None)
    monkeypatch.delenv("VI_OPS_INVENTORY")
    site.rename(tmp_path / "inventory")
    assert find_inventory(None) == tmp_path / "inventory"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SpecError) as nothing:
        find_inventory(None)
    assert "vi-ops init" in str(nothing.value.hint)


@pytest.mark.slow
def test_200_vms_are_read_in_time(tmp_path: Path, home: Path) -> None:
    site = Path(shutil.copytree(BASE, tmp_path / "big"))
    (site / "host_vars/vm107.yml").unlink()
    template = (site / "host_vars/vm106.yml").read_text("utf-8").replace("  gpus:\n    - mapping: gpu0\n", "")
    names = []
    for n in range(200):
        text = template.replace("BC:24:11:00:01:06", f"BC:24:11:01:01:{n:02X}").replace(
            "name: video", f"name: v{n}"
        )
        text = text.replace("vmid: 106", f"vmid: {1000 + n}").replace("1.106/24", f"1.{n + 10}/24")
        text = text.replace(
            "ansible_host: 192.168.1.106", "ansible_host: \"{{ vm.network.address.split('/')[0] }}\""
        )
        (site / f"host_vars/v{n}.yml").write_text(text, "utf-8")
        names.append(f"        v{n}:\n")
    hosts = (BASE / "hosts.yml").read_text("utf-8").split("        vm106:")[0] + "".join(names)
    (site / "hosts.yml").write_text(hosts, "utf-8")
    code = f"""
import time; from pathlib import Path
from vi_ops.execute.inventory import load_site
assert len(load_site(Path({str(site)!r})).vms) == 200
print(time.process_time())  # not the wall's clock: others work on this machine too
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert float(done.stdout) < 1.5
