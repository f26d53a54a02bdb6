"""What differs between a recorded answer and the lab's, once all that belongs to one machine is put aside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support.lab import Answer

# Answers that state what was asked for: their values must be equal, not only of the same shape.
STATED = re.compile(
    r"/(config|pending|cloudinit|cloudinit/dump|snapshot|prunebackups)$|^/access/(permissions|roles|users)"
    r"|^/cluster/(mapping|nextid)|^/pools|/vzdump/defaults$|/capabilities/qemu/cpu$|^/version"
)
VOLATILE = (
    (r"UPID:pve1:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:", "UPID:pve1:<worker>:"),
    (r"\b[0-9a-f]{40}\b", "<digest>"),
    (r"(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "<mac>"),
    (r"(?i)\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>"),
    (r"creation-qemu=[\d.]+,ctime=\d+", "<meta>"),
    (r" line \d+\.", " line <n>."),
    (r"\b10\.9[89]\.0\.\d+", "<address>"),
    (r"192\.168\.1\.\d+", "<address>"),
    (r"\d+(\.\d+)? [KMG]?i?B", "<size>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>"),
)
# Lines by which programs below the API report how far they are; they depend on versions and speed.
CHATTER = re.compile(
    r"transferred |^--<time>--|^Formatting |^Length: |^\d+% |^file size|^no content$|/usr/bin/chattr "
    r"|^trying to acquire lock|^OK$"
)


def differences(record: dict[str, Any], answer: Answer, task: dict[str, Any] | None, home: Path) -> list[str]:
    """One line for each thing in which `answer` is not what was recorded; empty when it matches."""
    found = []
    if (record["status"], _tidy(record["reason"], home)) != (answer.status, _tidy(answer.reason, home)):
        lab = f"the lab says {answer.status} {answer.reason!r}"
        found.append(f"{record['status']} {record['reason']!r} was recorded, {lab}")
    if (record["content_type"] or None) != answer.headers.get("Content-Type"):
        found.append(
            f"content type {record['content_type']}, the lab says {answer.headers.get('Content-Type')}"
        )
    found += _body(record, answer.body, home)
    if "task" in record:
        found += _task(record["task"], task, home)
    return found


def _body(record: dict[str, Any], body: Any, home: Path) -> list[str]:
    recorded = record["body"]
    if "_raw" in recorded:
        return [] if body == recorded["_raw"] else [f"raw body {recorded['_raw']!r}, the lab says {body!r}"]
    if not isinstance(body, dict):
        return [f"a JSON body was recorded, the lab says {body!r}"]
    found = [f"{key}: recorded but not in the lab's body" for key in recorded.keys() - body.keys()]
    found += [f"{key}: not recorded" for key in body.keys() - recorded.keys()]
    if record["status"] >= 400:
        for part in ("message", "errors"):
            if _lines(recorded.get(part), home) != _lines(body.get(part), home):
                found.append(f"{part}: {recorded.get(part)!r}, the lab says {body.get(part)!r}")
        return found
    if STATED.search(record["path"]):
        return found + _values(recorded.get("data"), body.get("data"), "data", home)
    return found + _shape(recorded.get("data"), body.get("data"), "data")


def _task(recorded: dict[str, Any], task: dict[str, Any] | None, home: Path) -> list[str]:
    if task is None:
        return ["a task was recorded, the lab started none"]
    found = []
    if recorded["status"]["status"] == "stopped":
        wanted, seen = (_tidy(t["status"].get("exitstatus", "-"), home) for t in (recorded, task))
        if wanted != seen:
            found.append(f"exitstatus {wanted!r}, the lab says {seen!r}")
    found += (
        _shape(recorded["status"], task["status"], "status") if "exitstatus" in recorded["status"] else []
    )
    wanted_log, seen_log = ([_tidy(line["t"], home) for line in t["log"]["data"]] for t in (recorded, task))
    missing = [line for line in wanted_log if not CHATTER.search(line) and line not in seen_log]
    extra = [line for line in seen_log if not CHATTER.search(line) and line not in wanted_log]
    return (
        found
        + [f"log line missing: {line}" for line in missing]
        + [f"log line extra: {line}" for line in extra]
    )


def _values(recorded: Any, seen: Any, path: str, home: Path) -> list[str]:
    """Equal, but for the order of lists and what `_tidy` puts aside."""
    wanted, got = _canonical(recorded, home), _canonical(seen, home)
    if wanted == got:
        return []
    if isinstance(wanted, dict) and isinstance(got, dict):
        return [
            f"{path}.{k}: {wanted.get(k)!r}, the lab says {got.get(k)!r}"
            for k in wanted | got
            if wanted.get(k) != got.get(k)
        ]
    if isinstance(wanted, list) and isinstance(got, list):
        lost = [f"{path}: lacks {item}" for item in wanted if item not in got]
        return lost + [f"{path}: has {item} too" for item in got if item not in wanted]
    return [f"{path}: {wanted!r}, the lab says {got!r}"]


def _shape(recorded: Any, seen: Any, path: str) -> list[str]:
    """The same keys with the same types; in lists, for those items that both have."""
    if _kind(recorded) != _kind(seen):
        return [f"{path}: {_kind(recorded)} {recorded!r}, the lab says {seen!r}"]
    if isinstance(recorded, dict):
        found = [f"{path}.{key}: missing" for key in sorted(recorded.keys() - seen.keys())]
        for key in recorded.keys() & seen.keys():
            found += _shape(recorded[key], seen[key], f"{path}.{key}")
        return found
    if isinstance(recorded, list):
        if recorded and not seen:
            return [f"{path}: empty in the lab"]
        return [line for want, got in _pairs(recorded, seen) for line in _shape(want, got, f"{path}[]")]
    return []


def _pairs(recorded: list[Any], seen: list[Any]) -> list[tuple[Any, Any]]:
    """Items of two lists that are about the same thing, by the key that names them."""
    for name in ("id", "vmid", "iface", "storage", "node", "key", "n"):
        if all(isinstance(item, dict) and name in item for item in [*recorded, *seen]):
            by_name = {item[name]: item for item in seen}
            pairs = [(item, by_name[item[name]]) for item in recorded if item[name] in by_name]
            return pairs or list(zip(recorded[:1], seen, strict=False))
    return list(zip(recorded, seen, strict=False))


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) else type(value).__name__


def _canonical(value: Any, home: Path) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_canonical(item, home) for item in value), key=json.dumps)
    return _tidy(value, home) if isinstance(value, str) else value


def _lines(value: Any, home: Path) -> Any:
    """Texts of errors, their lines in one order: Perl's hashes have none."""
    if isinstance(value, dict):
        return {key: _lines(text, home) for key, text in value.items()}
    return sorted(_tidy(value, home).splitlines()) if isinstance(value, str) else value


def _tidy(text: str, home: Path) -> str:
    text = text.replace(str(home / "storage" / "local"), "/var/lib/vz")
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text)
    return text.strip()
