"""What a publisher says of an image now: its fingerprint and its size, over HTTPS."""

from __future__ import annotations

import urllib.request
from typing import Final
from urllib.error import HTTPError

from vi_ops.errors import StepFailed, Unreachable
from vi_ops.facts.image import Published, parse_checksums
from vi_ops.specs.image import ImageSpec

DEADLINE_S: Final = 30.0
# A list of fingerprints has some kilobytes; a page that never ends is none.
_LONGEST_BYTES: Final = 1 << 20


def look_at_published(spec: ImageSpec) -> Published:
    """Ask the publisher. Raises Unreachable `image-publisher`, StepFailed `image-checksum-missing`."""
    listed = _ask(spec.checksums_url, "GET")[0].decode("utf-8", "replace")
    checksum = parse_checksums(listed, spec.url.rpartition("/")[2])
    if checksum is None:
        raise StepFailed(
            "image-checksum-missing",
            f"{spec.checksums_url} has no line for {spec.url.rpartition('/')[2]}; nothing was fetched",
            hint="the publisher may be replacing the image just now: try again in some minutes",
        )
    return Published(spec.algorithm, checksum, _ask(spec.url, "HEAD")[1])


def _words_of(error: Exception) -> str:
    """What the system says, without what urllib puts around it."""
    reason = getattr(error, "reason", error)
    return (isinstance(reason, OSError) and reason.strerror) or str(error)


def _ask(url: str, method: str) -> tuple[bytes, int | None]:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "vi-ops"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            length = answer.headers.get("Content-Length")
            return answer.read(_LONGEST_BYTES), int(length) if length else None
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, with its connection
        raise Unreachable(
            "image-publisher",
            f"no answer from the publisher: {method} {url}: {_words_of(error)}",
            hint="nothing was changed on the node; check this machine's way to the internet",
        ) from error
