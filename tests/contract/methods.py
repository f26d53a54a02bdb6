"""The lab's shipped table of methods, made from the published schemas: `python -m tests.contract.methods`.

Only what the lab serves is kept, and of that only who may call it: methods, permissions, two flags.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.support.lab import published_schema
from vi_ops.lab import api
from vi_ops.lab.daemon import RELEASES
from vi_ops.lab.route import ROUTES

SHIPPED = Path(str(files("vi_ops.lab").joinpath("methods.json")))
SOURCE = (
    "the published API schema of each release: who may call a method, and whether a privileged daemon runs it"
)


def published_methods(release: str) -> dict[str, dict[str, Any]]:
    """What methods.json should hold for a release."""
    file = published_schema(release)
    assert file is not None
    api.load()
    methods = json.loads(file.read_text())["methods"]
    served = sorted(key for verb, template in ROUTES if (key := f"{verb} {template}") in methods)
    return {key: _kept(methods[key]) for key in served}


def _kept(method: dict[str, Any]) -> dict[str, Any]:
    permissions = method.get("permissions")
    if permissions is not None:
        permissions = {key: permissions[key] for key in ("user", "check") if key in permissions}
    flags = {key: method[key] for key in ("protected", "allowtoken") if key in method}
    return {
        "permissions": permissions,
        **{key: value for key, value in flags.items() if value != (key == "allowtoken")},
    }


def main() -> None:
    """Write the table, one method a line, so that a change shows as one."""
    parts = [f'"source": {json.dumps(SOURCE)}']
    for release in RELEASES:
        lines = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in published_methods(release).items()
        )
        parts.append(f"{json.dumps(release)}: {{\n{lines}\n}}")
    SHIPPED.write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    main()
