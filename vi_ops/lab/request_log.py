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


def count_requests(home: Path) -> dict[str, int]:
    """How often the lab was asked, and how often that was no GET: `{"reads": 12, "writes": 0}`."""
    file = log_file(home)
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    reads = sum(json.loads(line)["method"] == "GET" for line in lines)
    return {"reads": reads, "writes": len(lines) - reads}


def log_file(home: Path) -> Path:
    """Where a lab's requests are written down."""
    return home / "log" / "access.jsonl"


def _cut(value: Any) -> Any:
    return value[:LONGEST] + "..." if isinstance(value, str) and len(value) > LONGEST else value
