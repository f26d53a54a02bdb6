"""A site and a lab with fake guests, worked on through the real command line in this process."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from tests.support.fake_agent import FakeAgent
from tests.support.fake_guests import FakeGuests
from tests.support.fake_node import CLOUD_INIT_DONE
from tests.support.lab import running_lab
from tests.support.ssh_server import SshServer, ssh_server
from tests.support.vm_lab import VmLab, vm_lab
from vi_ops.cli.main import main
from vi_ops.execute import apply
from vi_ops.execute.ansible import PlaybookResult
from vi_ops.execute.state import SiteState, site_state
from vi_ops.lab import guest

INVENTORY = Path(__file__).parents[2] / "inventory" / "lab"
VMID = 106
GUEST = """---
vm:
  node: pve1
  vmid: {vmid}
  name: vm{vmid}
  image: debian-13
  firmware: seabios
  memory: 1 GiB
  disk: {{storage: local, size: 2 GiB}}
  network: {{address: 192.168.1.{vmid}/24, gateway: 192.168.1.1}}
  user: {{name: smith, ssh_keys: auto}}
ansible_port: {port}
ansible_ssh_private_key_file: {key}
"""


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and its words, each with single spaces, as they wrap at will."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Scene:
    """A lab, a site with vm106 and vm101, and an SSH server that plays both. The playbook does nothing."""

    lab: VmLab
    site: Path
    ssh: SshServer

    @property
    def state(self) -> SiteState:
        return site_state(self.site)

    @property
    def image(self) -> Path:
        """The image on the node's storage."""
        return self.lab.storage / "import" / "debian-13.qcow2"

    def edit(self, host: str, old: str, new: str) -> None:
        """Replace something that a host_vars file has."""
        file = self.site / "host_vars" / f"{host}.yml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def writes(self) -> list[str]:
        """Every request that was no GET, as `POST /nodes/pve1/qemu`, carried out or not."""
        return [f"{one['method']} {one['path']}" for one in self.lab.lab.writes()]

    def carried_out(self, call: str) -> int:
        """How often the node did what `POST /nodes/pve1/qemu` asks: answers may have been lost since."""
        return sum(
            f"{one['method']} {one['path']}" == call and _is_done(one) for one in self.lab.lab.writes()
        )

    def volumes(self) -> list[str]:
        """The VM's files on the storage."""
        return sorted(file.name for file in (self.lab.storage / "images").glob(f"{VMID}/*"))

    def known_hosts(self) -> str:
        file = self.state.known_hosts
        return file.read_text() if file.exists() else ""


def _is_done(entry: dict[str, object]) -> bool:
    return entry["status"] in {200, 596}


def vi_ops(*words: str) -> Ran:
    """Run `vi-ops` with these words, error boundary and exit code included."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["vi-ops", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Ran(code, *(re.sub(r"\s+", " ", stream.getvalue()) for stream in (out, err)))


@contextmanager
def scene(folder: Path, release: str = "9.2", *, fakes: bool = True) -> Iterator[Scene]:
    """Serve a lab from `folder` and make a site for it, until the block ends; guests are `fakes` or QEMUs."""
    home, site = folder / "lab", folder / "site"
    shutil.copytree(INVENTORY, site)
    with (
        pytest.MonkeyPatch.context() as patch,
        vm_lab(home, release) if fakes else _with_qemu(home, release) as lab,
        ssh_server(folder) as ssh,
    ):
        patch.setenv("VI_OPS_LAB_DIR", str(home))
        patch.setenv("VI_OPS_LAB_PORT", str(lab.lab.port))
        patch.setenv("VI_OPS_STATE_DIR", str(folder / "state"))
        patch.setenv("VI_OPS_CACHE_DIR", str(folder / "cache"))
        patch.setenv("VI_OPS_INVENTORY", str(site))
        patch.setattr(apply, "run_playbook", lambda *args, **options: PlaybookResult(ok=2, changed=0))
        here = Scene(lab, site, ssh)
        hosts = (site / "hosts.yml").read_text()
        (site / "hosts.yml").write_text(hosts.replace("        vm106:\n", "        vm106:\n        vm101:\n"))
        for vmid in (106, 101):
            text = GUEST.format(vmid=vmid, port=ssh.port, key=ssh.user_key_file)
            (site / "host_vars" / f"vm{vmid}.yml").write_text(text)
            lab.guests.agents[vmid] = _agent(lab, ssh, vmid).answers()
        key = f"{ssh.user_key.get_name()} {ssh.user_key.get_base64()} smith\n"
        ssh.user_key_file.with_name(f"{ssh.user_key_file.name}.pub").write_text(key)
        make_image(here.image)
        yield here


@contextmanager
def _with_qemu(home: Path, release: str) -> Iterator[VmLab]:
    with running_lab(home, release) as lab:
        try:
            yield VmLab(lab, FakeGuests())
        finally:
            for vmid in lab.node.vmids():
                asyncio.run_coroutine_threadsafe(guest.stop(lab.node, vmid), lab.loop).result(30)


def _agent(lab: VmLab, ssh: SshServer, vmid: int) -> FakeAgent:
    files = {
        "/run/cloud-init/status.json": CLOUD_INIT_DONE,
        "/etc/ssh/ssh_host_ed25519_key.pub": f"{ssh.host_key.type} {ssh.host_key.blob}",
    }
    return FakeAgent(lambda: lab.config(vmid).values["net0"], f"192.168.1.{vmid}/24", files)


def make_image(path: Path) -> None:
    """An empty disk of 64 MiB: nothing boots from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True, timeout=30)
