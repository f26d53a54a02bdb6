"""A file as a multipart body that streams from disk, in the one order that Proxmox reads."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from vi_ops.errors import SpecError
from vi_ops.units import format_size

_ALGORITHMS: Final = {32: "md5", 40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}
Tell = Callable[[str], None]


def checksum_fields(checksum: str | None) -> dict[str, str]:
    """The form fields for `sha256:<hex>` or bare hex digits, whose length then says which it is.

    Raises SpecError for anything else.
    """
    if checksum is None:
        return {}
    algorithm, _, digits = checksum.rpartition(":")
    algorithm = algorithm or _ALGORITHMS.get(len(digits), "")
    if algorithm not in _ALGORITHMS.values() or not set(digits) <= set(string.hexdigits):
        raise SpecError(
            "upload-checksum", f"expected a checksum such as sha256:<64 hex digits>, got {checksum!r}"
        )
    return {"checksum-algorithm": algorithm, "checksum": digits.lower()}


class Multipart:
    """A body with the fields first and the file last, as `filename`; its length is known before it is sent.

    The node reads parts in this order, wants Content-Disposition as the first header of each, and takes no
    chunked bodies (pve-http-server, src/PVE/APIServer/AnyEvent.pm, file_upload_multipart).
    """

    def __init__(self, fields: dict[str, str], path: Path, filename: str, tell: Tell | None = None) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="filename"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._rest = [head.encode(), None, f"\r\n--{boundary}--\r\n".encode()]
        self._file: IO[bytes] = path.open("rb")
        self._size = path.stat().st_size
        self._sent = self._tenths = 0
        self._tell = tell
        self._length = self._size + sum(len(part) for part in self._rest if part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def is_sent(self) -> bool:
        """Whether the whole body has been handed over, so that the node may act on it."""
        return not self._rest

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(64 * 1024):
            yield chunk

    def read(self, size: int = 64 * 1024) -> bytes:
        """The next bytes, at most `size`; nothing at the end."""
        while self._rest:
            part = self._rest[0]
            if part is None:
                if chunk := self._file.read(size):
                    self._count(len(chunk))
                    return chunk
                self._rest.pop(0)
            elif part:
                self._rest[0] = part[size:]
                return part[:size]
            else:
                self._rest.pop(0)
        return b""

    def _count(self, more: int) -> None:
        self._sent += more
        tenths = self._sent * 10 // self._size
        if self._tell and tenths > self._tenths:
            self._tenths = tenths
            self._tell(f"uploaded {format_size(self._sent)} of {format_size(self._size)}")
