"""The lab's own record of every request: what a test or a drill counts writes in."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECRET = frozenset({"password", "cipassword", "otp", "tfa-challenge", "input-data", "confirmation-password"})
LONGEST = 4096  # characters of one value; a file written through the agent may have 60 KiB


def shown(path: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they may be written down: secrets masked, long values cut."""
    secret = SECRET | {"content"} if path.endswith("/agent/file-write") else SECRET
    return {key: "***" if key in secret else _cut(value) for key, value in params.items()}


def write_entry(file: Path, entry: dict[str, Any]) -> None:
    """Add one line: {time, user, method, path, params, status, upid?}."""
    with file.open("a") as log:
        log.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")


def _cut(value: Any) -> Any:
    return value[:LONGEST] + "..." if isinstance(value, str) and len(value) > LONGEST else value
