"""The base of every spec: frozen, unknown keys refused; sizes with units, words that must match."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vi_ops.units import parse_size

INVENTORY: Final = "inventory"
"""Validation context of values that a person wrote: there a size without a unit is refused."""

_SIZE_SCHEMA: Final = {
    "type": "string",
    "pattern": r"^\s*\d+(\.\d+)?\s*([KMGT]iB|[KMGT])\s*$",
    "examples": ["16 GiB"],
}


class Spec(BaseModel):
    """A part of the inventory after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Matches:
    """A string must match `pattern` in full; `expected` says in words what it should be."""

    pattern: str
    expected: str

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("spec-invalid", "expected {expected}", {"expected": self.expected})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}


class _SizeJson:
    """In JSON Schema a size is a string with a unit."""

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(_SIZE_SCHEMA)


def _size(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_size(value)
    if info.context == INVENTORY:
        raise ValueError(f"expected a size with its unit, such as '16 GiB', got {value!r}")
    return value


SizeBytes = Annotated[int, BeforeValidator(_size), _SizeJson()]

StorageId = Annotated[
    str,
    Matches(
        r"[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]", "a storage id as `pvesm status` shows it, such as 'local-lvm'"
    ),
]
ConfigId = Annotated[
    str, Matches(r"[A-Za-z][A-Za-z0-9\-_]+", "an id of letters, digits, '-' and '_', such as 'gpu0'")
]
