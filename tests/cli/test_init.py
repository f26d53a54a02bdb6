"""`vi-ops init` and `vi-ops schema`: what is written loads again, and what is there stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.lab import RunningLab, running_lab
from vi_ops.execute.inventory import load_site
from vi_ops.facts.node import StorageFacts
from vi_ops.facts.site import SiteFacts
from vi_ops.plan.init import dump_yaml, site_files
from vi_ops.units import GIB, MIB

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0eGG4RkaGvG7pCuCx/i4PI2W0vCnVojgeTmNTX7M+5 me"
API = {"url": "https://10.8.0.2:8006", "token": "ops@pve!viops", "secret": {"env": "TOKEN"}}


def vi_ops(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, with a home of its own that holds an SSH key."""
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    (home / ".ssh" / "id_ed25519.pub").write_text(f"{KEY}\n")
    return subprocess.run(
        [sys.executable, "-m", "vi_ops", *arguments],
        cwd=folder,
        env={**os.environ, "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def written(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_text("utf-8") for file in files}


@pytest.mark.parametrize("source", ["example", "lab"])
def test_what_comes_with_vi_ops_loads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    done = vi_ops(tmp_path, "init", "--from", source)
    assert done.returncode == 0, done.stderr
    assert "inventory/hosts.yml" in done.stdout.splitlines()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    site = load_site(tmp_path / "inventory")
    assert set(site.vms) == {"vm106"}
    assert not site.advice
    for name, text in written(tmp_path / "inventory" / "host_vars").items():
        schema = text.split("$schema=", 1)[1].split()[0]
        assert (tmp_path / "inventory" / "host_vars" / schema).is_file(), name


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    (tmp_path / "site" / "host_vars").mkdir(parents=True)
    (tmp_path / "site" / "host_vars" / "vm106.yml").write_text("mine: 1\n")
    done = vi_ops(tmp_path, "init", "--from", "lab", "site")
    assert done.returncode == 6
    assert "init-exists" in done.stderr
    assert "host_vars/vm106.yml" in done.stderr
    assert written(tmp_path / "site") == {"host_vars/vm106.yml": "mine: 1\n"}


@pytest.mark.parametrize("more", [("--from", "lab"), ("--url", "https://127.0.0.1:1", "--secret-env", "X")])
def test_no_inventory_is_written_around_others(tmp_path: Path, more: tuple[str, ...]) -> None:
    for name in ("example", "lab"):
        assert vi_ops(tmp_path, "init", "--from", name, f"inventory/{name}").returncode == 0
    done = vi_ops(tmp_path, "init", *more)
    assert done.returncode == 6
    assert "error [init-nested]: inventory holds other inventories (example, lab)" in done.stderr
    assert "`vi-ops init my-site`" in done.stderr
    assert not (tmp_path / "inventory" / "hosts.yml").exists()


def test_json_says_what_was_written(tmp_path: Path) -> None:
    done = vi_ops(tmp_path, "init", "--from", "lab", "site", "--json")
    said = json.loads(done.stdout)
    assert said["folder"] == "site"
    assert {name for name in written(tmp_path / "site") if not name.startswith(".")} == set(said["files"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one of --from and --url"),
        (("--from", "lab", "--url", "https://pve1:8006"), "give one of --from and --url"),
        (("--url", "https://pve1:8006", "--token", "a@pve!b"), "--secret-file / --secret-env"),
    ],
)
def test_a_command_line_that_is_not_clear(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = vi_ops(tmp_path, "init", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "inventory").exists()


def test_options_are_checked_as_the_inventory_is(tmp_path: Path) -> None:
    done = vi_ops(
        tmp_path, "init", "--url", "http://pve1:8006", "--token", "ops@pve", "--secret-env", "TOKEN"
    )
    assert done.returncode == 4
    assert "node.api.url: expected a URL" in done.stderr
    assert "node.api.token: expected a token id" in done.stderr
    assert not (tmp_path / "inventory").exists()


def ask_lab(tmp_path: Path, lab: RunningLab, *more: str) -> subprocess.CompletedProcess[str]:
    where = ("--url", lab.url, "--token", "ops@pve!viops", "--secret-file", str(lab.home / "token"))
    return vi_ops(tmp_path, "init", "site", *where, *more)


@pytest.mark.slow
def test_a_live_node_is_described_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_lab(tmp_path / "lab") as lab:
        for vmid, params in {
            "101": {"name": "old", "memory": 2048, "cores": 2, "net0": "virtio,bridge=vmbr0", "onboot": 1},
            "104": {
                "memory": 512,
                "balloon": 0,
                "scsi0": "local:2",
                "description": "{{ 1 / 0 }}",
                "tags": "a;b",
            },
        }.items():
            made = lab.ask("POST", "/nodes/pve1/qemu", {"vmid": vmid, **params})
            assert made.status == 200, made.body
            assert lab.wait(made.data) == "OK"
        before = len(lab.writes())
        first = ask_lab(tmp_path, lab)
        assert first.returncode == 6, "without CA and without anybody to ask, nothing is trusted"
        assert "tls-first-contact" in first.stderr
        assert "give it with --fingerprint" in first.stderr
        where = ("--url", lab.url, "--ca-file", str(lab.ca), "--secret-env", "WRONG")
        wrong = vi_ops(tmp_path, "init", "site", *where, "--token", "ops@pve!viops", WRONG="not-it")
        assert "[pve-login]" in wrong.stderr
        assert "`vi-ops node roles --release 9`" in wrong.stderr
        done = ask_lab(tmp_path, lab, "--ca-file", str(lab.ca))
        assert done.returncode == 0, done.stderr
        assert len(lab.writes()) == before
        secret = lab.token
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    site = load_site(tmp_path / "site")
    assert not site.vms
    assert not site.advice
    old, other = site.unmanaged["vm101"], site.unmanaged["vm104"]
    assert (old.vmid, old.name, old.memory, old.start_on_boot) == (101, "old", 2 * GIB, True)
    assert old.cpu
    assert (old.cpu.cores, old.cpu.sockets) == (2, 1)
    assert old.network
    assert old.network.mac
    assert (other.memory, other.balloon, other.tags) == (512 * MIB, False, ("a", "b"))
    assert other.description == "{{ 1 / 0 }}"
    assert other.disk
    assert (other.disk.storage, other.disk.size) == ("local", 2 * GIB)
    assert site.node("pve1").api.ca_file == str(lab.ca)
    assert all(secret not in text for text in written(tmp_path / "site").values())


def facts(guests: dict[int, dict[str, Any]]) -> SiteFacts:
    storage = StorageFacts("local", "dir", frozenset({"iso", "import"}), True, 100 * GIB, 50 * GIB)
    return SiteFacts("pve1", 128715 * MIB, 2, (storage,), guests)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


OPTIONS = st.sampled_from(
    [
        *("name", "description", "tags", "cpu", "cores", "sockets", "memory", "balloon", "machine", "bios"),
        *("scsi0", "virtio0", "net0", "ipconfig0", "nameserver", "searchdomain", "ciuser", "sshkeys"),
        *("onboot", "protection", "hostpci0", "usb0", "boot", "args", "template", "unused0"),
    ]
)
VALUES = (
    st.text()
    | st.integers()
    | st.sampled_from(
        [
            *(
                "local:vm-1-disk-0,size=4G",
                "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5",
                "ip=dhcp",
                "order=scsi0",
            ),
            *(
                "ip=10.0.0.5/24,gw=10.0.1.1",
                "mapping=gpu0",
                "host,flags=+aes",
                "ovmf",
                "q35",
                "a,b=",
                "root",
                "vm101",
                "VM102",
            ),
            *("{{ lookup('pipe', 'touch /tmp/never') }}", "{% raw %}", "yes", "12:34:56:12:34:56", "512"),
        ]
    )
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(100, 105), st.dictionaries(OPTIONS, VALUES, max_size=8), max_size=4))
def test_whatever_a_node_tells_the_result_loads(tmp_path: Path, guests: dict[int, dict[str, Any]]) -> None:
    site = load_site(write(tmp_path / "site", site_files(facts(guests), API)))
    for vmid, config in guests.items():
        vm = site.unmanaged[f"vm{vmid}"]
        assert vm.vmid == vmid
        if vm.description:
            assert vm.description == str(config["description"]).rstrip("\n")
    assert not site.vms
    assert not site.advice


@settings(deadline=None)
@given(st.dictionaries(OPTIONS, st.text() | st.integers() | st.booleans() | st.lists(st.text())))
def test_ansible_reads_back_what_is_dumped(values: dict[str, Any]) -> None:
    from ansible.parsing.dataloader import DataLoader

    assert DataLoader().load(dump_yaml({"vm": {"description": values}})) == {"vm": {"description": values}}


def test_what_a_node_tells_is_never_carried_out(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f"{{{{ lookup('pipe', 'touch {trap}') }}}}"
    files = site_files(facts({101: {"description": evil, "args": f"x\n{evil}", "tags": evil}}), API)
    site = load_site(write(tmp_path / "site", files))
    assert site.unmanaged["vm101"].description == evil
    assert not trap.exists()


def test_a_vm_may_have_the_default_name_of_another(tmp_path: Path) -> None:
    files = site_files(facts({101: {"name": "vm102"}, 102: {}, 103: {"name": "VM103"}}), API)
    site = load_site(write(tmp_path / "site", files))
    assert [site.unmanaged[f"vm{vmid}"].name for vmid in (101, 102, 103)] == ["vm101", "vm102", "VM103"]


def test_a_vm_is_handed_over_without_advice(tmp_path: Path) -> None:
    config = {
        "name": "video",
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
        "ipconfig0": "ip=192.168.1.106/24,gw=192.168.1.1",
        "scsi0": "local:106/vm-106-disk-0.qcow2,size=4G",
        "ciuser": "smith",
        "sshkeys": quote(KEY, safe=""),
    }
    folder = write(tmp_path / "site", site_files(facts({106: config, 107: {}}), API))
    assert set(load_site(folder).unmanaged) == {"vm106", "vm107"}
    file = folder / "host_vars" / "vm106.yml"
    file.write_text(file.read_text().replace("  managed: false\n", "  managed: true\n  image: debian-13\n"))
    site = load_site(folder)
    assert site.vm("vm106").ssh.host == "192.168.1.106"
    assert not site.advice


def test_what_two_vms_share_is_left_to_the_first(tmp_path: Path) -> None:
    config = {"name": "twin", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"}
    files = site_files(facts({101: config, 102: dict(config)}), API)
    site = load_site(write(tmp_path / "site", files))
    assert (site.unmanaged["vm101"].name, site.unmanaged["vm102"].name) == ("twin", "vm102")
    assert "#   name: twin\n" in files["host_vars/vm102.yml"]
    assert site.unmanaged["vm102"].network is None


def test_schema_prints_what_is_published(tmp_path: Path) -> None:
    published = Path(__file__).parents[2] / "docs" / "schema"
    for kind in ("node", "vm"):
        done = vi_ops(tmp_path, "schema", kind)
        assert json.loads(done.stdout) == json.loads((published / f"{kind}.json").read_text("utf-8"))
    assert set(json.loads(vi_ops(tmp_path, "schema").stdout)) == {"node", "vm"}
    assert vi_ops(tmp_path, "schema", "disk").returncode == 2
