"""The base of every spec: frozen, unknown keys refused; and sizes that carry their unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from vi_ops.units import parse_size


class Spec(BaseModel):
    """A part of the inventory after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


SizeBytes = Annotated[int, BeforeValidator(_size, json_schema_input_type=str)]
