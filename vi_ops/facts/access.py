"""Rights: what a token may do, and what it lacked when the node said no."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vi_ops.facts.answer import mapping_of

# pve-common, src/PVE/Exception.pm, raise_perm_exc; alternatives are joined by `|`.
_DENIED: Final = re.compile(r"Permission check failed(?: \((?P<path>/[^,)]*), (?P<privileges>[^)]*)\))?")


@dataclass(frozen=True)
class Denied:
    """A 403 taken apart: any one of `privileges` on `path` would have done. Both may be unknown."""

    path: str | None
    privileges: tuple[str, ...] = ()


def parse_denied(text: str) -> Denied | None:
    """Parse `Permission check failed (/vms/106, VM.Audit|VM.Config.Disk)`; None for another text."""
    match = _DENIED.match(text)
    if not match:
        return None
    if match["path"] is None:
        return Denied(None)
    return Denied(match["path"], tuple(re.split(r"[|,]\s*", match["privileges"].strip())))


@dataclass(frozen=True)
class Rights:
    """The effective rights of one token or user: privileges by path, and which of them end at that path.

    `local` holds the privileges whose ACL entry does not propagate to what lies below.
    """

    granted: Mapping[str, frozenset[str]]
    local: Mapping[str, frozenset[str]]

    def allows(self, path: str, *any_of: str) -> bool:
        """Whether one of the privileges holds on `path`; the nearest path listed decides."""
        for at in _upwards(path):
            if at in self.granted:
                reaching = (
                    self.granted[at] if at == path else self.granted[at] - self.local.get(at, frozenset())
                )
                return not reaching.isdisjoint(any_of)
        return False


def parse_rights(answer: object) -> Rights:
    """Parse `GET /access/permissions`: `{path: {privilege: propagate}}`; anything else grants nothing.

    The node lists every path that an ACL or a pool names (pve-access-control, get_effective_permissions).
    """
    tree = mapping_of(answer)
    rows = {str(path): row for path, row in tree.items() if isinstance(row, Mapping)}
    return Rights(
        granted={path: frozenset(row) for path, row in rows.items()},
        local={path: ends for path, row in rows.items() if (ends := frozenset(p for p in row if not row[p]))},
    )


def _upwards(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), -1, -1)]
