"""Which methods there are, who may call them, and how a path finds its handler."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from vi_ops.lab.route import ROUTES, Handler


@dataclass(frozen=True)
class Method:
    """One method as the published schema describes it, without its parameters.

    `permissions` is as in the schema, without prose. `is_protected`: the node hands the call to its
    privileged daemon and gives up after 30 s. `tokens`: whether an API token may call it.
    """

    template: str
    handler: Handler
    permissions: dict[str, Any] | None
    is_protected: bool = False
    tokens: bool = True


class Methods:
    """The methods of one release that the lab serves."""

    def __init__(self, release: str) -> None:
        shipped = json.loads(files("vi_ops.lab").joinpath("methods.json").read_text())[release]
        self._by_verb: dict[str, list[tuple[re.Pattern[str], Method]]] = {}
        for (verb, template), handler in sorted(ROUTES.items(), key=lambda item: _literal_first(item[0][1])):
            entry = shipped.get(f"{verb} {template}")
            if entry is not None:
                method = Method(
                    template,
                    handler,
                    entry["permissions"],
                    bool(entry.get("protected")),
                    entry.get("allowtoken", True),
                )
                self._by_verb.setdefault(verb, []).append((_pattern(template), method))

    def find(self, verb: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method that serves `path`, and the path's variables; None when there is none."""
        for pattern, method in self._by_verb.get(verb, []):
            if match := pattern.fullmatch(path):
                return method, dict(zip(_names(method.template), match.groups(), strict=True))
        return None


def _names(template: str) -> list[str]:
    return re.findall(r"\{([^}]+)\}", template)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^}]+\})", template)
    # A volume's name may hold slashes: `/content/local:import/x.qcow2`.
    groups = ["(.+)" if p == "{volume}" else "([^/]+)" if p.startswith("{") else re.escape(p) for p in parts]
    return re.compile("".join(groups))


def _literal_first(template: str) -> list[tuple[bool, str]]:
    return [(part.startswith("{"), part) for part in template.split("/")]
