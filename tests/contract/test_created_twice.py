"""Whatever a valid spec says: both schemas take it, a node makes it, and the next plan has nothing to do.

The lab stands for the node, in both releases, with its schema checks and without: it answers in a node's own
normal forms, which the plan has to recognise as what it asked for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.lab import published_schema
from tests.support.plan_ground import node_of, node_spec_of
from tests.support.vm_lab import vm_lab
from vi_ops.execute.look import look_at_node, look_at_vm
from vi_ops.execute.pve import Pve, connect, sendable
from vi_ops.lab.schema import Schema
from vi_ops.plan.step import Plan, PveCall
from vi_ops.plan.vm import plan_vm
from vi_ops.plan.vm_config import create_params
from vi_ops.specs.model import INVENTORY
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.vm import VmSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RELEASES = ("8.4", "9.2")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAbSbe0DQ3Bt0dEHIBgeALQPbmT8nW9p7lxrtHnJmcXo"
MIB = 2**20

printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20)
label = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True)
address4 = st.integers(1, 254).map(lambda n: f"192.168.1.{n}")
sizes = st.integers(2048, 20480).map(lambda mib: f"{mib} MiB")  # an image has 2 GiB


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


STATIC = st.builds(
    lambda host, prefix, gateway: {"address": f"192.168.1.{host}/{prefix}", "gateway": gateway},
    st.integers(2, 250),
    st.sampled_from([8, 16, 24]),
    st.none() | st.just("192.168.1.1"),
)
NETWORKS = st.builds(
    lambda place, rest: place | rest,
    st.just({}) | STATIC,
    some(
        vlan=st.integers(1, 4094),
        mac=st.from_regex(r"[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}", fullmatch=True),
        nameservers=st.lists(address4 | st.sampled_from(["fd00::1", "2001:db8::53"]), max_size=3),
        search_domain=st.none() | st.lists(label, min_size=1, max_size=3).map(".".join),
    ),
)
USERS = st.builds(
    lambda name, rest: {"name": name} | rest,
    st.from_regex(r"[a-z_][a-z0-9_\-]{0,31}", fullmatch=True).filter(lambda name: name != "root"),
    some(
        ssh_keys=st.lists(
            printable.map(lambda comment: " ".join(f"{KEY} {comment}".split())), max_size=3, unique=True
        ),
        password_hash=st.sampled_from(["$6$salt$a./B", "$5$rounds=5000$salt$x", "$2y$10$abc./"]),
    ),
)
SPECS = st.builds(
    lambda name, user, size, rest: (
        {"name": name, "user": user, "disk": {"storage": "local", "size": size}} | rest
    ),
    st.lists(label, min_size=1, max_size=3).map(".".join),
    USERS,
    sizes,
    some(
        description=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60),
        tags=st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_\-+.]{0,9}", fullmatch=True), max_size=4),
        cpu=some(
            type=st.sampled_from(["host", "x86-64-v2-AES", "max", "EPYC-v4", "custom-mine"]),
            sockets=st.integers(1, 2),
            cores=st.integers(1, 2),
        ),
        machine=st.sampled_from(["q35", "i440fx"]),
        firmware=st.sampled_from(["ovmf", "seabios"]),
        memory=st.integers(16, 4096).map(lambda mib: f"{mib} MiB") | st.just("auto"),
        balloon=st.booleans(),
        network=NETWORKS,
        cloud_init=some(
            storage=st.just("local"),
            upgrade_packages=st.booleans(),
            user_data=st.just("local:snippets/user.yaml"),
            vendor_data=st.just("local:snippets/a=b;c.yaml"),
        ),
        start_on_boot=st.booleans(),
        protection=st.booleans(),
    ),
)


def spec_of(values: dict[str, Any]) -> VmSpec:
    ground = {
        "host": "vm106",
        "ssh": {"host": "vm106"},
        "node": "pve1",
        "vmid": 106,
        "image": "debian-13",
    }
    return VmSpec.model_validate(ground | values, context=INVENTORY)


@pytest.fixture(scope="module")
def schemas() -> list[Schema]:
    files = {release: published_schema(release) for release in RELEASES}
    if None in files.values():
        pytest.skip("../shared/pve-api with the published schema is not here")
    return [Schema.load(file, release) for release, file in files.items() if file]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pve]]:
    """A client of each kind of lab."""
    with ExitStack() as stack:
        clients = {}
        for release in RELEASES:
            for schema in (True, False):
                if schema and not published_schema(release):
                    continue
                home = tmp_path_factory.mktemp("lab")
                lab = stack.enter_context(vm_lab(home, release, schema=schema)).lab
                store = home / "storage" / "local"
                for snippet in ("user.yaml", "a=b;c.yaml"):
                    (store / "snippets").mkdir(parents=True, exist_ok=True)
                    (store / "snippets" / snippet).write_text("#cloud-config\n")
                image = store / "import" / "debian-13.qcow2"
                image.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(
                    ["qemu-img", "create", "-q", "-f", "qcow2", str(image), "20M"], check=True, timeout=20
                )
                clients[f"{release}{'' if schema else ' without schema'}"] = stack.enter_context(
                    connect(node_spec(lab.url, lab.ca, home / "token"), state_dir=home)
                )
        yield clients


def node_spec(url: str, ca: Path, secret: Path) -> NodeSpec:
    api = {"url": url, "token": "ops@pve!viops", "secret": {"file": str(secret)}, "ca_file": str(ca)}
    return NodeSpec.model_validate({"host": "pve1", "name": "pve1", "api": api, "ssh": {"host": "pve1"}})


def plan_now(pve: Pve, spec: VmSpec) -> Plan:
    node = look_at_node(pve)
    site = Site(Path("/site"), {"pve1": pve.spec}, {"vm106": spec}, {})
    return plan_vm(spec, pve.spec, node, look_at_vm(pve, 106, node), site)


def carry_out(pve: Pve, plan: Plan) -> None:
    for step in plan.steps:
        if isinstance(step.do, PveCall):
            pve.run(step.do, 30)


def remove(pve: Pve) -> None:
    vm = "/nodes/pve1/qemu/106"
    pve.run(PveCall("PUT", f"{vm}/config", {"protection": False}), 30)
    pve.run(PveCall("POST", f"{vm}/status/stop"), 30)
    pve.run(PveCall("DELETE", vm), 30)


@given(values=SPECS)
@settings(deadline=None, max_examples=6, phases=[Phase.generate])
def test_what_a_plan_makes_needs_no_second_one(nodes: dict[str, Pve], values: dict[str, Any]) -> None:
    spec = spec_of(values)
    for name, pve in nodes.items():
        first = plan_now(pve, spec)
        assert not first.is_blocked, first.findings
        try:
            carry_out(pve, first)
            again = plan_now(pve, spec)
            assert again.steps == (), name
            assert not again.waiting
        finally:
            remove(pve)


@given(before=SPECS, after=SPECS, is_running=st.booleans())
@settings(deadline=None, max_examples=6, phases=[Phase.generate])
def test_what_a_plan_changes_needs_no_second_change(
    nodes: dict[str, Pve], before: dict[str, Any], after: dict[str, Any], is_running: bool
) -> None:
    kept = {key: before[key] for key in ("name", "firmware", "machine") if key in before}
    size = max(before["disk"]["size"], after["disk"]["size"], key=lambda text: int(text.split()[0]))
    after = {key: value for key, value in after.items() if key not in {"firmware", "machine"}} | kept
    changed = spec_of(after | {"disk": {"storage": "local", "size": size}})
    for name, pve in nodes.items():
        try:
            carry_out(pve, plan_now(pve, spec_of(before)))
            if not is_running:
                pve.run(PveCall("POST", "/nodes/pve1/qemu/106/status/stop"), 30)
            second = plan_now(pve, changed)
            assert not second.is_blocked, second.findings
            carry_out(pve, second)
            assert plan_now(pve, changed).steps == (), name
        finally:
            remove(pve)


@given(values=SPECS)
@settings(deadline=None, max_examples=200)
def test_both_schemas_take_what_a_plan_asks_for(schemas: list[Schema], values: dict[str, Any]) -> None:
    spec = spec_of(values)
    params = create_params(spec, node_spec_of({}), node_of({}), 1024)
    sent = {key: str(value) for key, value in sendable(params).items()} | {"node": "pve1"}
    for schema in schemas:
        schema.check("POST", "/nodes/{node}/qemu", sent)
