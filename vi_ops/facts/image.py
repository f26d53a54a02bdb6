"""Images as they are: built here, and lying on a node's storage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BuiltImage:
    """What a build left: fingerprints, and the inputs that decide them.

    `recipe` is the digest of everything but the packages' bytes, `epoch` the mirror's newest date (s),
    `packages` maps names to versions. `raw_sha256` is of the disk's content: equal inputs make it equal.
    """

    name: str
    recipe: str
    epoch: int
    sha256: str
    size_bytes: int
    raw_sha256: str
    raw_bytes: int
    packages: Mapping[str, str]
    tools: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def parse_built_image(text: str) -> BuiltImage | None:
    """The record of a build; None when it is not one (an older vi-ops wrote it, or it is damaged)."""
    try:
        return BuiltImage(**json.loads(text))
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Published:
    """What the publisher offers now: fingerprint with its algorithm, and the size where it says one."""

    algorithm: str
    checksum: str
    size_bytes: int | None


@dataclass(frozen=True)
class StoredVolume:
    """A volume on a storage: `local:import/debian-13.qcow2`, its size in bytes."""

    volid: str
    size_bytes: int


def find_stored(rows: Iterable[Mapping[str, Any]], file: str) -> StoredVolume | None:
    """The volume of that file name among the rows of `GET /nodes/{node}/storage/{storage}/content`."""
    for row in rows:
        volid = str(row.get("volid", ""))
        if volid.partition(":")[2].rpartition("/")[2] == file:
            return StoredVolume(volid, int(row.get("size", 0)))
    return None


def parse_dpkg_status(text: str) -> dict[str, str]:
    """Package names to versions, from /var/lib/dpkg/status (deb822 paragraphs)."""
    versions: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status") == "install ok installed":
            versions[fields["Package"]] = fields["Version"]
    return versions


def parse_checksums(text: str, file: str) -> str | None:
    """The fingerprint of `file` in a SHA256SUMS or SHA512SUMS; None when it is not listed."""
    for line in text.splitlines():
        digest, _, name = line.strip().partition(" ")
        if name.strip().removeprefix("*") == file:
            return digest.lower()
    return None
