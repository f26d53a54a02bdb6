"""How far cloud-init is, from the file that it keeps itself.

`/run/cloud-init/status.json` is asked for, not `cloud-init status`: reading a file costs one API call and
no process in the guest, and the file holds the same errors. It lies in /run, so it speaks of this boot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vi_ops.errors import FactError

STATUS_FILE = "/run/cloud-init/status.json"


@dataclass(frozen=True)
class CloudInitFacts:
    """`stage` is the running one (`init`, `modules-final`, ...); None between stages and at the end.

    `errors` are failed modules, each with its stage; `warnings` are errors that cloud-init calls recoverable.
    """

    is_finished: bool
    stage: str | None = None
    datasource: str | None = None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def parse_cloud_init_status(text: str) -> CloudInitFacts:
    """Parse `/run/cloud-init/status.json`. Raises FactError for anything else.

    Source: cloud-init, cloudinit/cmd/main.py, status_wrapper.
    """
    try:
        v1 = json.loads(text)["v1"]
        stages = {name: stage for name, stage in v1.items() if isinstance(stage, dict)}
        final = stages["modules-final"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FactError("cloud-init-status", f"{STATUS_FILE} is not as expected: {text[:200]!r}") from error
    return CloudInitFacts(
        is_finished=final.get("finished") is not None and v1.get("stage") is None,
        stage=v1.get("stage"),
        datasource=v1.get("datasource"),
        errors=tuple(
            f"{name}: {error}" for name, stage in stages.items() for error in stage.get("errors") or ()
        ),
        warnings=tuple(
            f"{name}: {warning}" for name, stage in stages.items() for warning in _recoverable(stage)
        ),
    )


def _recoverable(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Recoverable errors by level (`WARNING`, `DEPRECATED`); a deprecation is no reason to worry here."""
    levels: Mapping[str, list[str]] = stage.get("recoverable_errors") or {}
    return tuple(line for level, lines in levels.items() if level != "DEPRECATED" for line in lines)
