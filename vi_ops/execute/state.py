"""Where vi-ops keeps what it must remember: one folder for each site, readable by its owner only."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path


@dataclass(frozen=True)
class SiteState:
    """The state folder of one site. Nothing in it is needed to rebuild a VM; all of it may be deleted."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    def lock(self, host: str) -> Path:
        """The lock file of one VM, by its inventory name."""
        return self.path / "locks" / f"{host}.lock"


def state_root() -> Path:
    """`VI_OPS_STATE_DIR`, else the platform's place for state (`~/.local/state/vi-ops`)."""
    given = os.environ.get("VI_OPS_STATE_DIR")
    return Path(given) if given else user_state_path("vi-ops")


def site_state(inventory: Path) -> SiteState:
    """The state folder of the site described in `inventory`, made if need be.

    Its name is the folder's name and eight hex digits of its resolved path: two sites with folders of
    the same name never share a journal, a lock or a host key.
    """
    where = inventory.resolve()
    mark = hashlib.sha256(os.fsencode(where)).hexdigest()[:8]
    path = state_root() / f"{where.name}-{mark}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    (path / "locks").mkdir(mode=0o700, exist_ok=True)
    return SiteState(path)
