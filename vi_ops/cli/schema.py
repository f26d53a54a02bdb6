"""`vi-ops schema`: JSON Schema of host_vars files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Subject(StrEnum):
    """What a host_vars file describes."""

    NODE = "node"
    VM = "vm"


def schema(
    subject: Annotated[
        Subject | None,
        typer.Argument(metavar="KIND", help="node or vm: whose host_vars file; both when left out."),
    ] = None,
) -> None:
    """Print the JSON Schema of host_vars files, for editors.

    With an argument it is that schema; without, an object that holds both. A new site of
    `vi-ops init` has both in .schema, and each file there names its own.

    \b
    Examples:
      vi-ops schema vm > vm.json
      vi-ops schema | jq .node
    """
    import json

    from vi_ops.specs.schema import KINDS, host_vars_schema

    schemas = {kind: host_vars_schema(kind) for kind in KINDS}
    typer.echo(json.dumps(schemas[subject.value] if subject else schemas, indent=2))
