"""Steps as values: a plan can be printed, compared, saved and read back. Carrying it out is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Param = str | int | bool | tuple[str, ...]


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
    params: Mapping[str, Param] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()

    @property
    def shown_params(self) -> dict[str, Param]:
        """The parameters with every secret masked."""
        return {key: "***" if key in self.secret else value for key, value in self.params.items()}


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
class Change:
    """One config key of a VM that a step changes, in words; `before` and `after` are None when absent."""

    key: str
    before: str | None
    after: str | None
    effect: Effect = Effect.NOW


@dataclass(frozen=True)
class Step:
    """One thing to do. `key` is stable between runs (the journal knows a step by it).

    `title` names the step by its result; `changes` lists what an update of a config changes.
    """

    key: str
    do: Action
    because: str
    effect: Effect = Effect.NOW
    title: str = ""
    changes: tuple[Change, ...] = ()


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
    and this plan does not do; `losses` what is gone for good when the plan has been carried out.
    """

    subject: str
    steps: tuple[Step, ...] = ()
    unchanged: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def is_blocked(self) -> bool:
        return any(finding.blocks for finding in self.findings)

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that write on the node. Playbooks, which mostly find everything right, are none."""
        return tuple(step for step in self.steps if isinstance(step.do, PveCall))

    @property
    def playbooks(self) -> tuple[str, ...]:
        return tuple(step.do.name for step in self.steps if isinstance(step.do, Playbook))
