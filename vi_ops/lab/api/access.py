"""/access: tickets, users, API tokens."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from vi_ops.lab.auth import hash_secret
from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, User, parameter_error, route

CAP_PATHS = {
    "vms": "/vms",
    "storage": "/storage",
    "access": "/access",
    "nodes": "/nodes",
    "dc": "/",
    "sdn": "/sdn",
}
USER_FIELDS = ("comment", "email", "firstname", "lastname", "keys")


@route("GET", "/access/ticket")
async def get_ticket(request: Request, node: Node) -> None:
    """A dummy that the web interface's login form asks for."""


@route("POST", "/access/ticket")
async def create_ticket(request: Request, node: Node) -> dict[str, Any]:
    """Log in with a password, or renew with a ticket that is still valid."""
    userid = request.text("username")
    if "@" not in userid:
        userid = f"{userid}@{request.text('realm', 'pam')}"
    user = node.login.password_user(userid, request.text("password"))
    return {
        "username": user.userid,
        "ticket": node.login.ticket(user),
        "CSRFPreventionToken": node.login.csrf_token(user),
        "cap": {name: node.acl.effective(user, path) for name, path in CAP_PATHS.items()},
    }


@route("GET", "/access/domains")
async def list_domains(request: Request, node: Node) -> list[dict[str, Any]]:
    """The realms: Linux PAM and the node's own."""
    return [
        {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
        {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
    ]


@route("GET", "/access/permissions")
async def list_permissions(request: Request, node: Node) -> dict[str, dict[str, int]]:
    """What the caller may do, by path; another user's needs Sys.Audit on /access."""
    whose = User(request.text("userid", request.user.authid))
    if whose.userid != request.user.userid:
        node.acl.require(request.user, "/access", "Sys.Audit")
    if "path" in request.params:
        path = request.text("path")
        return {path: node.acl.effective(whose, path)}
    return node.acl.tree(whose)


@route("GET", "/access/users")
async def list_users(request: Request, node: Node) -> list[dict[str, Any]]:
    """The users that the caller may see: itself, and all with User.Modify or Sys.Audit on /access/groups."""
    sees_all = node.acl.may(request.user, "/access/groups", "User.Modify", "Sys.Audit", any=True)
    users = node.acl.state["users"]
    seen = [name for name in sorted(users) if sees_all or name == request.user.userid]
    listed = [{"userid": name, **_user(name, users[name])} for name in seen]
    if request.flag("full"):
        for entry in listed:
            entry["tokens"] = _tokens(users[entry["userid"]])
    return listed


@route("POST", "/access/users")
async def create_user(request: Request, node: Node) -> None:
    """Add a user; a password only makes sense in the realm `pve`."""
    userid, users = request.text("userid"), node.acl.state["users"]
    if userid in users:
        raise Refusal(500, f"create user failed: user '{userid}' already exists")
    users[userid] = {"enable": 1, "expire": 0, "tokens": {}}
    _set_user(request, users[userid])
    if "password" in request.params:
        users[userid]["password"] = hash_secret(request.text("password"))
    node.acl.save()


@route("GET", "/access/users/{userid}")
async def get_user(request: Request, node: Node) -> dict[str, Any]:
    """One user with the names of its tokens."""
    user = _existing(node, request.path["userid"])
    tokens = {entry["tokenid"]: entry for entry in _tokens(user)}
    return {
        **_user(request.path["userid"], user),
        "groups": _groups(node, request.path["userid"]),
        "tokens": tokens,
    }


@route("PUT", "/access/users/{userid}")
async def change_user(request: Request, node: Node) -> None:
    """Change a user's settings."""
    _set_user(request, _existing(node, request.path["userid"]))
    node.acl.save()


@route("DELETE", "/access/users/{userid}")
async def delete_user(request: Request, node: Node) -> None:
    """Remove a user, its tokens and its access entries."""
    userid = request.path["userid"]
    _existing(node, userid)
    if userid == "root@pam":
        raise Refusal(500, "delete user failed: user 'root@pam' cannot be deleted")
    node.acl.state["users"].pop(userid)
    node.acl.state["acl"] = [e for e in node.acl.state["acl"] if e["ugid"].partition("!")[0] != userid]
    node.acl.save()


@route("PUT", "/access/password")
async def change_password(request: Request, node: Node) -> None:
    """Set a user's password."""
    _existing(node, request.text("userid"))["password"] = hash_secret(request.text("password"))
    node.acl.save()


@route("GET", "/access/users/{userid}/token")
async def list_tokens(request: Request, node: Node) -> list[dict[str, Any]]:
    """The user's tokens, without their secrets."""
    return _tokens(_existing(node, request.path["userid"]))


@route("GET", "/access/users/{userid}/token/{tokenid}")
async def get_token(request: Request, node: Node) -> dict[str, Any]:
    """One token, without its secret."""
    return _token_settings(_existing_token(node, request))


@route("POST", "/access/users/{userid}/token/{tokenid}")
async def create_token(request: Request, node: Node) -> dict[str, Any]:
    """Add a token and show its secret, once."""
    name, tokens = request.path["tokenid"], _existing(node, request.path["userid"])["tokens"]
    if name in tokens:
        raise parameter_error(tokenid="Token already exists.")
    tokens[name] = {"privsep": request.number("privsep", 1), "expire": request.number("expire")}
    if "comment" in request.params:
        tokens[name]["comment"] = request.text("comment")
    return _with_new_secret(request, node, tokens[name])


@route("PUT", "/access/users/{userid}/token/{tokenid}")
async def change_token(request: Request, node: Node) -> dict[str, Any]:
    """Change a token; release 9 can give it a new secret."""
    token = _existing_token(node, request)
    for key in ("privsep", "expire"):
        if key in request.params:
            token[key] = request.number(key)
    if "comment" in request.params:
        token["comment"] = request.text("comment")
    if request.flag("regenerate"):
        return _with_new_secret(request, node, token)
    node.acl.save()
    return _token_settings(token)


@route("DELETE", "/access/users/{userid}/token/{tokenid}")
async def delete_token(request: Request, node: Node) -> None:
    """Remove a token and its access entries."""
    _existing_token(node, request)
    authid = f"{request.path['userid']}!{request.path['tokenid']}"
    node.acl.state["users"][request.path["userid"]]["tokens"].pop(request.path["tokenid"])
    node.acl.state["acl"] = [e for e in node.acl.state["acl"] if e["ugid"] != authid]
    node.acl.save()


def new_secret() -> str:
    """A token's secret: a random UUID, as the node makes them."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def _with_new_secret(request: Request, node: Node, token: dict[str, Any]) -> dict[str, Any]:
    secret = new_secret()
    token["secret"] = hash_secret(secret)
    node.acl.save()
    full = f"{request.path['userid']}!{request.path['tokenid']}"
    return {"full-tokenid": full, "info": _token_settings(token), "value": secret}


def _existing(node: Node, userid: str) -> dict[str, Any]:
    user: dict[str, Any] | None = node.acl.state["users"].get(userid)
    if user is None:
        raise Refusal(500, f"no such user ('{userid}')")
    return user


def _existing_token(node: Node, request: Request) -> dict[str, Any]:
    name, userid = request.path["tokenid"], request.path["userid"]
    token: dict[str, Any] | None = _existing(node, userid)["tokens"].get(name)
    if token is None:
        raise Refusal(500, f"no such token '{name}' for user '{userid}'")
    return token


def _user(userid: str, user: dict[str, Any]) -> dict[str, Any]:
    shown = {key: user[key] for key in ("enable", "expire", *USER_FIELDS) if key in user}
    return {**shown, "realm-type": userid.rpartition("@")[2]}


def _set_user(request: Request, user: dict[str, Any]) -> None:
    user.update({key: request.text(key) for key in USER_FIELDS if key in request.params})
    user.update({key: request.number(key) for key in ("enable", "expire") if key in request.params})


def _groups(node: Node, userid: str) -> list[str]:
    return sorted(name for name, members in node.acl.state["groups"].items() if userid in members)


def _tokens(user: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"tokenid": name, **_token_settings(token)} for name, token in sorted(user["tokens"].items())]


def _token_settings(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "secret"}
