"""Building images here: one at a time, cached, each step either done or not begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined
from platformdirs import user_cache_path

from vi_ops import __version__
from vi_ops.errors import SpecError
from vi_ops.execute.bootstrap import (
    Tell,
    bootstrap,
    check_tools,
    known_archives,
    newest_release,
    pack_overlay,
)
from vi_ops.execute.disk_image import DiskBuild, run_tool, sha256_of
from vi_ops.execute.lock import hold_lock
from vi_ops.facts.image import BuiltImage, parse_built_image, parse_dpkg_status
from vi_ops.plan.image import Recipe, Source, plan_recipe, plan_sources
from vi_ops.share import share_path
from vi_ops.specs.image import ImageSpec

# A build takes one to three minutes; whoever waits for another one waits no longer than this.
BUILD_DEADLINE_S: Final = 1800.0


def cache_dir() -> Path:
    """`VI_OPS_CACHE_DIR`, else the platform's place for caches (`~/.cache/vi-ops`)."""
    given = os.environ.get("VI_OPS_CACHE_DIR")
    return Path(given) if given else user_cache_path("vi-ops")


def image_path(name: str) -> Path:
    """Where the built image of that name lies, or would lie."""
    return cache_dir() / "images" / f"{name}.qcow2"


def read_built(name: str) -> BuiltImage | None:
    """The record of the built image; None when there is none, or the file is not the one recorded."""
    path = image_path(name)
    try:
        built = parse_built_image(path.with_suffix(".json").read_text("utf-8"))
        return built if built and path.stat().st_size == built.size_bytes else None
    except OSError:
        return None


def recipe_of(spec: ImageSpec) -> Recipe:
    """The recipe of an image that can be built. Raises SpecError `image-not-built-here`."""
    if spec.build is None:
        raise SpecError(
            "image-not-built-here",
            f"{spec.name} is published ready-made and has no recipe here",
            hint=f"`vi-ops image fetch {spec.name}` has a node download it",
        )
    return plan_recipe(spec.name, spec.build, _shipped(spec.name))


def build_image(
    spec: ImageSpec, tell: Tell, *, again: bool = False, mirror: str | None = None
) -> tuple[BuiltImage, bool]:
    """Build the image unless it stands already; gives its record, and whether anything was done.

    `again` builds even so: the mirror may have newer packages. `mirror` is the URL of the Debian archive to
    take them from, else the one that this machine uses. Raises Refused, SpecError, Unreachable, StepFailed
    and LockHeld.
    """
    recipe = recipe_of(spec)
    folder = image_path(spec.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    subject = f"the build of {spec.name}"
    lock = folder / f"{spec.name}.lock"
    with hold_lock(lock, subject, f"image build {spec.name}", wait_s=BUILD_DEADLINE_S, tell=tell):
        built = read_built(spec.name)
        if built and built.recipe == recipe.digest and not again:
            return built, False
        check_tools()
        sources = plan_sources(recipe.build.suite, mirror, known_archives())
        return _build(recipe, sources, folder, tell), True


def _build(recipe: Recipe, sources: Sequence[Source], folder: Path, tell: Tell) -> BuiltImage:
    epoch = newest_release(sources)
    tell(f"Debian {recipe.build.suite} from {sources[0].uri}")
    with _workplace(folder, f"{recipe.image}-{recipe.digest[:12]}-{epoch}") as work:
        tar = work / "system.tar"
        if not tar.exists():
            shutil.rmtree(work)
            work.mkdir()
            _system(recipe, sources, tar, epoch, tell)
        disk, image = work / "disk.raw", work / "disk.qcow2"
        parts = work / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        DiskBuild(recipe, tar, parts, epoch).write(disk, tell)
        tell("compressing")
        run_tool(
            ["qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", str(disk), str(image)]
        )
        built = BuiltImage(
            recipe.image,
            recipe.digest,
            epoch,
            sha256_of(image),
            image.stat().st_size,
            sha256_of(disk),
            disk.stat().st_size,
            _packages(tar),
            _tool_versions(),
        )
        _publish(built, image, folder)
    return built


def _system(recipe: Recipe, sources: Sequence[Source], tar: Path, epoch: int, tell: Tell) -> None:
    files = _rendered(recipe)
    early, late = tar.with_name("early.tar"), tar.with_name("late.tar")
    part = tar.with_name(f"system.tar.part{os.getpid()}")
    for overlay, folder in ((early, "early/"), (late, "late/")):
        chosen = {path.removeprefix(folder): text for path, text in files.items() if path.startswith(folder)}
        pack_overlay(chosen, overlay, epoch)
    customize = files["customize.sh"].decode()
    bootstrap(part, recipe.build.packages, sources, (early, late), customize, epoch, tell)
    part.rename(tar)


def _publish(built: BuiltImage, image: Path, folder: Path) -> None:
    """Replace the image, then its record: a record that does not fit its file counts as none."""
    record = image.with_suffix(".json")
    record.write_text(built.to_json(), "utf-8")
    for source in (image, record):
        with source.open("rb") as file:
            os.fsync(file.fileno())
    image.replace(folder / f"{built.name}.qcow2")
    record.replace(folder / f"{built.name}.json")


@contextmanager
def _workplace(folder: Path, key: str) -> Iterator[Path]:
    """A folder for these inputs; it stays when the build is cut off, so that the next one goes on from it."""
    work = folder / "building" / key
    for stale in folder.glob("building/*"):
        if stale != work:
            shutil.rmtree(stale)
    work.mkdir(parents=True, exist_ok=True)
    yield work
    shutil.rmtree(folder / "building")


def _shipped(name: str) -> dict[str, bytes]:
    root = share_path("templates") / "image" / name
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _rendered(recipe: Recipe) -> Mapping[str, bytes]:
    render = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string  # noqa: S701
    words = {"root_uuid": recipe.root_uuid, "esp_serial": recipe.esp_serial, "suite": recipe.build.suite}
    return {
        path.removesuffix(".j2"): render(text.decode()).render(words).encode()
        if path.endswith(".j2")
        else text
        for path, text in _shipped(recipe.image).items()
    }


def _packages(tar: Path) -> dict[str, str]:
    with tarfile.open(tar) as archive:
        status = archive.extractfile("./var/lib/dpkg/status")
        assert status is not None  # noqa: S101
        return parse_dpkg_status(status.read().decode())


def _tool_versions() -> dict[str, str]:
    """What of this machine took part: it should not matter, and is looked at first when a hash differs."""
    asked = {
        "mmdebstrap": ["mmdebstrap", "--version"],
        "qemu-img": ["qemu-img", "--version"],
        "mtools": ["mcopy", "--version"],
    }
    versions = {"vi-ops": __version__}
    for tool, argv in asked.items():
        said = subprocess.run(argv, capture_output=True, text=True, check=False)
        versions[tool] = ((said.stdout or said.stderr).splitlines() or ["unknown"])[0]
    return versions
