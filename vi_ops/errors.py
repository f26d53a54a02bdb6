"""The errors a user may meet. Each has a stable code that `vi-ops explain` knows, and an exit code."""

from __future__ import annotations


class ViOpsError(Exception):
    """An expected failure: what happened, to what, why; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class StepFailed(ViOpsError):
    """A step failed on its target."""

    exit_code = 1


class SpecError(ViOpsError):
    """Inventory or spec is wrong: file, line, path inside it, what was expected."""

    exit_code = 4


class Unreachable(ViOpsError):
    """No connection, or login refused: host, port, user, how it was tried."""

    exit_code = 5


class Refused(ViOpsError):
    """A safety check said no: the fact, the limit, the remedy."""

    exit_code = 6


class LockHeld(ViOpsError):
    """Somebody else is at it: who, since when, why."""

    exit_code = 7


class FactError(StepFailed):
    """An answer that cannot be parsed; shows its first lines."""
