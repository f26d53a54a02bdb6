"""Who may do what: users, tokens, roles, access entries and pools, and how they are resolved.

Source: pve-access-control, PVE/AccessControl.pm (roles) and PVE/RPCEnvironment.pm (compile_acl_path).
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from vi_ops.lab.route import Refusal, User
from vi_ops.lab.store import read_json, write_json

STANDARD_PATHS = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")


def forbidden(detail: str = "") -> Refusal:
    """403 as Proxmox words it."""
    return Refusal(403, f"Permission check failed ({detail})" if detail else "Permission check failed")


class Acl:
    """Users, roles, access entries and pools of one lab, kept in one file.

    `state` has `users` (userid to {enable, expire, comment, password?, tokens}), `groups` (to userids),
    `roles` (to privileges), `acl` (list of {path, type, ugid, roleid, propagate}) and `pools` (to {comment,
    vms, storage}).
    """

    def __init__(self, path: Path, release: str) -> None:
        shipped = json.loads(files("vi_ops.lab").joinpath("roles.json").read_text())
        self.path = path
        self.privileges: list[str] = shipped[release.split(".")[0]]["privileges"]
        self.builtin: dict[str, list[str]] = shipped[release.split(".")[0]]["roles"]
        self.state: dict[str, Any] = read_json(path, None) or {
            "users": {"root@pam": {"enable": 1, "expire": 0, "tokens": {}}},
            "groups": {},
            "roles": {},
            "acl": [],
            "pools": {},
        }

    def save(self) -> None:
        """Write the state; every change ends with this."""
        write_json(self.path, self.state)

    @property
    def roles(self) -> dict[str, list[str]]:
        return {**self.builtin, **self.state["roles"]}

    def token(self, authid: str) -> dict[str, Any] | None:
        userid, _, name = authid.partition("!")
        token: dict[str, Any] | None = self.state["users"].get(userid, {}).get("tokens", {}).get(name)
        return token

    def roles_at(self, authid: str, path: str) -> dict[str, int]:
        """Role to propagate flag at `path`. Each level that has an entry replaces what came from above."""
        found: dict[str, int] = {}
        for level in levels(path):
            here = [e for e in self.state["acl"] if e["path"] == level and (level == path or e["propagate"])]
            kind = "token" if "!" in authid else "user"
            own = [e for e in here if e["type"] == kind and e["ugid"] == authid]
            groups = [e for e in here if e["type"] == "group" and self._in_group(authid, e["ugid"])]
            if entries := own or groups:
                found = {e["roleid"]: e["propagate"] for e in entries}
        return {"NoAccess": found["NoAccess"]} if "NoAccess" in found else found

    def effective(self, user: User, path: str) -> dict[str, int]:
        """Privilege to propagate flag that `user` has at `path`."""
        if user.userid == "root@pam" and not user.tokenid:
            return dict.fromkeys(self.privileges, 1)
        owner = self.state["users"].get(user.userid)
        if owner is None:
            return {}
        if user.tokenid:
            token = self.token(user.authid)
            if token is None:
                return {}
            theirs = self.effective(User(user.userid), path)
            if not token.get("privsep", 1):
                return theirs
            own = self._privileges(user.authid, path)
            return own if user.userid == "root@pam" else {p: theirs[p] for p in own if p in theirs}
        return self._privileges(user.authid, path)

    def require(self, user: User, path: str, *privs: str, any: bool = False) -> None:  # noqa: A002
        """403 unless `user` has all of `privs` (or, with `any`, one of them) at `path`."""
        held = self.effective(user, path)
        if any and not held.keys() & set(privs):
            raise forbidden(f"{path}, {'|'.join(privs)}")
        if not any:
            for priv in privs:
                if priv not in held:
                    raise forbidden(f"{path}, {priv}")

    def may(self, user: User, path: str, *privs: str, any: bool = False) -> bool:  # noqa: A002
        """`require` as a question."""
        try:
            self.require(user, path, *privs, any=any)
        except Refusal:
            return False
        return True

    def tree(self, user: User) -> dict[str, dict[str, int]]:
        """Every path at which `user` has something, with the privileges there."""
        paths = {*STANDARD_PATHS, *(e["path"] for e in self.state["acl"])}
        paths |= {f"/pool/{pool}" for pool in self.state["pools"]}
        held = {path: self.effective(user, path) for path in sorted(paths)}
        return {path: privs for path, privs in held.items() if privs}

    def pool_of(self, path: str) -> str | None:
        """The pool that a `/vms/<id>` or `/storage/<id>` belongs to."""
        kind, _, name = path.lstrip("/").partition("/")
        for pool, entry in self.state["pools"].items():
            if name and kind in ("vms", "storage") and name in entry.get(kind, []):
                return str(pool)
        return None

    def _privileges(self, authid: str, path: str) -> dict[str, int]:
        held: dict[str, int] = {}
        pool = self.pool_of(path)
        if pool is not None:
            for role in self.roles_at(authid, f"/pool/{pool}"):
                held.update(dict.fromkeys(self.roles.get(role, []), 0))
        for role, propagate in self.roles_at(authid, path).items():
            for privilege in self.roles.get(role, []):
                held[privilege] = propagate or held.get(privilege, 0)
        return held

    def _in_group(self, userid: str, group: str) -> bool:
        return userid in self.state["groups"].get(group, [])


def levels(path: str) -> list[str]:
    """`/vms/106` as `/`, `/vms`, `/vms/106`."""
    parts = [part for part in path.split("/") if part]
    return ["/", *("/" + "/".join(parts[: n + 1]) for n in range(len(parts)))]
