"""How an answer looks on the wire: envelope, reason phrase, headers.

Source: pve-http-server, PVE/APIServer/AnyEvent.pm (response) and PVE/APIServer/Formatter/Standard.pm.
"""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from vi_ops.lab.route import Page, Refusal

COMPRESSED_BYTES = 1024  # from here on an answer is compressed for those who can read it


def success(data: Any) -> web.Response:
    """200 with `{"data": ...}`; a page brings its `total` along."""
    body = {"data": data.data, "total": data.total} if isinstance(data, Page) else {"data": data}
    return _json(200, "OK", body)


def refused(refusal: Refusal) -> web.Response:
    """The refusal's status and reason, its message and errors in the body, and the connection closed."""
    reason = re.sub(r"[\x00-\x1f\x7f]", " ", refusal.reason.partition("\n")[0])  # it may quote what was sent
    if not refusal.body:
        response = web.Response(status=refusal.status, reason=reason)
    else:
        message = refusal.reason if refusal.status == 501 else refusal.reason.removesuffix("\n") + "\n"
        body: dict[str, Any] = {"data": None, "message": message}
        if refusal.errors:
            body["errors"] = refusal.errors
        response = _json(refusal.status, reason, body)
    response.force_close()
    return response


async def proxmox_headers(http: web.Request, response: web.StreamResponse) -> None:
    """Headers as the node sends them, whatever aiohttp would add by itself."""
    response.headers["Server"] = "pve-api-daemon/3.0"
    response.headers["Cache-Control"] = "max-age=0"
    if not getattr(response, "body", None):
        response.headers.pop("Content-Type", None)
    elif "application/json" in response.headers.get("Content-Type", ""):
        response.headers["Content-Type"] = "application/json;charset=UTF-8"


def _json(status: int, reason: str, body: dict[str, Any]) -> web.Response:
    text = json.dumps(_numbers(body), ensure_ascii=False)
    response = web.Response(
        status=status, reason=reason, text=text, content_type="application/json", charset="UTF-8"
    )
    if len(text) > COMPRESSED_BYTES:
        response.enable_compression()
    return response


def _numbers(value: Any) -> Any:
    """Booleans as 0 and 1: the node knows no others."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list | tuple) else value
