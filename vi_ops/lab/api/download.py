"""Getting files into a storage: upload, download-url and query-url-metadata.

Source: pve-storage, PVE/API2/Storage/Status.pm; pve-common, PVE/Tools.pm (download_file_from_url).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import aiohttp

from vi_ops.lab.node import Node
from vi_ops.lab.route import Refusal, Request, parameter_error, route
from vi_ops.lab.schema import MISSING
from vi_ops.lab.task import Log
from vi_ops.lab.upload import clean_name

SUFFIXES = {
    "iso": (".iso", ".img"),
    "import": (".qcow2", ".raw", ".vmdk", ".ova"),
    "vztmpl": (".tar.gz", ".tar.xz", ".tar.zst"),
}
CHUNK_BYTES = 1 << 20
READ_TIMEOUT_S = 60


@route("POST", "/nodes/{node}/storage/{storage}/upload")
async def upload(request: Request, node: Node) -> str:
    """Put the file that came with the request into the storage, as a task."""
    temporary = Path(request.text("tmpfilename"))
    try:
        target = _target(request, node, wrong_suffix="wrong file extension")
    except Refusal:
        temporary.unlink(missing_ok=True)
        raise

    async def place(log: Log) -> None:
        try:
            log(f"starting file import from: {temporary}")
            log(f"target node: {node.name}")
            log(f"target file: {target}")
            log(f"file size is: {temporary.stat().st_size}")
            await _verify(request, temporary, log)
            if node.is_full(request.path["storage"]):
                raise Refusal(500, f"import failed: {target}: No space left on device")
            await asyncio.to_thread(shutil.move, temporary, target)
            log("finished file import successfully")
        finally:
            temporary.unlink(missing_ok=True)

    return node.tasks.start(request.user, "imgcopy", "", place)


@route("POST", "/nodes/{node}/storage/{storage}/download-url")
async def download_url(request: Request, node: Node) -> str:
    """Fetch a file from a URL into the storage, as a task; with a checksum a second run finds it done."""
    target = _target(request, node, wrong_suffix="invalid filename or wrong extension")
    url = request.text("url")
    if bool(request.text("checksum")) != bool(request.text("checksum-algorithm")):
        missing = "checksum-algorithm" if request.text("checksum") else "checksum"
        raise parameter_error(**{missing: "missing property required by 'checksum'"})

    async def fetch(log: Log) -> None:
        log(f"downloading {url} to {target}")
        if target.exists():
            if not request.text("checksum"):
                raise Refusal(500, f"refusing to override existing file '{target}'")
            await _verify(request, target, log)
            log("file already exists, no need to download")
            return
        if node.is_full(request.path["storage"]):
            raise Refusal(500, f"download failed: {target}: No space left on device")
        part = target.with_name(f"{target.name}.tmp.{os.getpid()}")
        try:
            await _download(url, part, request.flag("verify-certificates", True), log)
            await _verify(request, part, log)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        log(f"download of '{url}' to '{target}' finished")

    name = urllib.parse.quote(target.name, safe="")
    return node.tasks.start(request.user, "download", name, fetch)


@route("GET", "/nodes/{node}/query-url-metadata")
async def query_url_metadata(request: Request, node: Node) -> dict[str, Any]:
    """Name, size and type of what lies behind a URL."""
    url = request.text("url")
    try:
        async with (
            _session() as session,
            session.head(
                url, allow_redirects=True, ssl=_tls(request.flag("verify-certificates", True))
            ) as answer,
        ):
            if answer.status >= 400:
                raise Refusal(500, f"invalid server response: '{answer.status} {answer.reason}'")
            name = Path(urllib.parse.urlparse(str(answer.url)).path).name
            found: dict[str, Any] = {"filename": name, "mimetype": answer.content_type}
            return found if answer.content_length is None else {**found, "size": answer.content_length}
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Refusal(500, f"invalid server response: '500 {error}'") from None


def _target(request: Request, node: Node, wrong_suffix: str) -> Path:
    if missing := {key: MISSING for key in ("content", "filename") if key not in request.params}:
        raise parameter_error(**missing)
    storage, content = node.storage(request.path["storage"]), request.text("content")
    if content not in storage.content:
        raise Refusal(500, f"storage '{storage.name}' does not support '{content}' content")
    name = clean_name(request.text("filename"))
    if not name.lower().endswith(SUFFIXES.get(content, ())) or name.startswith("."):
        raise parameter_error(filename=wrong_suffix)
    return storage.folder(content) / name


async def _download(url: str, part: Path, verify: bool, log: Log) -> None:
    """Stream to disk; the log grows by a line for each tenth."""
    address = urllib.parse.urlparse(url)
    try:
        async with _session() as session, session.get(url, ssl=_tls(verify)) as answer:
            if answer.status != 200:
                raise Refusal(500, f"download failed: ERROR {answer.status}: {answer.reason}.")
            total, done, told = answer.content_length or 0, 0, 0
            log(f"Length: {total or 'unspecified'} [{answer.content_type}]")
            with part.open("wb") as file:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
                    done += len(chunk)
                    if total and done * 10 // total > told:
                        told = done * 10 // total
                        log(f"{told * 10}% ({done} of {total} bytes)")
            if total and done != total:
                raise Refusal(500, f"download failed: got {done} of {total} bytes")
    except aiohttp.ClientConnectorError as error:
        port = address.port or (443 if address.scheme == "https" else 80)
        where = f"Connecting to {address.hostname}:{port}"
        raise Refusal(500, f"download failed: {where}... failed: {os.strerror(error.errno or 0)}.") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Refusal(500, f"download failed: {error or type(error).__name__}") from None


async def _verify(request: Request, file: Path, log: Log) -> None:
    expected, algorithm = request.text("checksum"), request.text("checksum-algorithm")
    if not expected:
        return
    log("calculating checksum...")
    actual = await asyncio.to_thread(_digest, file, algorithm)
    if actual != expected.lower():
        raise Refusal(500, f"checksum mismatch: got '{actual}' != expect '{expected}', aborting")
    log("OK, checksum verified")


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=READ_TIMEOUT_S)
    )


def _tls(verify: bool) -> bool:
    return verify
