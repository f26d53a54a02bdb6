"""The catalogue, the recipe and the plans of images: pure values."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from urllib.parse import urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vi_ops.errors import Refused, SpecError
from vi_ops.facts.image import (
    BuiltImage,
    Published,
    StoredVolume,
    find_stored,
    parse_built_image,
    parse_checksums,
    parse_dpkg_status,
)
from vi_ops.facts.node import StorageFacts
from vi_ops.plan.image import Recipe, Source, plan_layout, plan_recipe, plan_sources, sfdisk_script
from vi_ops.plan.image_store import check_store, plan_fetch, plan_push
from vi_ops.plan.step import PveCall
from vi_ops.specs.image import BuildSpec, find_image, image_catalogue
from vi_ops.units import GIB, MIB

CATALOGUE = image_catalogue()
UBUNTU = CATALOGUE["ubuntu-24.04"]
BUILD = BuildSpec(suite="trixie", disk=2 * GIB, packages=("cloud-init", "openssh-server"))
BUILT = BuiltImage("debian-13", "r", 1, "ab" * 32, 157_000_000, "cd" * 32, 2 * GIB, {"bash": "5"}, {})
PUBLISHED = Published("sha256", "ef" * 32, 618_925_568)


@pytest.mark.parametrize("spec", CATALOGUE.values(), ids=list(CATALOGUE))
def test_an_image_is_published_with_its_fingerprints(spec: object) -> None:
    assert isinstance(spec, type(UBUNTU))
    image, sums = urlparse(spec.url), urlparse(spec.checksums_url)
    assert image.scheme == sums.scheme == "https"
    assert (image.netloc, Path(image.path).parent) == (sums.netloc, Path(sums.path).parent)
    assert sums.path.endswith(f"{spec.algorithm.upper()}SUMS")
    assert "genericcloud" not in image.path  # its kernel may not find the cloud-init drive
    assert Path(spec.file).stem == spec.name
    assert Path(spec.file).suffix == ".qcow2"  # `.img` is refused for content `import`


def test_the_brief_has_its_images() -> None:
    assert set(CATALOGUE) == {"ubuntu-24.04", "ubuntu-22.04", "debian-12", "debian-13"}
    assert CATALOGUE["debian-13"].build is not None


def test_an_unknown_image_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SpecError) as caught:
        find_image("ubuntu-2404")
    assert caught.value.code == "image-unknown"
    assert "ubuntu-24.04" in str(caught.value.hint)


@given(st.integers(min_value=1, max_value=64).map(lambda gib: gib * GIB))
def test_partitions_are_aligned_apart_and_inside(size_bytes: int) -> None:
    layout = plan_layout(size_bytes)
    ordered = sorted(layout.partitions, key=lambda part: part.start_bytes)
    assert ordered[-1] is layout.root  # last, so that it grows with the disk
    assert ordered[0].start_bytes >= MIB
    for before, after in itertools.pairwise(ordered):
        assert before.start_bytes + before.size_bytes <= after.start_bytes
    assert all(part.start_bytes % MIB == 0 and part.size_bytes % MIB == 0 for part in ordered)
    assert layout.root.start_bytes + layout.root.size_bytes <= size_bytes - MIB


def recipe(build: BuildSpec = BUILD, **files: bytes) -> Recipe:
    return plan_recipe("debian-13", build, files or {"customize.sh": b"true\n"})


def test_the_same_recipe_has_the_same_identities() -> None:
    one, two = recipe(), recipe()
    assert one == two
    assert uuid.UUID(one.root_uuid) == uuid.UUID(two.root_uuid)
    assert len({one.derived(part) for part in ("root", "esp", "disk", "hash")}) == 4


@pytest.mark.parametrize(
    "other",
    [
        recipe(BUILD.model_copy(update={"packages": ("cloud-init",)})),
        recipe(BUILD.model_copy(update={"disk": 3 * GIB})),
        recipe(**{"customize.sh": b"false\n"}),
        recipe(**{"customize.sh": b"true\n", "late/etc/hosts": b""}),
        recipe(**{"other.sh": b"true\n"}),
    ],
    ids=["packages", "disk", "content", "one more file", "file name"],
)
def test_whatever_changes_the_image_changes_the_recipe(other: Recipe) -> None:
    assert other.digest != recipe().digest
    assert other.root_uuid != recipe().root_uuid


def test_the_partition_table_carries_derived_identities() -> None:
    made = recipe()
    script = sfdisk_script(plan_layout(2 * GIB), made)
    assert f"label-id: {made.derived('disk')}" in script
    assert all(made.derived(part) in script for part in ("root", "bios", "esp"))
    assert len(made.esp_serial) == 9
    assert made.esp_serial[4] == "-"


NEAR = "http://near.example/debian"
FAR = ("http://far.example/debian", "http://far.example/debian-security")


@pytest.mark.parametrize(
    ("mirror", "known", "main", "security"),
    [
        (None, FAR, FAR[0], FAR[1]),
        (None, (NEAR, *FAR), NEAR, FAR[1]),
        (None, ("http://x.example/ubuntu", "https://x.example/node_20.x", *FAR), FAR[0], FAR[1]),
        (None, ("mirror+file:/etc/apt/mirrors/debian", "cdrom:/debian", *FAR), FAR[0], FAR[1]),
        (f"{NEAR}/", FAR, NEAR, f"{NEAR}-security"),
        (
            "https://near.example:3142/cache/trixie",
            FAR,
            *(f"https://near.example:3142/cache/trixie{end}" for end in ("", "-security")),
        ),
    ],
    ids=["as apt", "first wins", "others are passed over", "http only", "named", "named freely"],
)
def test_packages_come_from_the_named_mirror_else_from_the_first_known(
    mirror: str | None, known: tuple[str, ...], main: str, security: str
) -> None:
    assert plan_sources("trixie", mirror, known) == (
        Source(main, "trixie"),
        Source(main, "trixie-updates"),
        Source(security, "trixie-security"),
    )


@pytest.mark.parametrize("known", [(), FAR[:1], FAR[1:]], ids=["none", "no security", "only security"])
def test_without_a_mirror_it_asks_for_one(known: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as caught:
        plan_sources("trixie", None, known)
    assert caught.value.code == "image-no-mirror"
    assert "--mirror http" in str(caught.value.hint)


@pytest.mark.parametrize(
    "mirror",
    [
        *("ftp://near.example/debian", "near.example/debian", "http:///debian", "http://a b.example/debian"),
        *("[trusted=yes] http://near.example/debian", "http://smith:word@near.example/debian"),
    ],
)
def test_a_mirror_that_would_be_more_than_an_address_is_an_error(mirror: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_sources("trixie", mirror, FAR)
    assert caught.value.code == "image-mirror-url"
    assert "word" not in f"{caught.value.message} {caught.value.hint}".replace("password", "")


def test_fingerprints_are_found_in_both_forms_of_list() -> None:
    listed = f"{'AB' * 32} *noble-server-cloudimg-amd64.img\n{'cd' * 64}  debian-13.qcow2\n"
    assert parse_checksums(listed, "noble-server-cloudimg-amd64.img") == "ab" * 32
    assert parse_checksums(listed, "debian-13.qcow2") == "cd" * 64
    assert parse_checksums(listed, "debian-13") is None
    assert parse_checksums("", "x") is None


def test_only_installed_packages_count() -> None:
    status = (
        "Package: bash\nStatus: install ok installed\nVersion: 5.2.37-2\nDescription: shell\n more: text\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert parse_dpkg_status(status) == {"bash": "5.2.37-2"}


def test_a_record_is_read_back_and_a_damaged_one_is_none() -> None:
    assert parse_built_image(BUILT.to_json()) == BUILT
    assert parse_built_image("{") is None
    assert parse_built_image('{"name": "debian-13"}') is None
    assert parse_built_image("[]") is None


def test_a_stored_image_is_found_by_its_file_name() -> None:
    rows = [
        {"volid": "local:import/old-ubuntu-24.04.qcow2", "size": 1},
        {"volid": "local:import/ubuntu-24.04.qcow2", "size": 2},
    ]
    assert find_stored(rows, "ubuntu-24.04.qcow2") == StoredVolume("local:import/ubuntu-24.04.qcow2", 2)
    assert find_stored(rows, "debian-13.qcow2") is None


def storage(
    name: str = "local", content: tuple[str, ...] = ("import",), is_active: bool = True
) -> StorageFacts:
    return StorageFacts(name, "dir", frozenset(content), is_active, GIB, GIB)


@pytest.mark.parametrize(
    ("storages", "words", "hint"),
    [
        ((storage(),), None, None),
        ((storage(content=("iso", "backup")),), "holds backup, iso, but no 'import'", "pvesm set local"),
        ((storage("nas"),), "no storage 'local'", "nas"),
        ((storage(is_active=False),), "not active", "pvesm"),
        ((storage(content=("iso",)), storage("nas")), "no 'import'", "has it: nas"),
    ],
    ids=["fits", "no import", "absent", "inactive", "another would"],
)
def test_a_storage_that_cannot_hold_images_is_refused_with_one_that_can(
    storages: tuple[StorageFacts, ...], words: str | None, hint: str | None
) -> None:
    found = check_store("pve1", "local", storages)
    if words is None or hint is None:
        assert found is None
        return
    assert found is not None
    assert found.blocks
    assert words in found.message
    assert hint in str(found.hint)


def test_an_absent_image_is_fetched_with_its_fingerprint() -> None:
    plan = plan_fetch(UBUNTU, "pve1", "local", PUBLISHED, None)
    (step,) = plan.steps
    assert isinstance(step.do, PveCall)
    assert step.do.path == "/nodes/pve1/storage/local/download-url"
    assert step.do.params == {
        "content": "import",
        "url": UBUNTU.url,
        "filename": "ubuntu-24.04.qcow2",
        "checksum": PUBLISHED.checksum,
        "checksum-algorithm": "sha256",
    }


@pytest.mark.parametrize(("size_bytes", "codes"), [(PUBLISHED.size_bytes, []), (7, ["image-other-build"])])
def test_an_image_that_is_there_is_kept(size_bytes: int, codes: list[str]) -> None:
    stored = StoredVolume("local:import/ubuntu-24.04.qcow2", size_bytes)
    plan = plan_fetch(UBUNTU, "pve1", "local", PUBLISHED, stored)
    assert not plan.steps
    assert plan.unchanged
    assert not plan.is_blocked
    assert [finding.code for finding in plan.findings] == codes


def test_a_built_image_is_sent_unless_it_is_there() -> None:
    debian = CATALOGUE["debian-13"]
    volid = "local:import/debian-13.qcow2"
    assert plan_push(debian, "pve1", "local", BUILT, None).steps
    assert plan_push(debian, "pve1", "local", BUILT, StoredVolume(volid, 5)).steps
    there = plan_push(debian, "pve1", "local", BUILT, StoredVolume(volid, BUILT.size_bytes))
    assert not there.steps
    assert there.unchanged
