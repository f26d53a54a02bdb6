"""/access/roles, /access/acl and /access/groups: what may be granted, and to whom it is."""

from __future__ import annotations

import re
from typing import Any

from vi_ops.lab.acl import forbidden
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, parameter_error, route

ACL_PATH = re.compile(
    r"/|/access(/groups(/[^/]+)?|/realm(/[^/]+)?)?|/nodes(/[^/]+)?|/pool(/[^/]+){0,3}|/sdn(/.+)?"
    r"|/storage(/[^/]+)?|/vms(/[1-9][0-9]{2,})?|/mapping(/[^/]+){0,2}"
)


@route("GET", "/access/roles")
async def list_roles(request: Request, node: Node) -> list[dict[str, Any]]:
    """Every role; `special` ones are built in."""
    return [
        {"roleid": name, "privs": ",".join(sorted(privs)), "special": name in node.acl.builtin}
        for name, privs in sorted(node.acl.roles.items())
    ]


@route("POST", "/access/roles")
async def create_role(request: Request, node: Node) -> None:
    """Add a role with privileges that this release knows."""
    name = request.text("roleid")
    if name in node.acl.roles:
        raise Refusal(500, f"create role failed: role '{name}' already exists")
    node.acl.state["roles"][name] = _privileges(request, node)
    node.acl.save()


@route("GET", "/access/roles/{roleid}")
async def get_role(request: Request, node: Node) -> dict[str, int]:
    """A role's privileges, each with 1."""
    _existing(request, node)
    return dict.fromkeys(node.acl.roles[request.path["roleid"]], 1)


@route("PUT", "/access/roles/{roleid}")
async def change_role(request: Request, node: Node) -> None:
    """Replace a role's privileges, or add to them."""
    name = request.path["roleid"]
    _existing(request, node)
    _refuse_builtin(name, node, "auto-generated role '{}' cannot be modified")
    kept = node.acl.state["roles"][name] if request.flag("append") else []
    node.acl.state["roles"][name] = sorted({*kept, *_privileges(request, node)})
    node.acl.save()


@route("DELETE", "/access/roles/{roleid}")
async def delete_role(request: Request, node: Node) -> None:
    """Remove a role and the entries that grant it."""
    name = request.path["roleid"]
    _existing(request, node)
    _refuse_builtin(name, node, "auto-generated role '{}' cannot be deleted")
    node.acl.state["roles"].pop(name)
    node.acl.state["acl"] = [e for e in node.acl.state["acl"] if e["roleid"] != name]
    node.acl.save()


@route("GET", "/access/acl")
async def list_acl(request: Request, node: Node) -> list[dict[str, Any]]:
    """The access entries on paths whose permissions the caller may change, or all with Sys.Audit there."""
    may = node.acl.may
    return [
        e
        for e in node.acl.state["acl"]
        if may(request.user, e["path"], "Permissions.Modify", "Sys.Audit", any=True)
    ]


@route("PUT", "/access/acl")
async def change_acl(request: Request, node: Node) -> None:
    """Grant roles to users, tokens and groups at a path, or take them away."""
    path = "/" + request.text("path").strip("/")
    if not ACL_PATH.fullmatch(path):
        raise parameter_error(path=f"invalid ACL path '{request.text('path')}'")
    for role in _split(request, "roles"):
        if role not in node.acl.roles:
            raise Refusal(500, f"update ACL failed: role '{role}' does not exist")
        for kind in ("user", "token", "group"):
            for ugid in _split(request, f"{kind}s"):
                _change_entry(request, node, {"path": path, "type": kind, "ugid": ugid, "roleid": role})
    node.acl.save()


@route("GET", "/access/groups")
async def list_groups(request: Request, node: Node) -> list[dict[str, Any]]:
    """The groups with their members."""
    return [
        {"groupid": name, "users": ",".join(users)}
        for name, users in sorted(node.acl.state["groups"].items())
    ]


@route("POST", "/access/groups")
async def create_group(request: Request, node: Node) -> None:
    """Add an empty group."""
    name = request.text("groupid")
    if name in node.acl.state["groups"]:
        raise Refusal(500, f"create group failed: group '{name}' already exists")
    node.acl.state["groups"][name] = []
    node.acl.save()


@route("DELETE", "/access/groups/{groupid}")
async def delete_group(request: Request, node: Node) -> None:
    """Remove a group and its access entries."""
    name = request.path["groupid"]
    if node.acl.state["groups"].pop(name, None) is None:
        raise Refusal(500, f"delete group failed: group '{name}' does not exist")
    node.acl.state["acl"] = [e for e in node.acl.state["acl"] if (e["type"], e["ugid"]) != ("group", name)]
    node.acl.save()


def _change_entry(request: Request, node: Node, entry: dict[str, Any]) -> None:
    _check_subject(entry["type"], entry["ugid"], node)
    if not node.acl.may(request.user, entry["path"], "Permissions.Modify"):
        held = node.acl.effective(request.user, entry["path"])  # a granter can pass on only what it has
        if not set(node.acl.roles[entry["roleid"]]) <= held.keys():
            raise forbidden(f"{entry['path']}, Permissions.Modify")
    others = [e for e in node.acl.state["acl"] if {**e, "propagate": 0} != {**entry, "propagate": 0}]
    added = [] if request.flag("delete") else [{**entry, "propagate": int(request.flag("propagate", True))}]
    node.acl.state["acl"] = others + added


def _check_subject(kind: str, ugid: str, node: Node) -> None:
    exists = {
        "user": ugid in node.acl.state["users"],
        "token": node.acl.token(ugid) is not None,
        "group": ugid in node.acl.state["groups"],
    }
    if not exists[kind]:
        raise Refusal(500, f"update ACL failed: {kind} '{ugid}' does not exist")


def _split(request: Request, name: str) -> list[str]:
    return [part for part in re.split(r"[,;\s]+", request.text(name)) if part]


def _privileges(request: Request, node: Node) -> list[str]:
    privileges = _split(request, "privs")
    for privilege in privileges:
        if privilege not in node.acl.privileges:
            raise parameter_error(privs=f"invalid format - invalid privilege '{privilege}'\n")
    return sorted(privileges)


def _existing(request: Request, node: Node) -> None:
    if request.path["roleid"] not in node.acl.roles:
        raise Refusal(500, f"role '{request.path['roleid']}' does not exist")


def _refuse_builtin(name: str, node: Node, text: str) -> None:
    if name in node.acl.builtin:
        raise Refusal(500, text.format(name))
