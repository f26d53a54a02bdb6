"""What an image is made of, decided before anything is touched: identities, layout, sources."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vi_ops.specs.image import BuildSpec
from vi_ops.units import MIB

# Types of GPT partitions: UEFI specification 2.10, table 5.7; BIOS boot as in the GRUB manual.
_BIOS_BOOT: Final = "21686148-6449-6E6F-744E-656564454649"
_ESP: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_ROOT_X86_64: Final = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
# Goes up with every change of the code that changes the bytes of a disk.
ASSEMBLY: Final = 3
_NAMESPACE: Final = uuid.UUID("5f6d0b1e-55a4-5c7c-9d5c-3ad2ce2b3c40")


@dataclass(frozen=True)
class Partition:
    """A part of the disk; `number` is its place in the table, start and size in bytes."""

    number: int
    kind: str
    name: str
    start_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class DiskLayout:
    """BIOS boot, ESP and root. Root is number 1 and last on the disk, so that it grows with the disk."""

    size_bytes: int
    bios: Partition
    esp: Partition
    root: Partition

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (self.root, self.bios, self.esp)


@dataclass(frozen=True)
class Recipe:
    """Everything but the packages' bytes that decides how an image comes out."""

    image: str
    build: BuildSpec
    digest: str

    @property
    def root_uuid(self) -> str:
        return self.derived("root")

    @property
    def esp_serial(self) -> str:
        """FAT volume serial number as the kernel writes it: `1A2B-3C4D`."""
        digits = self.derived("esp").upper()
        return f"{digits[0:4]}-{digits[4:8]}"

    def derived(self, part: str) -> str:
        """A UUID that is the same for the same recipe."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.digest}/{part}"))


@dataclass(frozen=True)
class Source:
    """One suite of a Debian mirror."""

    uri: str
    suite: str


def plan_recipe(image: str, build: BuildSpec, shipped: Mapping[str, bytes]) -> Recipe:
    """The recipe for these packages and these shipped files (path to content)."""
    words = [image, build.model_dump(mode="json"), ASSEMBLY]
    hasher = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for path in sorted(shipped):
        hasher.update(f"\0{path}\0{len(shipped[path])}\0".encode() + shipped[path])
    return Recipe(image, build, hasher.hexdigest())


def plan_layout(size_bytes: int) -> DiskLayout:
    """Offsets for a disk of that size; all on MiB boundaries, the last MiB kept for the second GPT."""
    bios = Partition(14, _BIOS_BOOT, "bios", 1 * MIB, 3 * MIB)
    esp = Partition(15, _ESP, "esp", 4 * MIB, 60 * MIB)
    root_start = esp.start_bytes + esp.size_bytes
    root = Partition(1, _ROOT_X86_64, "root", root_start, size_bytes - root_start - MIB)
    return DiskLayout(size_bytes, bios, esp, root)


def sfdisk_script(layout: DiskLayout, recipe: Recipe) -> str:
    """The partition table in the words of sfdisk(8), in 512-byte sectors."""
    lines = ["label: gpt", f"label-id: {recipe.derived('disk')}", "unit: sectors", "sector-size: 512", ""]
    lines += [
        f"{part.number} : start={part.start_bytes // 512}, size={part.size_bytes // 512}, type={part.kind}, "
        f'uuid={recipe.derived(part.name)}, name="{part.name}"'
        for part in layout.partitions
    ]
    return "\n".join(lines) + "\n"


_FALLBACK: Final = {"": "http://mirror.example/debian", "-security": "http://mirror.example/debian-security"}


def plan_sources(suite: str, host: Sequence[Source]) -> tuple[Source, ...]:
    """The three suites of a release, from the mirrors this machine already uses, else Debian's own.

    `host` is what the machine's apt reads; only archives whose path ends in `debian` or `debian-security`
    count.
    """
    mirrors = dict(_FALLBACK)
    for source in reversed(host):
        for kind in _FALLBACK:
            if source.uri.endswith(f"/debian{kind}"):
                mirrors[kind] = source.uri
    return (
        Source(mirrors[""], suite),
        Source(mirrors[""], f"{suite}-updates"),
        Source(mirrors["-security"], f"{suite}-security"),
    )
