"""Several VMs at once: a thread for each, their errors collected, and Ctrl-C answered at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from vi_ops.errors import ViOpsError

T = TypeVar("T")
# How long a thread may take to note an interrupt; one that waits for an answer of the network takes longer
# and is left behind: the lock goes with the process, and the journal has what was begun.
_GRACE_S = 3.0


@dataclass
class Crew(Generic[T]):
    """What became of each subject: a result, or an error."""

    results: dict[str, T] = field(default_factory=dict)
    errors: dict[str, ViOpsError] = field(default_factory=dict)
    bugs: list[BaseException] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, subjects: Sequence[str], work: Callable[[str], T]) -> None:
        """Work on all subjects at once and wait for all.

        On Ctrl-C `stopped` is set, the threads get a moment, and KeyboardInterrupt is raised.
        """
        threads = [threading.Thread(target=self._one, args=(one, work), daemon=True) for one in subjects]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # a join without an end would not see Ctrl-C on every system
        except KeyboardInterrupt:
            self.stopped.set()
            for thread in threads:
                thread.join(_GRACE_S / len(threads))
            raise
        if self.bugs:
            raise self.bugs[0]

    def _one(self, subject: str, work: Callable[[str], T]) -> None:
        from vi_ops.errors import ViOpsError

        try:
            self.results[subject] = work(subject)
        except ViOpsError as error:
            self.errors[subject] = error
        except BaseException as error:
            if not self.stopped.is_set():
                self.bugs.append(error)

    @property
    def exit_code(self) -> int:
        """0, the code that all errors share, or 1 when they differ."""
        codes = {error.exit_code for error in self.errors.values()}
        return codes.pop() if len(codes) == 1 else int(bool(codes))
