"""Parameters against the published schema, with Proxmox's own words for what is wrong.

Source: pve-common, PVE/JSONSchema.pm (check_prop, check_object) and PVE/RESTHandler.pm (handle).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vi_ops.lab.format import FormatError, Formats, split_property_string
from vi_ops.lab.route import Refusal

UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
MISSING = "property is missing and it is not optional"
TYPES = {
    "integer": re.compile(r"[+-]?\d+"),
    "number": re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"),
    "boolean": re.compile(r"[01]"),
}
Errors = dict[str, str]


@dataclass(frozen=True)
class Schema:
    """The published schema of one release: methods with their parameters, and the named formats."""

    methods: dict[str, dict[str, Any]]
    formats: Formats

    @classmethod
    def load(cls, file: Path, release: str) -> Schema:
        """Read `pve-<release>.json` and the `formats.json` beside it."""
        formats = json.loads((file.parent / "formats.json").read_text())
        named = Formats(
            formats["simple"],
            formats["property_strings"],
            formats["indexed_parameters"],
            int(release.split(".")[0]),
        )
        return cls(json.loads(file.read_text())["methods"], named)

    def check(self, verb: str, template: str, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters, lists and scalars as the schema wants them; 400 with `errors` when any is wrong."""
        method = self.methods.get(f"{verb} {template}")
        if method is None:
            return params
        properties = self._spread(method["params"], params)
        shaped = {key: _shape(properties.get(key, {}), value) for key, value in params.items()}
        errors: Errors = {}
        self._object(properties, shaped, "", errors, extra=bool(method.get("additionalProperties")))
        if errors:
            raise Refusal(400, "Parameter verification failed.", errors)
        return shaped

    def _spread(self, properties: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """The schema with `net[n]` written out for those numbers that are asked for and exist."""
        found = {key: entry for key, entry in properties.items() if not key.endswith("[n]")}
        for key in params:
            stem, number = re.fullmatch(r"(.*?)(\d*)", key).groups()  # type: ignore[union-attr]
            entry = properties.get(f"{stem}[n]")
            if entry and number and str(int(number)) == number and int(number) < self._slots(stem):
                found[key] = entry
        return found

    def _slots(self, stem: str) -> int:
        return self.formats.indexed.get(stem, 256)

    def _object(
        self,
        properties: dict[str, Any],
        value: dict[str, Any],
        path: str,
        errors: Errors,
        extra: bool = False,
    ) -> None:
        prefix = f"{path}." if path else ""
        for key, entry in sorted(properties.items()):
            if key in value:
                self._property(entry, value[key], f"{prefix}{key}", errors)
            elif not entry.get("optional") and "alias" not in entry:
                _add(errors, f"{prefix}{key}", MISSING)
        for key in value:
            needed = properties.get(key, {}).get("requires")
            if needed and needed not in value:
                _add(errors, f"{prefix}{needed}", f"missing property required by '{prefix}{key}'")
            if key not in properties and not extra:
                _add(errors, f"{prefix}{key}", UNKNOWN)

    def _property(self, entry: dict[str, Any], value: Any, path: str, errors: Errors) -> None:
        kind = entry.get("type", "string")
        if kind == "array":
            for number, item in enumerate(value):
                self._property(entry.get("items", {}), item, f"{path}[{number}]", errors)
        elif isinstance(value, list):
            _add(errors, path, f"type check ('{kind}') failed - got ARRAY")
        elif kind in TYPES and not TYPES[kind].fullmatch(value):
            _add(errors, path, f"type check ('{kind}') failed - got '{value}'")
        else:
            try:
                self._format(entry.get("format"), value, path)
            except FormatError as error:
                _add(errors, path, f"invalid format - {error}")
            else:
                if wrong := _limits(entry, value):
                    _add(errors, path, wrong)

    def _format(self, wanted: Any, value: str, path: str) -> None:
        keys = self.formats.keys_of(wanted) if isinstance(wanted, str) else wanted
        if keys is not None:
            self._property_string(keys, value, path)
        elif isinstance(wanted, str):
            self.formats.check(wanted, value)

    def _property_string(self, keys: dict[str, Any], value: str, path: str) -> None:
        inner: Errors = {}
        self._object(keys, dict(split_property_string(keys, value)), path, inner)
        if inner:
            lines = "".join(f"{key}: {text}\n" for key, text in inner.items())
            raise FormatError(f"format error\n{lines}")


def _shape(entry: dict[str, Any], value: Any) -> Any:
    """A single value for an array is wrapped; several for a `-list` text are joined with commas."""
    if entry.get("type") == "array":
        return value if isinstance(value, list) else [value]
    is_list = isinstance(entry.get("format"), str) and entry["format"].endswith("-list")
    return ",".join(value) if isinstance(value, list) and is_list else value


def _limits(entry: dict[str, Any], value: str) -> str | None:
    if "pattern" in entry and not re.fullmatch(entry["pattern"], value):
        return "value does not match the regex pattern"
    if len(value) > entry.get("maxLength", len(value)):
        return f"value may only be {entry['maxLength']} characters long"
    if len(value) < entry.get("minLength", 0):
        return f"value must be at least {entry['minLength']} characters long"
    if entry.get("type") in ("integer", "number"):
        if float(value) < float(entry.get("minimum", value)):
            return f"value must have a minimum value of {entry['minimum']}"
        if float(value) > float(entry.get("maximum", value)):
            return f"value must have a maximum value of {entry['maximum']}"
    if "enum" in entry and value not in entry["enum"]:
        return f"value '{value}' does not have a value in the enumeration '{', '.join(entry['enum'])}'"
    return None


def _add(errors: Errors, path: str, text: str) -> None:
    errors[path] = f"{errors[path]}\\n{text}" if path in errors else text
