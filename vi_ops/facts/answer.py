"""Reading answers liberally: what is not there, or of another kind than promised, is absent and no crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rows_of(answer: object) -> list[Mapping[str, Any]]:
    """The objects of a list; nothing for anything else."""
    return [row for row in answer if isinstance(row, Mapping)] if isinstance(answer, list) else []


def mapping_of(answer: object) -> Mapping[str, Any]:
    """An object; an empty one for anything else."""
    return answer if isinstance(answer, Mapping) else {}


def integer_of(value: object) -> int | None:
    """A number, which Perl may write as text, or as 0 and 1 for a boolean; None for anything else."""
    if isinstance(value, bool):
        return int(value)
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return None
