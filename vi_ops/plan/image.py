"""What an image is made of, decided before anything is touched: identities, layout, sources."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vi_ops.errors import Refused, SpecError
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


def plan_sources(suite: str, mirror: str | None, known: Sequence[str]) -> tuple[Source, ...]:
    """The three suites of a release: from `mirror` if one is named, else from the first of `known` that fits.

    A mirror that is named has the security updates beside it, at `<mirror>-security`. Of the known URLs those
    count whose path ends in `debian` or `debian-security`. Raises SpecError `image-mirror-url` and Refused
    `image-no-mirror`.
    """
    if mirror:
        main = _checked(mirror)
        security = f"{main}-security"
    else:
        main, security = (_first(known, f"/debian{kind}") for kind in ("", "-security"))
    return (Source(main, suite), Source(main, f"{suite}-updates"), Source(security, f"{suite}-security"))


def _checked(mirror: str) -> str:
    parts = urlsplit(mirror)
    if parts.scheme in ("http", "https") and parts.hostname and not re.search(r"[\s@?#\[\]]", mirror):
        return mirror.rstrip("/")
    raise SpecError(
        "image-mirror-url",
        "the mirror is not a plain http or https URL",
        hint="write it like --mirror http://mirror.example/debian, without user and password",
    )


def _first(known: Sequence[str], ending: str) -> str:
    for uri in known:
        if uri.startswith(("http://", "https://")) and uri.endswith(ending):
            return uri
    raise Refused(
        "image-no-mirror",
        f"no Debian mirror is known: neither apt nor mmdebstrap names a URL here that ends in {ending}",
        hint="name one, such as --mirror http://mirror.example/debian",
    )
