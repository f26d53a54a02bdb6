"""The lab's HTTPS server: one request from socket to handler and back, with the node's own manners.

Source: pve-http-server, PVE/APIServer/AnyEvent.pm; pve-manager, PVE/HTTPServer.pm (rest_handler).
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.parse
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from vi_ops.lab import api, permission
from vi_ops.lab.answer import proxmox_headers, refused, success
from vi_ops.lab.auth import credentials
from vi_ops.lab.form import MAX_BODY_BYTES, decode_body, decode_form
from vi_ops.lab.methods import Method, Methods
from vi_ops.lab.node import Node
from vi_ops.lab.request_log import log_file, shown, write_entry
from vi_ops.lab.route import Refusal, Request, User, parameter_error
from vi_ops.lab.schema import Schema
from vi_ops.lab.upload import discard_upload, receive_upload

BASE = "/api2/json"
VERBS = ("GET", "POST", "PUT", "DELETE")
UPLOAD = "/nodes/{node}/storage/{storage}/upload"
KEEP_ALIVE_S = 5.0
KEEP_ALIVE_REQUESTS = 100
PROTECTED_TIMEOUT_S = 30.0
AUTH_DELAY_S = 3.0

log = logging.getLogger("vi_ops.lab")


class Dropped(Exception):
    """The connection is to be cut without an answer."""


@dataclass
class Exchange:
    """What is known of one request while it is worked on; the request log is written from it."""

    verb: str
    path: str
    user: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    upid: str | None = None
    began: float = field(default_factory=time.monotonic)


class Server:
    """Answers requests for one node; `schema` is the published one, or None: parameters as they come."""

    def __init__(self, node: Node, schema: Schema | None = None) -> None:
        api.load()
        self.node = node
        self.schema = schema
        self.methods = Methods(node.release)
        self._served: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()
        self.auth_delay_s = float(node.settings.get("auth_delay_s", AUTH_DELAY_S))
        self.timeout_s = float(node.settings.get("protected_timeout_s", PROTECTED_TIMEOUT_S))

    def application(self) -> web.Application:
        """The aiohttp application: one door for every path and method."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_route("*", r"/{tail:[\s\S]*}", self.answer)
        application.on_response_prepare.append(proxmox_headers)
        return application

    async def answer(self, http: web.Request) -> web.StreamResponse:
        """Answer one request, whatever comes, and write it down."""
        exchange = Exchange(
            http.method, urllib.parse.unquote(http.raw_path.partition("?")[0]).removeprefix(BASE)
        )
        try:
            data = await self._carry_out(http, exchange)
            response = success(data)
        except Refusal as refusal:
            if refusal.status == 401:
                await asyncio.sleep(max(0.0, self.auth_delay_s - (time.monotonic() - exchange.began)))
            response = refused(refusal)
        except Dropped:
            response = web.Response(status=200)
            if http.transport:
                http.transport.abort()
        except Exception as error:
            log.exception("%s %s", exchange.verb, exchange.path)
            response = refused(Refusal(500, str(error) or type(error).__name__))
        if self._is_worn(http.transport):
            response.force_close()
        self._note(exchange, response.status)
        return response

    def _is_worn(self, connection: asyncio.Transport | None) -> bool:
        """Count the requests of a connection; true for the last that it may carry."""
        if connection is None:  # gone meanwhile
            return False
        self._served[connection] = self._served.get(connection, 0) + 1
        return self._served[connection] >= KEEP_ALIVE_REQUESTS

    async def _carry_out(self, http: web.Request, exchange: Exchange) -> Any:
        _check_transport(http)
        method, path, user = self._find(http, exchange)
        exchange.user = user.authid
        if method.template == UPLOAD and http.method == "POST":
            permission.check(method.permissions, self.node.acl, user, path)
            body = await receive_upload(http, self.node.home / "tmp")
        else:
            body = decode_body(http.headers.get("Content-Type", ""), await http.read())
        params = {**body, **decode_form(http.raw_path.partition("?")[2])}
        params.pop("_dc", None)  # a browser's cache buster
        exchange.params = params
        try:
            request = self._check(http.method, method, path, params, user)
            self._fail_on_purpose(request.method, exchange.path)
        except Refusal:
            discard_upload(params)
            raise
        return await self._call(method, request, exchange)

    def _find(self, http: web.Request, exchange: Exchange) -> tuple[Method, dict[str, str], User]:
        found = self.methods.find(http.method, exchange.path) if http.raw_path.startswith(BASE) else None
        method, path = found or (None, {})
        if method and (method.permissions or {}).get("user") == "world":
            if credentials(http.headers)[0] == "token" and not method.tokens:
                raise _needs_ticket(exchange.path)
            return method, path, User("")
        needs_csrf = http.method != "GET" and not (method and method.template == UPLOAD)
        faults = self.node.faults
        is_expired = partial(faults.take, "expired-ticket", path=exchange.path, method=http.method)
        user = self.node.login.user_of(http.headers, needs_csrf, lambda: is_expired() is not None)
        if method is None:
            raise Refusal(501, f"Method '{http.method} {exchange.path}' not implemented")
        if user.tokenid and not method.tokens:
            raise _needs_ticket(exchange.path)
        return method, path, user

    def _check(
        self, verb: str, method: Method, path: dict[str, str], params: dict[str, Any], user: User
    ) -> Request:
        for key, value in path.items():
            if key in params and params[key] != value:
                twice = "duplicate parameter (already defined in URI) with conflicting values!"
                raise parameter_error(**{key: twice})
        if path.get("node") == "localhost":
            path["node"] = self.node.name
        permission.check(method.permissions, self.node.acl, user, {**params, **path})
        if path.get("node", self.node.name) != self.node.name:
            name = path["node"]
            reason = f"failed to get address info for: {name}: Temporary failure in name resolution"
            raise Refusal(500, f"hostname lookup '{name}' failed - {reason}")
        if self.schema:
            # Where an upload lies is the server's own word: a node has it in /var/tmp, the lab in its folder.
            ours = {"tmpfilename"} & params.keys() if method.template == UPLOAD else set()
            given = {key: value for key, value in params.items() if key not in ours}
            checked = self.schema.check(verb, method.template, {**given, **path})
            params = {key: checked.get(key, params[key]) for key in params if key not in path}
        return Request(verb, method.template, path, params, user)

    def _fail_on_purpose(self, verb: str, path: str) -> None:
        if self.node.faults.take("status-500", path=path, method=verb):
            raise Refusal(500, "injected by vi-ops lab fault")
        if self.node.faults.take("status-595", path=path, method=verb):
            raise Refusal(595, "Connection refused", body=False)

    async def _call(self, method: Method, request: Request, exchange: Exchange) -> Any:
        faults, path, verb = self.node.faults, exchange.path, request.method
        work = asyncio.ensure_future(method.handler(request, self.node))
        await asyncio.wait([work], timeout=self.timeout_s if method.is_protected else None)
        if not work.done():  # the work goes on, as it does on a real node
            work.add_done_callback(_swallow)
            raise Refusal(596, "Connection timed out", body=False)
        data = work.result()
        if isinstance(data, str) and data.startswith("UPID:"):
            exchange.upid = data
        if faults.take("status-596", path=path, method=verb):
            raise Refusal(596, "Connection timed out", body=False)
        if verb != "GET" and faults.take("drop-after-write", path=path, method=verb):
            raise Dropped
        return data

    def _note(self, exchange: Exchange, status: int) -> None:
        entry = {
            "user": exchange.user,
            "method": exchange.verb,
            "path": exchange.path,
            "params": shown(exchange.path, exchange.params),
            "status": status,
        }
        if exchange.upid:
            entry["upid"] = exchange.upid
        write_entry(log_file(self.node.home), entry)


def _needs_ticket(path: str) -> Refusal:
    text = f"URI '{path}' not available with API token, need proper ticket.\n"
    return Refusal(403, f"Permission check failed ({text})")


def _check_transport(http: web.Request) -> None:
    """Refuse what the node's own server cannot do."""
    if http.method not in VERBS:
        raise Refusal(501, f"method '{http.method}' not available", body=False)
    if "chunked" in http.headers.get("Transfer-Encoding", "").lower():
        raise Refusal(501, "chunked transfer encoding not supported", body=False)
    length = http.content_length or 0
    if length and http.method in ("GET", "DELETE"):
        raise Refusal(501, f"Unexpected content for method '{http.method}'", body=False)
    if length > MAX_BODY_BYTES and not http.path.endswith("/upload"):
        raise Refusal(501, "for data too large", body=False)


def _swallow(work: asyncio.Future[Any]) -> None:
    if not work.cancelled() and (error := work.exception()):
        log.warning("after the client was told 596: %s", error)
