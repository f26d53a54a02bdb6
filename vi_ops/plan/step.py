"""Steps as values: a plan can be printed, compared, saved and read back. Carrying it out is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Effect(StrEnum):
    """When a step takes effect in the guest."""

    NOW = "now"
    POWER_CYCLE = "power-cycle"


@dataclass(frozen=True)
class PveCall:
    """One writing call of the Proxmox API.

    `path` is below /api2/json, `params` are unencoded values (booleans as bool, lists as tuples);
    `secret` names the parameters that must never be shown.
    """

    method: str
    path: str
    params: Mapping[str, str | int | bool | tuple[str, ...]] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Playbook:
    """A playbook from `playbooks/`, run against one inventory host."""

    name: str
    host: str


@dataclass(frozen=True)
class WaitUntil:
    """A stage of readiness to be reached: `powered`, `firmware`, `kernel`, `agent`, ..."""

    stage: str
    deadline_s: float


Action = PveCall | Playbook | WaitUntil


@dataclass(frozen=True)
class Step:
    """One thing to do. `key` is stable between runs (the journal knows a step by it)."""

    key: str
    do: Action
    because: str
    effect: Effect = Effect.NOW


@dataclass(frozen=True)
class Finding:
    """Something a check saw: `code` is known to `vi-ops explain`; `blocks` stops the plan before step one."""

    code: str
    message: str
    hint: str | None = None
    blocks: bool = True


@dataclass(frozen=True)
class Plan:
    """Ordered steps for one subject, and one sentence for each thing that is already right.

    `waiting` says what is written but takes effect at the next power cycle; `later` what the spec asks for
    and this plan does not do.
    """

    subject: str
    steps: tuple[Step, ...] = ()
    unchanged: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def is_blocked(self) -> bool:
        return any(finding.blocks for finding in self.findings)
