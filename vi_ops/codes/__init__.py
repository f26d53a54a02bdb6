"""The register of every code a user may meet, one TOML file for each noun."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Code:
    """One code: what it is, what leads to it, what to do about it."""

    name: str
    noun: str
    title: str
    why: str
    remedy: str


@cache
def register() -> dict[str, Code]:
    """All codes by name. Raises ValueError when two files know the same code."""
    codes: dict[str, Code] = {}
    for file in sorted(files(__package__).iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".toml"):
            continue
        noun = file.name.removesuffix(".toml")
        for name, fields in tomllib.loads(file.read_text("utf-8")).items():
            if name in codes:
                raise ValueError(f"{noun}.toml: code {name} is in {codes[name].noun}.toml already")
            codes[name] = Code(name, noun, fields["title"], fields["why"], fields["remedy"])
    return codes
