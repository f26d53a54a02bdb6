"""The catalogue of cloud images: where each is published, and how one is built here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from vi_ops.errors import SpecError
from vi_ops.specs.model import SizeBytes, Spec


class BuildSpec(Spec):
    """A Debian system made from packages: its suite, its packages, the size of its disk."""

    suite: Annotated[str, Field(pattern="^[a-z]+$")]
    disk: SizeBytes
    packages: tuple[str, ...]


class ImageSpec(Spec):
    """One cloud image. `file` is its name in a Proxmox storage with content `import`.

    The disk in it has at least `least_disk` (bytes).
    """

    name: str
    title: str
    url: Annotated[str, Field(pattern="^https://")]
    checksums_url: Annotated[str, Field(pattern="^https://")]
    algorithm: Literal["sha256", "sha512"]
    file: Annotated[str, Field(pattern=r"^[a-z0-9.-]+\.(qcow2|raw|vmdk)$")]
    least_disk: SizeBytes
    build: BuildSpec | None = None


@cache
def image_catalogue() -> Mapping[str, ImageSpec]:
    """Every image by name, in the order of the file."""
    tables = tomllib.loads(files("vi_ops.specs").joinpath("images.toml").read_text("utf-8"))
    return {name: ImageSpec(name=name, **table) for name, table in tables.items()}


def find_image(name: str) -> ImageSpec:
    """The image of that name. Raises: SpecError `image-unknown` with the names there are."""
    catalogue = image_catalogue()
    if name not in catalogue:
        known = ", ".join(catalogue)
        raise SpecError("image-unknown", f"no image is called {name!r}", hint=f"known images: {known}")
    return catalogue[name]
