"""A login whose rights are narrow, or given where they are least expected, still gets its VM."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.contract.test_created_twice import carry_out, node_spec, plan_now, spec_of
from tests.support.vm_lab import SECRET, vm_lab
from vi_ops.execute.pve import connect
from vi_ops.lab import seed
from vi_ops.plan.role import least_grants
from vi_ops.specs.site import Site

pytestmark = pytest.mark.slow

SPEC = spec_of(
    {
        "name": "vm106",
        "user": {"name": "smith"},
        "memory": "512 MiB",
        "disk": {"storage": "local", "size": "2 GiB"},
    }
)
VM = [*seed.VM_PRIVILEGES]
SPACE = ["Datastore.AllocateSpace", "Datastore.Audit"]
# What the recorded `ops` has: builtin roles, and none that lets it see the node itself.
BUILTIN = {
    "/": "PVEVMAdmin",
    "/storage": "PVEDatastoreAdmin",
    "/sdn": "PVESDNUser",
    "/mapping": "PVEMappingUser",
}


def grants(kind: str, major: int) -> Mapping[str, list[str] | str]:
    if kind == "builtin":
        return BUILTIN
    if kind == "this VM only":
        return {
            "/vms/106": VM + seed.AGENT_PRIVILEGES[major],
            "/storage/local": SPACE,
            "/sdn/zones/localnetwork/vmbr0": ["SDN.Use"],
            "/nodes/pve1": ["Sys.Audit"],
        }
    pve1 = node_spec("https://pve1:8006", Path("/ca"), Path("/secret"))
    site = Site(Path("/site"), {"pve1": pve1}, {"vm106": SPEC}, {})
    return {one.path: list(one.privileges) for one in least_grants(site, pve1, major)}


@pytest.mark.parametrize("release", ["8.4", "9.2"])
@pytest.mark.parametrize("kind", ["builtin", "this VM only", "least"])
def test_a_vm_is_made_and_then_right(tmp_path: Path, kind: str, release: str) -> None:
    with vm_lab(tmp_path, release) as scene:
        acl, lab = scene.lab.node.acl, scene.lab
        seed.add_user(acl, "narrow@pve", tokens={"t": (SECRET, False)})
        for path, given in grants(kind, int(release[0])).items():
            role = given if isinstance(given, str) else f"Narrow{path.replace('/', '-')}"
            if not isinstance(given, str):
                acl.state["roles"][role] = sorted(given)
            seed.grant(acl, path, "narrow@pve", role)
        image = scene.storage / "import" / "debian-13.qcow2"
        image.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "20M"], check=True, timeout=20)
        secret = tmp_path / "narrow"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        spec = node_spec(lab.url, lab.ca, secret)
        api = spec.api.model_copy(update={"token": "narrow@pve!t"})
        with connect(spec.model_copy(update={"api": api}), state_dir=tmp_path) as pve:
            plan = plan_now(pve, SPEC)
            assert not plan.is_blocked, plan.findings
            told = [finding.code for finding in plan.findings]
            assert told == (["node-unseen"] if kind == "builtin" else [])
            carry_out(pve, plan)
            assert plan_now(pve, SPEC).steps == ()
