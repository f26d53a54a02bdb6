"""Permission expressions: what the published schema says that a method asks of its caller.

Source: pve-access-control, PVE/RPCEnvironment.pm (check_api2_permissions, exec_api2_perm_check).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vi_ops.lab.acl import Acl, forbidden
from vi_ops.lab.route import Refusal, User


def check(permissions: dict[str, Any] | None, acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    """403 unless `user` may call a method with these `permissions`; None means root's ticket only."""
    if user.is_root:
        return
    if permissions is None:
        raise forbidden("user != root@pam")
    if permissions.get("user") in ("all", "world"):
        return
    expression(permissions["check"], acl, user, params)


def expression(terms: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    """Evaluate one expression; a refusal inside `or` gives way to the next alternative."""
    name, *rest = terms
    if name == "and":
        for term in rest:
            expression(term, acl, user, params)
    elif name == "or":
        _one_of(rest, acl, user, params)
    else:
        TERMS[name](rest, acl, user, params)


def _one_of(terms: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    for term in terms:
        try:
            return expression(term, acl, user, params)
        except Refusal:
            continue
    raise forbidden()


def _perm(rest: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    template, privs, *flags = rest
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    if "require_param" in options and options["require_param"] not in params:
        raise forbidden()
    path = re.sub(r"\{([^}]+)\}", lambda found: str(params.get(found[1], "")), template)
    acl.require(user, path, *privs, any=bool(options.get("any")))


def _perm_modify(rest: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    path = re.sub(r"\{([^}]+)\}", lambda found: str(params.get(found[1], "")), rest[0])
    also = {"storage": ["Datastore.Allocate"], "vms": ["VM.Allocate"], "pool": ["Pool.Allocate"]}
    acl.require(user, path, "Permissions.Modify", *also.get(path.split("/")[1], []), any=True)


def _userid_param(rest: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    userid = str(params.get("userid", ""))
    if rest[0] == "self":
        if userid != user.userid:
            raise forbidden()
        return
    acl.require(user, f"/access/realm/{userid.rpartition('@')[2]}", rest[0])


def _userid_group(rest: list[Any], acl: Acl, user: User, params: Mapping[str, Any]) -> None:
    acl.require(user, "/access/groups", *rest[0], any=True)


TERMS = {
    "perm": _perm,
    "perm-modify": _perm_modify,
    "userid-param": _userid_param,
    "userid-group": _userid_group,
}
