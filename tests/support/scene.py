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
GUEST = f"""---
vm:
  node: pve1
  vmid: {VMID}
  name: vm{VMID}
  image: debian-13
  firmware: seabios
  memory: 64 MiB
  disk: {{storage: local, size: 1 GiB}}
  network: {{address: 192.168.1.{VMID}/24, gateway: 192.168.1.1}}
  user: {{name: smith, ssh_keys: auto}}
"""


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and its words, each with single spaces, as they wrap at will."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Scene:
    """A lab, a site with vm106, and an SSH server that plays the guest. The base playbook does nothing."""

    lab: VmLab
    site: Path

    @property
    def state(self) -> SiteState:
        return site_state(self.site)

    @property
    def vm_file(self) -> Path:
        return self.site / "host_vars" / f"vm{VMID}.yml"

    @property
    def node_file(self) -> Path:
        return self.site / "host_vars" / "pve1.yml"

    @property
    def image(self) -> Path:
        """The image on the node's storage."""
        return self.lab.storage / "import" / "debian-13.qcow2"

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
def scene(folder: Path, *, fakes: bool = True) -> Iterator[Scene]:
    """Serve a lab from `folder` and make a site for it, until the block ends; guests are `fakes` or QEMUs."""
    site = folder / "site"
    shutil.copytree(INVENTORY, site)
    with (
        pytest.MonkeyPatch.context() as patch,
        vm_lab(folder / "lab", schema=False) if fakes else _with_qemu(folder / "lab") as lab,
        ssh_server(folder) as ssh,
    ):
        patch.setenv("VI_OPS_LAB_DIR", str(folder / "lab"))
        patch.setenv("VI_OPS_LAB_PORT", str(lab.lab.port))
        patch.setenv("VI_OPS_STATE_DIR", str(folder / "state"))
        patch.setenv("VI_OPS_CACHE_DIR", str(folder / "cache"))
        patch.setenv("VI_OPS_INVENTORY", str(site))
        patch.setattr(apply, "run_playbook", lambda *args, **options: PlaybookResult(ok=2, changed=0))
        here = Scene(lab, site)
        reach = f"ansible_port: {ssh.port}\nansible_ssh_private_key_file: {ssh.user_key_file}\n"
        here.vm_file.write_text(GUEST + reach)
        lab.guests.agents[VMID] = _agent(lab, ssh).answers()
        key = f"{ssh.user_key.get_name()} {ssh.user_key.get_base64()} smith\n"
        ssh.user_key_file.with_name(f"{ssh.user_key_file.name}.pub").write_text(key)
        make_image(here.image)
        yield here


@contextmanager
def _with_qemu(home: Path) -> Iterator[VmLab]:
    with running_lab(home) as lab:
        try:
            yield VmLab(lab, FakeGuests())
        finally:
            for vmid in lab.node.vmids():
                asyncio.run_coroutine_threadsafe(guest.stop(lab.node, vmid), lab.loop).result(30)


def _agent(lab: VmLab, ssh: SshServer) -> FakeAgent:
    files = {
        "/run/cloud-init/status.json": CLOUD_INIT_DONE,
        "/etc/ssh/ssh_host_ed25519_key.pub": f"{ssh.host_key.type} {ssh.host_key.blob}",
    }
    return FakeAgent(lambda: lab.config(VMID).values["net0"], f"192.168.1.{VMID}/24", files)


def make_image(path: Path) -> None:
    """An empty disk of 64 MiB: nothing boots from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True, timeout=30)
