"""Who may do what: tokens, tickets, roles, access entries, pools."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import RunningLab, running_lab
from vi_ops.lab.acl import Acl
from vi_ops.lab.auth import TICKET_LIFETIME_S, Login
from vi_ops.lab.route import Refusal, User
from vi_ops.lab.seed import add_user


def root(lab: RunningLab, **extra: str) -> dict[str, str]:
    login = lab.ask(
        "POST", "/access/ticket", {"username": "root@pam", "password": lab.root_password}, {}
    ).data
    cookie = f"PVEAuthCookie={urllib.parse.quote(login['ticket'], safe='')}"
    return {"Cookie": cookie, "CSRFPreventionToken": login["CSRFPreventionToken"], **extra}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "No ticket"),
        ({"Authorization": "PVEAPIToken=ops@pve!viops=wrong"}, "Authentication failed!"),
        ({"Authorization": "PVEAPIToken=ops@pve!nosuch=x"}, "Authentication failed!"),
        ({"Authorization": "PVEAPIToken=nobody@pve!x=y"}, "Authentication failed!"),
        ({"Cookie": "PVEAuthCookie=PVE:root@pam:6B000000::forged"}, "Authentication failed!"),
    ],
)
def test_bad_login_is_401_with_empty_body(lab: RunningLab, headers: dict[str, str], reason: str) -> None:
    answer = lab.ask("GET", "/version", headers=headers)
    assert (answer.status, answer.reason, answer.body) == (401, reason, "")


def test_forged_ticket_is_refused(lab: RunningLab) -> None:
    genuine = lab.node.login.ticket(User("ops@pve"))
    for ticket in (genuine.replace("ops@pve", "root@pam"), f"{genuine}x", genuine.partition("::")[0] + "::"):
        cookie = {"Cookie": f"PVEAuthCookie={urllib.parse.quote(ticket, safe='')}"}
        assert lab.ask("GET", "/version", headers=cookie).status == 401
    cookie = {"Cookie": f"PVEAuthCookie={urllib.parse.quote(genuine, safe='')}"}
    assert lab.ask("GET", "/version", headers=cookie).status == 200


def test_stale_cookie_wins_over_good_token(lab: RunningLab) -> None:
    token = f"PVEAPIToken=ops@pve!viops={lab.token}"
    both = {"Cookie": "PVEAuthCookie=PVE:ops@pve:00000000::x", "Authorization": token}
    assert lab.ask("GET", "/version", headers=both).status == 401
    assert lab.ask("GET", "/version", headers={"Authorization": token.replace("=", " ", 1)}).status == 200


def test_wrong_password_has_a_body(lab: RunningLab) -> None:
    answer = lab.ask("POST", "/access/ticket", {"username": "root@pam", "password": "no"}, {})
    assert (answer.status, answer.body) == (401, {"data": None, "message": "authentication failure\n"})


def test_write_with_ticket_needs_csrf_token(fresh_lab: RunningLab) -> None:
    headers = root(fresh_lab)
    assert fresh_lab.ask("POST", "/pools", {"poolid": "a"}, headers).status == 200
    del headers["CSRFPreventionToken"]
    assert fresh_lab.ask("GET", "/pools", headers=headers).status == 200
    answer = fresh_lab.ask("POST", "/pools", {"poolid": "b"}, headers)
    assert (answer.status, answer.reason) == (401, "Permission denied - invalid csrf token")


def test_ticket_renews_itself_until_two_hours(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    acl = Acl(tmp_path / "access.json", "9.2")
    add_user(acl, "smith@pve", password="secret")
    login = Login(tmp_path / "key", acl, lambda: now[0])
    ticket = login.ticket(login.password_user("smith@pve", "secret"))
    now[0] += TICKET_LIFETIME_S - 1
    assert login.password_user("smith@pve", ticket) == User("smith@pve")
    now[0] += 2
    with pytest.raises(Refusal, match="authentication failure"):
        login.password_user("smith@pve", ticket)
    assert login.ticket_user(ticket) is None


def test_token_of_root_is_not_root(fresh_lab: RunningLab) -> None:
    made = fresh_lab.ask("POST", "/access/users/root@pam/token/t", {"privsep": 0}, root(fresh_lab)).data
    token = {"Authorization": f"PVEAPIToken=root@pam!t={made['value']}"}
    tree = fresh_lab.ask("GET", "/access/permissions", headers=token).data
    assert tree["/"].keys() == set(fresh_lab.node.acl.privileges)
    assert not User("root@pam!t").is_root
    answer = fresh_lab.ask("PUT", "/access/password", {"userid": "root@pam", "password": "x"}, token)
    assert answer.status == 403
    assert "not available with API token, need proper ticket" in answer.reason


def test_secret_is_shown_once(fresh_lab: RunningLab) -> None:
    headers = root(fresh_lab)
    made = fresh_lab.ask("POST", "/access/users/ops@pve/token/second", {"comment": "x"}, headers).data
    assert made["full-tokenid"] == "ops@pve!second"
    assert made["info"] == {"privsep": 1, "expire": 0, "comment": "x"}
    assert "secret" not in str(fresh_lab.ask("GET", "/access/users/ops@pve/token", headers=headers).data)
    assert made["value"] not in (fresh_lab.home / "etc" / "pve" / "access.json").read_text()
    again = fresh_lab.ask("PUT", "/access/users/ops@pve/token/second", {"regenerate": 1}, headers).data
    for secret, status in ((made["value"], 401), (again["value"], 200)):
        token = {"Authorization": f"PVEAPIToken=ops@pve!second={secret}"}
        assert fresh_lab.ask("GET", "/version", headers=token).status == status


def test_state_survives_a_restart(fresh_lab: RunningLab) -> None:
    fresh_lab.ask("POST", "/pools", {"poolid": "video", "comment": "kept"}, root(fresh_lab))
    again = Acl(fresh_lab.home / "etc" / "pve" / "access.json", "9.2")
    assert again.state["pools"]["video"]["comment"] == "kept"
    assert (fresh_lab.home / "etc" / "pve" / "access.json").stat().st_mode & 0o777 == 0o600


def acl_of(tmp_path: Path, entries: list[tuple[str, str, str, int]], **pools: Any) -> Acl:
    acl = Acl(tmp_path / "access.json", "9.2")
    add_user(acl, "u@pve", tokens={"sep": ("x", True), "full": ("x", False)})
    acl.state["groups"] = {"g": ["u@pve"]}
    acl.state["pools"] = pools
    for path, ugid, role, propagate in entries:
        kind = "group" if "@" not in ugid else "token" if "!" in ugid else "user"
        entry = {"path": path, "type": kind, "ugid": ugid, "roleid": role, "propagate": propagate}
        acl.state["acl"].append(entry)
    return acl


VIDEO = {"vms": ["106"], "storage": ["local"]}


@pytest.mark.parametrize(
    ("entries", "authid", "path", "has", "lacks"),
    [
        ([("/", "u@pve", "PVEAuditor", 1)], "u@pve", "/vms/106", "VM.Audit", "VM.Allocate"),
        ([("/vms", "u@pve", "PVEAuditor", 0)], "u@pve", "/vms/106", None, "VM.Audit"),
        ([("/vms", "u@pve", "PVEAuditor", 0)], "u@pve", "/vms", "VM.Audit", None),
        # A lower level replaces what comes from above, it does not add to it.
        (
            [("/", "u@pve", "PVEVMAdmin", 1), ("/vms", "u@pve", "PVEAuditor", 1)],
            "u@pve",
            "/vms/1",
            "VM.Audit",
            "VM.Clone",
        ),
        # At one level the user's own entries beat those of its groups.
        (
            [("/vms", "u@pve", "PVEAuditor", 1), ("/vms", "g", "PVEVMAdmin", 1)],
            "u@pve",
            "/vms/1",
            "VM.Audit",
            "VM.Clone",
        ),
        (
            [("/", "u@pve", "PVEAuditor", 1), ("/vms", "g", "PVEVMAdmin", 1)],
            "u@pve",
            "/vms/1",
            "VM.Clone",
            "Sys.Audit",
        ),
        (
            [("/", "u@pve", "PVEVMAdmin", 1), ("/vms", "u@pve", "NoAccess", 1)],
            "u@pve",
            "/vms/1",
            None,
            "VM.Audit",
        ),
        # NoAccess beats what stands beside it.
        (
            [("/vms", "u@pve", "PVEVMAdmin", 1), ("/vms", "u@pve", "NoAccess", 1)],
            "u@pve",
            "/vms/1",
            None,
            "VM.Audit",
        ),
        ([("/", "u@pve", "PVEVMAdmin", 1)], "u@pve!full", "/vms/1", "VM.Clone", None),
        ([("/", "u@pve", "PVEVMAdmin", 1)], "u@pve!sep", "/vms/1", None, "VM.Audit"),
        # A token with separated rights has what both have.
        (
            [("/", "u@pve", "PVEAuditor", 1), ("/", "u@pve!sep", "PVEVMAdmin", 1)],
            "u@pve!sep",
            "/vms/1",
            "VM.Audit",
            "VM.Clone",
        ),
        ([("/pool/video", "u@pve", "PVEVMAdmin", 1)], "u@pve", "/vms/106", "VM.Clone", None),
        ([("/pool/video", "u@pve", "PVEVMAdmin", 1)], "u@pve", "/vms/107", None, "VM.Clone"),
        (
            [("/pool/video", "u@pve", "PVEDatastoreUser", 1)],
            "u@pve",
            "/storage/local",
            "Datastore.AllocateSpace",
            None,
        ),
    ],
)
def test_access_entries_resolve(
    tmp_path: Path,
    entries: list[tuple[str, str, str, int]],
    authid: str,
    path: str,
    has: str | None,
    lacks: str | None,
) -> None:
    held = acl_of(tmp_path, entries, video=VIDEO).effective(User(authid), path)
    assert has is None or has in held
    assert lacks not in held


def test_require_names_path_and_privilege(tmp_path: Path) -> None:
    acl = acl_of(tmp_path, [])
    with pytest.raises(Refusal, match=r"Permission check failed \(/vms/1, VM\.Audit\)"):
        acl.require(User("u@pve"), "/vms/1", "VM.Audit", "VM.Clone")
    with pytest.raises(Refusal, match=r"\(/vms/1, VM\.Audit\|VM\.Clone\)"):
        acl.require(User("u@pve"), "/vms/1", "VM.Audit", "VM.Clone", any=True)


@pytest.mark.parametrize(("release", "foreign"), [("8.4", "VM.GuestAgent.Audit"), ("9.2", "VM.Monitor")])
def test_role_with_foreign_privilege_is_refused(tmp_path: Path, release: str, foreign: str) -> None:
    with running_lab(tmp_path, release) as lab:
        answer = lab.ask("POST", "/access/roles", {"roleid": "R", "privs": f"VM.Audit,{foreign}"}, root(lab))
        assert answer.status == 400
        assert answer.body["errors"] == {"privs": f"invalid format - invalid privilege '{foreign}'\n"}
        assert lab.ask("POST", "/access/roles", {"roleid": "R", "privs": "VM.Audit"}, root(lab)).status == 200
        assert lab.ask("GET", "/access/roles/R", headers=root(lab)).data == {"VM.Audit": 1}


def test_permission_is_checked_before_existence(lab: RunningLab, fresh_lab: RunningLab) -> None:
    add_user(fresh_lab.node.acl, "nobody@pve", tokens={"t": ("secret", False)})
    nobody = {"Authorization": "PVEAPIToken=nobody@pve!t=secret"}
    assert fresh_lab.ask("GET", "/nodes/pve1/qemu/999/config", headers=nobody).status == 403
    assert lab.ask("GET", "/nodes/pve1/qemu/999/config").status == 500


def test_pool_with_members_stays(fresh_lab: RunningLab) -> None:
    headers = root(fresh_lab)
    fresh_lab.ask("POST", "/pools", {"poolid": "video"}, headers)
    fresh_lab.ask("PUT", "/pools/video", {"storage": "local"}, headers)
    answer = fresh_lab.ask("DELETE", "/pools/video", headers=headers)
    assert (answer.status, "is not empty" in answer.reason) == (500, True)
    members = fresh_lab.ask("GET", "/pools/video", headers=headers).data["members"]
    assert members == [{"id": "storage/pve1/local", "type": "storage", "storage": "local", "node": "pve1"}]
    fresh_lab.ask("PUT", "/pools/video", {"storage": "local", "delete": 1}, headers)
    assert fresh_lab.ask("DELETE", "/pools/video", headers=headers).status == 200


def test_roles_are_granted_and_taken_away(fresh_lab: RunningLab) -> None:
    headers, acl = root(fresh_lab), fresh_lab.node.acl
    fresh_lab.ask("POST", "/access/users", {"userid": "new@pve", "password": "x"}, headers)
    change = {"path": "/vms/106", "users": "new@pve", "roles": "PVEVMUser"}
    assert fresh_lab.ask("PUT", "/access/acl", change, headers).status == 200
    assert acl.may(User("new@pve"), "/vms/106", "VM.PowerMgmt")
    assert fresh_lab.ask("PUT", "/access/acl", {**change, "delete": 1}, headers).status == 200
    assert not acl.may(User("new@pve"), "/vms/106", "VM.PowerMgmt")
    assert fresh_lab.ask("PUT", "/access/acl", {**change, "path": "/nonsense"}, headers).status == 400


def test_seeded_user_is_no_root(lab: RunningLab) -> None:
    held = lab.ask("GET", "/access/permissions").data
    assert "Sys.Modify" not in held["/"]
    assert "VM.Allocate" in held["/vms"]
