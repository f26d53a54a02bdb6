"""The least rights: enough for every call, valid for the release, and no more."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from vi_ops.facts.access import Denied, parse_denied, parse_rights
from vi_ops.plan.role import first_grants, lacking, least_grants, own_token, root_commands
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.vm import VmSpec

ROLES = Path(__file__).parents[3] / "shared" / "pve-api" / "roles.json"


def node(tokenid: str = "ops@pve!viops") -> NodeSpec:
    api = {"url": "https://pve1:8006", "token": tokenid, "secret": {"env": "X"}}
    return NodeSpec.model_validate({"host": "pve1", "name": "pve1", "api": api, "ssh": {"host": "pve1"}})


def site(**more: object) -> Site:
    vm = VmSpec.model_validate(
        {
            "host": "vm106",
            "name": "video",
            "node": "pve1",
            "vmid": 106,
            "ssh": {"host": "x"},
            "image": "debian-13",
            "user": {"name": "smith", "ssh_keys": ["ssh-ed25519 AAAA x"]},
            "disk": {"storage": "local-lvm", "size": 4 * 1024**3},
            **more,
        }
    )
    return Site(Path(), {"pve1": node()}, {"vm106": vm})


@pytest.mark.parametrize("major", [8, 9])
@pytest.mark.parametrize("pool", [None, "video"])
def test_every_privilege_exists_in_its_release(major: int, pool: str | None) -> None:
    if not ROLES.exists():
        pytest.skip("../shared/pve-api/roles.json is not here")
    known = json.loads(ROLES.read_text())[{8: "8.4", 9: "9"}[major]]["privileges"]
    for grant in least_grants(site(), node(), major, pool):
        assert set(grant.privileges) <= set(known)


def test_the_agents_privileges_follow_the_release() -> None:
    eight, nine = (least_grants(site(), node(), major)[0].privileges for major in (8, 9))
    assert set(eight) - set(nine) == {"VM.Monitor"}
    assert {name for name in set(nine) - set(eight) if not name.startswith("VM.GuestAgent.")} == set()


def test_no_right_to_change_the_node_or_its_users() -> None:
    gpu = {"gpus": [{"mapping": "gtx"}], "usb": [{"mapping": "ssd", "id": "174c:55aa"}]}
    given = {name for grant in least_grants(site(**gpu), node(), 9) for name in grant.privileges}
    assert not {
        name for name in given if re.search(r"Modify|User|Realm|Group|Permissions|PowerMgmt$", name)
    } - {"VM.PowerMgmt"}
    assert not given & {"Sys.Console", "Sys.Incoming", "Datastore.Allocate", "VM.Migrate"}


def test_a_devices_mapping_is_granted_only_where_a_vm_has_one() -> None:
    paths = {grant.path for grant in least_grants(site(), node(), 9)}
    assert not {path for path in paths if path.startswith("/mapping") or path == "/"}
    grants = {grant.path: grant for grant in least_grants(site(gpus=[{"mapping": "gtx"}]), node(), 9)}
    assert grants["/mapping/pci/gtx"].privileges == ("Mapping.Use",)
    assert not grants["/"].reaches_down


def test_a_pool_limits_changes_and_not_what_is_seen() -> None:
    grants = {grant.path: grant for grant in least_grants(site(), node(), 9, pool="video")}
    assert "VM.Allocate" in grants["/pool/video"].privileges
    assert grants["/vms"].privileges == ("VM.Audit",)


def test_the_commands_are_what_root_can_paste() -> None:
    grants = least_grants(site(gpus=[{"mapping": "gtx"}]), node(), 9)
    commands = [shlex.split(command) for command in root_commands(grants)]
    assert {command[0] for command in commands} == {"pveum"}
    roles = {command[3]: set(command[5].split()) for command in commands if command[1:3] == ["role", "add"]}
    entries = [command for command in commands if command[1:3] == ["acl", "modify"]]
    assert {entry[3] for entry in entries} == {grant.path for grant in grants}
    assert {entry[entry.index("--roles") + 1] for entry in entries} == set(roles)
    assert next(entry for entry in entries if entry[3] == "/")[-2:] == ["--propagate", "0"]
    assert ["pveum", "user", "token", "add", "ops@pve", "viops", "--privsep", "0"] in commands


@pytest.mark.parametrize("major", [8, 9])
@pytest.mark.parametrize("pool", [None, "video"])
def test_what_root_grants_first_is_enough_for_the_inventory_that_comes_later(
    major: int, pool: str | None
) -> None:
    tree = {
        grant.path: dict.fromkeys(grant.privileges, int(grant.reaches_down))
        for grant in first_grants(major, pool)
    }
    assert lacking(least_grants(site(), node(), major, pool), parse_rights(tree)) == ()


def test_a_site_that_works_as_root_gets_a_user_of_its_own() -> None:
    assert own_token(node("root@pam!ops")) == "ops@pve!viops"
    assert own_token(node("smith@pam!ops")) == "smith@pam!ops"


def test_what_is_granted_is_not_lacking_and_the_rest_is() -> None:
    grants = least_grants(site(gpus=[{"mapping": "gtx"}]), node(), 9)
    tree = {grant.path: dict.fromkeys(grant.privileges, int(grant.reaches_down)) for grant in grants}
    assert lacking(grants, parse_rights(tree)) == ()
    del tree["/vms"]["VM.Clone"]
    del tree["/nodes/pve1"]
    assert {(gap.path, gap.privileges) for gap in lacking(grants, parse_rights(tree))} == {
        ("/vms", ("VM.Clone",)),
        ("/nodes/pve1", ("Sys.AccessNetwork", "Sys.Audit")),
    }


@pytest.mark.parametrize(
    ("tree", "path", "allowed"),
    [
        ({"/": {"VM.Audit": 1}}, "/vms/106", True),
        ({"/": {"VM.Audit": 0}}, "/vms/106", False),
        ({"/": {"VM.Audit": 0}}, "/", True),
        ({"/": {"VM.Audit": 1}, "/vms": {"VM.Clone": 1}}, "/vms/106", False),
        ({"/vms/106": {"VM.Audit": 0}, "/vms": {}}, "/vms/106", True),
        ({}, "/vms/106", False),
        ([], "/vms/106", False),
        ({"/": None}, "/vms/106", False),
    ],
)
def test_the_nearest_path_decides(tree: object, path: str, allowed: bool) -> None:
    assert parse_rights(tree).allows(path, "VM.Audit") is allowed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Permission check failed (/vms/106, VM.Audit)", Denied("/vms/106", ("VM.Audit",))),
        ("Permission check failed (/vms/1, VM.A|VM.B)\n", Denied("/vms/1", ("VM.A", "VM.B"))),
        ("Permission check failed", Denied(None)),
        ("Permission check failed (user != root@pam)", Denied(None)),
        ("VM is locked (backup)", None),
    ],
)
def test_a_denial_names_path_and_privileges(text: str, expected: Denied | None) -> None:
    assert parse_denied(text) == expected
