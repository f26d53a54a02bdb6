"""What holds for every inventory: no input crashes the reader, and what is shipped is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from vi_ops.errors import SpecError
from vi_ops.specs.check import format_path
from vi_ops.specs.host_vars import HostVars, Place
from vi_ops.specs.load import InventoryError, build_site
from vi_ops.specs.nearest import did_you_mean, nearest
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.schema import KINDS, host_vars_schema
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "schema"

KNOWN_KEYS = sorted(
    {*VmSpec.model_fields, *NodeSpec.model_fields, "type", "cores", "address", "size", "storage"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.sampled_from(["auto", "16 GiB", "192.168.1.5/24", "dhcp", "q35", "pve1", "AA:BB:CC:DD:EE:FF"])
    | st.dates()
)
YAML_LIKE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN_KEYS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=25,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["vm", "node", "ansible_host", "ansible_port", "vms"]), YAML_LIKE))
def test_whatever_a_file_holds_there_is_a_site_or_a_spec_error(values: dict[str, Any]) -> None:
    hosts = [HostVars("vm1", "vm", values), HostVars("pve1", "node", values)]
    with pytest.raises(InventoryError) as raised:  # a `vm` is no `node`, so one of the two is always wrong
        build_site(Path("/site"), hosts)
    for finding in raised.value.findings:
        assert format_path(finding.path) in raised.value.message
        assert finding.message


GOOD = {
    "node": "pve1",
    "vmid": 106,
    "image": "debian-13",
    "user": {"name": "smith", "password_hash": "$6$x$y"},
    "disk": {"storage": "local", "size": "4 GiB"},
}
PVE1 = HostVars(
    "pve1",
    "node",
    {"node": {"api": {"url": "https://pve1:8006", "token": "ops@pve!viops", "secret": {"env": "TOKEN"}}}},
)


@settings(deadline=None)
@given(st.sampled_from(sorted(VmSpec.model_fields)), YAML_LIKE)
def test_one_odd_value_in_a_good_vm_is_found_at_its_place_or_accepted(key: str, value: Any) -> None:
    vm = HostVars("vm106", "vm", {"vm": GOOD | {key: value}}, {("vm", key): Place("vm106.yml", 7)})
    try:
        build_site(Path("/site"), [PVE1, vm])
    except InventoryError as error:
        found, message = error.findings, error.message
    else:
        return
    assert all(finding.path[:2] == ("vm", key) for finding in found if len(finding.path) > 1)
    assert "vm106.yml:7: " in message


def test_a_minimal_vm_is_complete() -> None:
    site = build_site(Path("/site"), [PVE1, HostVars("vm106", "vm", {"vm": GOOD})])
    vm = site.vm("vm106")
    assert (vm.name, vm.memory, vm.machine, vm.network.address) == ("vm106", "auto", "q35", "dhcp")
    assert vm.ssh.user == "smith"
    with pytest.raises(SpecError) as unknown:
        site.vm("vm160")
    assert unknown.value.hint == "did you mean 'vm106'?"
    with pytest.raises(SpecError) as no_node:
        site.node("pve")
    assert no_node.value.code == "node-unknown"


def test_an_unmanaged_vm_has_the_words_of_a_managed_one() -> None:
    assert set(UnmanagedVmSpec.model_fields) == set(VmSpec.model_fields) - {"ssh"}


def test_an_unmanaged_vm_is_not_given_out() -> None:
    site = build_site(
        Path("/site"),
        [PVE1, HostVars("vm107", "vm", {"vm": {"managed": False, "node": "pve1", "vmid": 107}})],
    )
    with pytest.raises(SpecError) as refused:
        site.vm("vm107")
    assert refused.value.code == "vm-unmanaged"
    with pytest.raises(SpecError) as unknown:
        site.vm("vm170")
    assert unknown.value.hint == "did you mean 'vm107'?"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("baloon", "balloon"),
        ("Start-On-Boot", "start_on_boot"),
        ("startonboot", "start_on_boot"),
        ("MEMORY", "memory"),
        ("memroy", "memory"),
        ("tag", "tags"),
        ("gpu", "gpus"),
        ("xyzzy", None),
    ],
)
def test_the_nearest_name(word: str, name: str | None) -> None:
    assert nearest(word, VmSpec.model_fields) == name


@settings(deadline=None)
@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), max_size=6))
def test_the_nearest_name_is_one_of_the_known(word: str, known: list[str]) -> None:
    assert nearest(word, known) in {None, *known}
    assert bool(did_you_mean(word, known)) == bool(known)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{3,10}", fullmatch=True), min_size=1, unique=True))
def test_a_known_name_is_nearest_to_itself(known: list[str]) -> None:
    assert nearest(known[0], known) == known[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_the_one_of_the_code(kind: Any) -> None:
    published = json.loads((SCHEMAS / f"{kind}.json").read_text("utf-8"))
    assert published == host_vars_schema(kind), (
        f"write it anew: vi-ops schema {kind} > docs/schema/{kind}.json"
    )
    jsonschema.Draft202012Validator.check_schema(published)


def host_vars_files() -> list[Any]:
    files = sorted((ROOT / "inventory").glob("*/host_vars/*.yml"))
    return [pytest.param(file, id=str(file.relative_to(ROOT))) for file in files]


def problems(values: Any) -> list[str]:
    kind = "node" if "node" in values else "vm"
    return [
        error.message for error in jsonschema.Draft202012Validator(host_vars_schema(kind)).iter_errors(values)
    ]


@pytest.mark.parametrize("file", host_vars_files())
def test_what_is_shipped_fits_the_schema_that_it_names(file: Path) -> None:
    text = file.read_text("utf-8")
    values = YAML(typ="safe").load(text)
    kind = "node" if "node" in values else "vm"
    assert f"$schema=../../../docs/schema/{kind}.json" in text
    assert not problems(values)


@pytest.mark.parametrize(
    "change",
    [
        {"memroy": "1 GiB"},
        {"memory": 16384},
        {"memory": "16 GB"},
        {"machine": "q36"},
        {"name": "with_underscore"},
        {"host": "vm106"},
        {"cpu": {"core": 2}},
        {"user": {"name": "smith", "ssh_keys": "other"}},
        {"managed": False, "disk": {"storage": "local"}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(change: dict[str, Any]) -> None:
    assert not problems({"vm": GOOD})
    assert problems({"vm": GOOD | change})
    with pytest.raises(InventoryError):
        build_site(Path("/site"), [PVE1, HostVars("vm106", "vm", {"vm": GOOD | change})])


def test_the_schema_takes_templates_and_auto() -> None:
    assert not problems(
        {"vm": GOOD | {"user": "{{ site_user }}", "vmid": "{{ base + 6 }}", "memory": "auto"}}
    )
    assert not problems({"vm": GOOD | {"user": {"name": "smith", "ssh_keys": "auto"}}, "other_variable": 1})
