"""Uploads: a multipart body read part by part and written to disk as it comes.

Source: pve-http-server, PVE/APIServer/AnyEvent.pm (file_upload_multipart).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from vi_ops.lab.route import Refusal

FIELDS = ("content", "checksum-algorithm", "checksum")
CHUNK_BYTES = 1 << 20


async def receive_upload(http: web.Request, folder: Path) -> dict[str, Any]:
    """The form's fields, and the file: `filename` as cleaned up, `tmpfilename` where it lies now.

    Fields come first and in their order; the file comes last, is named `filename`, carries a file name, and
    its first header is Content-Disposition. Anything else is refused, as by the node, with 501.
    """
    if not http.content_type.startswith("multipart/form-data"):
        raise Refusal(501, "upload needs multipart/form-data", body=False)
    if "tmpfilename" in http.query:
        raise Refusal(400, "Parameter verification failed.", {"tmpfilename": "parameter not allowed"})
    params: dict[str, Any] = {}
    expected = list(FIELDS)
    reader = await http.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or next(iter(part.headers), "") != "Content-Disposition":
            raise Refusal(501, "part without Content-Disposition as its first header", body=False)
        if part.name in expected and not part.filename:
            del expected[: expected.index(part.name) + 1]
            params[part.name] = await part.text()
        elif part.name == "filename" and part.filename:
            params["filename"] = clean_name(part.filename)
            params["tmpfilename"] = await _store(part, folder)
            return params
        else:
            raise Refusal(501, f"unexpected part '{part.name}' in upload", body=False)
    raise Refusal(501, "upload without a file", body=False)


def clean_name(name: str) -> str:
    """A file name without its path, and with `_` for whatever is not a letter, digit, `.`, `_` or `-`."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", re.split(r"[/\\]", name)[-1])


def discard_upload(params: dict[str, Any]) -> None:
    """Remove the file of an upload that came to nothing."""
    if "tmpfilename" in params:
        Path(params["tmpfilename"]).unlink(missing_ok=True)


async def _store(part: BodyPartReader, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / f"pveupload-{secrets.token_hex(16)}"
    try:
        with path.open("wb") as file:
            while chunk := await part.read_chunk(CHUNK_BYTES):
                await asyncio.to_thread(file.write, chunk)
    except BaseException:
        path.unlink()  # half a file is none: the client went away
        raise
    return str(path)
