"""Parameters from query, form and JSON bodies, decoded as the node decodes them.

Source: pve-http-server, PVE/APIServer/AnyEvent.pm (extract_params, decode_urlencoded).
"""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from vi_ops.lab.route import Refusal

MAX_BODY_BYTES = 512 * 1024
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


def decode_form(text: str) -> dict[str, Any]:
    """`a=1&b=x&b=y` as `{"a": "1", "b": ["x", "y"]}`; `;` splits too, and a second raw `=` ends the value."""
    params: dict[str, Any] = {}
    for part in text.replace(";", "&").split("&"):
        if not part:
            continue
        key, value = (urllib.parse.unquote_plus(piece) for piece in (*part.split("="), "")[:2])
        if key in params:
            earlier = params[key]
            params[key] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
        else:
            params[key] = value
    return params


def decode_body(content_type: str, body: bytes) -> dict[str, Any]:
    """A body's parameters, by its content type."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return {}
    if kind in ("", FORM):
        return decode_form(body.decode(errors="replace"))
    if kind != JSON:
        raise Refusal(506, f"content type '{kind}' is not supported")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Refusal(500, f"malformed JSON string: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(500, "malformed JSON string: expected an object")
    return {key: _as_text(item) for key, item in value.items() if item is not None}


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value if isinstance(value, str) else json.dumps(value)
