"""The sizing model: its reference vectors, its properties, and when an automatic size stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plan_ground import CASES, Case, load_yaml
from vi_ops.plan.memory import GuestLoad, HostMemory, MemorySize, held, right_size

VECTORS = load_yaml(CASES / "memory.yml")
# Published results of the same model for 128 717 MiB, 16 vCPUs, 2 disks, one card: (host, recommended, edge)
# in GiB, by drawing 40 000 times instead of by the closed form.
DRAWN = [
    (HostMemory(128717, has_lvm_thin=True, backup="file"), 114.3, 119.2),
    (HostMemory(128717, has_lvm_thin=True, backup="pbs"), 115.4, 119.8),
    (HostMemory(128717, arc_limit_mib=12871.7, backup="file"), 101.2, 107.0),
    (HostMemory(128717, arc_limit_mib=4096, backup="file"), 110.6, 115.5),
    (HostMemory(128717, arc_limit_mib=2048, backup="file"), 112.6, 117.5),
]
TARGET = GuestLoad(vcpus=16, disks=2, is_pinned=True)
HOSTS = st.builds(
    HostMemory,
    total_mib=st.integers(2048, 2**20),
    arc_limit_mib=st.none() | st.integers(64, 65536),
    has_lvm_thin=st.booleans(),
    backup=st.sampled_from([None, "file", "pbs"]),
)
GUESTS = st.builds(
    GuestLoad,
    vcpus=st.integers(1, 128),
    disks=st.integers(1, 8),
    is_pinned=st.booleans(),
    on_hugepages=st.booleans(),
)


def size_of(case: Case) -> MemorySize | None:
    others = tuple(GuestLoad(**other) for other in case.get("others", ()))
    return right_size(HostMemory(**case["host"]), GuestLoad(**case["guest"]), others)


def at_most(smaller: MemorySize | None, larger: MemorySize | None) -> bool:
    return smaller is None or (larger is not None and smaller.safe_mib <= larger.safe_mib)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["about"])
def test_vector(case: Case) -> None:
    size = size_of(case)
    told = (size.floor_mib, size.safe_mib, size.recommended_mib) if size else (None, None, None)
    assert told == (case.get("floor"), case.get("safe"), case.get("recommended"))


@pytest.mark.parametrize(("host", "recommended_gib", "edge_gib"), DRAWN)
def test_agrees_with_random_draws(host: HostMemory, recommended_gib: float, edge_gib: float) -> None:
    size = right_size(host, TARGET)
    assert size
    assert -0.8 <= size.safe_mib / 1024 - recommended_gib <= 0.1
    assert size.edge_mib / 1024 == pytest.approx(edge_gib, abs=0.1)


@given(host=HOSTS, guest=GUESTS)
def test_recommends_whole_steps_that_fit(host: HostMemory, guest: GuestLoad) -> None:
    size = right_size(host, guest)
    if size is None:
        return
    assert size.recommended_mib >= 512
    assert size.recommended_mib % (512 if host.total_mib < 32768 else 1024) == 0
    assert size.recommended_mib <= size.safe_mib < size.edge_mib
    assert size.safe_mib * (1 + guest.table_share) + size.floor_mib <= host.total_mib + 1


@given(host=HOSTS, guest=GUESTS, more=st.integers(1, 4096))
def test_less_is_left_where_more_is_needed(host: HostMemory, guest: GuestLoad, more: int) -> None:
    size = right_size(host, guest)
    other = GuestLoad(vcpus=1, memory_mib=more)
    assert at_most(right_size(replace(host, total_mib=host.total_mib - more), guest), size)
    assert at_most(right_size(replace(host, hugepages_mib=more), guest), size)
    assert at_most(right_size(replace(host, arc_limit_mib=(host.arc_limit_mib or 0) + more), guest), size)
    assert at_most(right_size(host, replace(guest, vcpus=guest.vcpus + more)), size)
    assert at_most(right_size(host, replace(guest, disks=guest.disks + more)), size)
    assert at_most(right_size(host, guest, (other,)), size)
    assert at_most(size, right_size(host, replace(guest, on_hugepages=True)))
    assert at_most(right_size(host, replace(guest, is_pinned=True)), size)


def test_names_what_takes_most() -> None:
    size = right_size(
        HostMemory(128717, arc_limit_mib=12872, backup="file"), TARGET, (GuestLoad(4, memory_mib=16384),)
    )
    assert size
    assert [name for name, _ in size.dominant[:2]] == ["other guests", "ZFS cache (ARC)"]


@pytest.mark.parametrize(
    ("present_mib", "stays"),
    [(116736, True), (116946, True), (116947, False), (110900, True), (110899, False), (512, False)],
)
def test_holds_what_is_safe_and_near(present_mib: int, stays: bool) -> None:
    size: Any = size_of(VECTORS[0])
    assert held(present_mib, size) is stays


def test_holds_within_2_gib_where_5_percent_are_less() -> None:
    size: Any = size_of(VECTORS[6])
    assert held(9216 - 2048, size)
    assert not held(9216 - 2049, size)


@given(host=HOSTS, drift=st.integers(-256, 256))
def test_never_flaps(host: HostMemory, drift: int) -> None:
    """Whatever a kernel update does to MemTotal, going there and back changes the size at most once."""
    drifted = replace(host, total_mib=host.total_mib + drift)
    present, changes = None, 0
    for one in (host, drifted, host, drifted):
        size = right_size(one, TARGET)
        if size is None:
            return
        if present is None or not held(present, size):
            changes += present is not None
            present = size.recommended_mib
    assert changes <= 1
