"""JSON Schema of host_vars files, for editors."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import models_json_schema

from vi_ops.specs.host_vars import FROM_ANSIBLE, SSH_VARS, Kind
from vi_ops.specs.model import Spec
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.ssh import SshTarget
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec

KINDS: Final[tuple[Kind, ...]] = ("node", "vm")
_TEMPLATE: Final = {"type": "string", "pattern": r"\{\{.*\}\}", "description": "A Jinja template."}
_SSH_DESCRIPTIONS: Final = {
    "host": "Address or name that SSH and Ansible connect to; the inventory name when left out.",
    "port": "SSH port; 22 when left out.",
    "user": "User that SSH and Ansible log in as.",
    "key_file": "Private key that SSH and Ansible log in with.",
}


def host_vars_schema(kind: Kind) -> dict[str, Any]:
    """The schema of a host_vars file of a node or a guest; other variables may stand beside ours."""
    models: tuple[type[Spec], ...] = (NodeSpec,) if kind == "node" else (VmSpec, UnmanagedVmSpec)
    refs, top = models_json_schema([(model, "validation") for model in models])
    names = [refs[model, "validation"] for model in models]
    definitions = {
        name: _with_templates(_without_host(schema) if {"$ref": f"#/$defs/{name}"} in names else schema)
        for name, schema in top["$defs"].items()
        if name != SshTarget.__name__
    }
    ssh = {
        variable: _or_template(
            {"description": _SSH_DESCRIPTIONS[key], "type": "integer" if key == "port" else "string"}
        )
        for key, variable in SSH_VARS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"vi-ops: host_vars of a {'node' if kind == 'node' else 'guest'}",
        "type": "object",
        "required": [kind],
        "properties": {kind: _choice(names), **ssh},
        "$defs": {**definitions, "template": _TEMPLATE},
    }


def _choice(refs: list[Any]) -> dict[str, Any]:
    """One model; or a managed and an unmanaged one, told apart first, so that messages fit."""
    if len(refs) == 1:
        return dict(refs[0])
    return {
        "if": {"properties": {"managed": {"const": False}}, "required": ["managed"]},
        "then": refs[1],
        "else": refs[0],
    }


def _without_host(schema: dict[str, Any]) -> dict[str, Any]:
    """Without what comes from the inventory's name and Ansible's variables."""
    fields = {key: value for key, value in schema["properties"].items() if key not in FROM_ANSIBLE}
    required = [key for key in schema["required"] if key in fields and key != "name"]
    return {**schema, "properties": fields, "required": required}


def _with_templates(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {key: _or_template(value) for key, value in schema["properties"].items()}}


def _or_template(schema: dict[str, Any]) -> dict[str, Any]:
    """A value, or a Jinja template in its place; the description stays where editors look for it."""
    outer = {key: schema[key] for key in ("description",) if key in schema}
    if isinstance(schema.get("default"), str | int):
        outer["default"] = schema["default"]
    inner = {key: value for key, value in schema.items() if key not in ("description", "default", "title")}
    return {**outer, "anyOf": [*inner.get("anyOf", [inner]), {"$ref": "#/$defs/template"}]}
