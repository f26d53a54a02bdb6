"""Help pages and usage errors without Python's types and pydantic's phrases."""

from __future__ import annotations

import re
from typing import Final

from typer.core import TyperArgument, TyperOption

# Typer checks values with pydantic, and repeats what it says.
_PHRASES: Final = (
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to", "expected at least"),
    (r"Input should be less than or equal to", "expected at most"),
    (r"Input should be a valid integer.*", "expected a whole number"),
    (r"Input should be a valid number.*", "expected a number"),
    (r"Input should be", "expected"),
)


def hide_types() -> None:
    """Let help name an argument by its metavar alone: `VM`, not `VM <list[str]>`; and no `[8<=x<=9]`.

    Typer has no setting for either. A release of it without these methods shows them again: a test tells.
    """
    setattr(TyperArgument, "display_type_rich", lambda self, ctx: None)  # noqa: B010
    setattr(TyperOption, "_get_number_range_help_str", lambda self: None)  # noqa: B010


def in_our_words(message: str) -> str:
    """A usage error as this project says it: begun in lower case, about values and not about Input."""
    for phrase, ours in _PHRASES:
        message = re.sub(phrase, ours, message)
    return message[:1].lower() + message[1:]
