"""The known name nearest to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` most likely meant; None when nothing is near.

    Case and `-` against `_` do not count: `Start-On-Boot` is near `start_on_boot`.
    """
    by_plain = {_plain(name): name for name in sorted(known, reverse=True)}
    matches = get_close_matches(_plain(word), by_plain, n=1)
    return by_plain[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'memory'?`, or the known names when none is near; empty when there are none."""
    names = sorted(known)
    if match := nearest(word, names):
        return f"did you mean {match!r}?"
    return f"known: {', '.join(names)}" if names else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
