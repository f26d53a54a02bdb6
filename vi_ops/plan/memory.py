"""How much memory a VM may have before its node is in danger: a model of what else needs RAM.

The model sums triangular terms (low, mode, high) for everything beside guest RAM, adds page tables in
proportion to guest RAM, and keeps a floor free. docs/memory.md tells the reasons and the sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

MINIMUM_MIB = 512
Z_SAFE = 3.09  # 99.9 % of the prior
Z_TIGHT = 1.64  # 95 % of the prior

# One level-1 page table entry of 8 bytes for each 4 KiB page is 1/512 of the memory. QEMU's own table, KVM's
# nested table and, with VFIO, the IOMMU's: up to three of them. Measured: VmPTE grew 2052 kB for each GiB.
_TABLE = 1 / 512


class Term(NamedTuple):
    """One need for memory, as a triangle in MiB."""

    name: str
    low: float
    mode: float
    high: float

    @property
    def mean(self) -> float:
        return (self.low + self.mode + self.high) / 3

    @property
    def variance(self) -> float:
        low, mode, high = self.low, self.mode, self.high
        return (low**2 + mode**2 + high**2 - low * mode - low * high - mode * high) / 18


@dataclass(frozen=True)
class HostMemory:
    """What of a node bears on its memory. Sizes in MiB; `total_mib` is MemTotal.

    `arc_limit_mib` is None without ZFS; `hugepages_mib` a pool that the guest to be sized does not use.
    """

    total_mib: float
    arc_limit_mib: float | None = None
    has_lvm_thin: bool = False
    backup: Literal["file", "pbs"] | None = None
    ceph_osds: int = 0
    hugepages_mib: float = 0


@dataclass(frozen=True)
class GuestLoad:
    """A guest as the node bears it. `memory_mib` is 0 for the guest that is to be sized."""

    vcpus: int
    disks: int = 1
    memory_mib: float = 0
    is_pinned: bool = False
    on_hugepages: bool = False
    vga_mib: float = 16

    @property
    def table_share(self) -> float:
        """Page tables as a share of the guest's memory, at worst."""
        return 0.0 if self.on_hugepages else (3 if self.is_pinned else 2) * _TABLE

    @property
    def booked_mib(self) -> float:
        return self.memory_mib * (1 + self.table_share)


@dataclass(frozen=True)
class MemorySize:
    """The answer, in MiB: at `edge` the node is expected to run out under stress, `safe` is the exact limit,
    `recommended` the same in whole steps. `dominant` names the largest needs beside the guest, largest first.
    """

    edge_mib: int
    safe_mib: int
    recommended_mib: int
    floor_mib: int
    dominant: tuple[tuple[str, int], ...]


def host_terms(host: HostMemory) -> tuple[Term, ...]:
    """The needs of the node itself, in MiB. The bands are judgement with evidence: see docs/memory.md."""
    total = host.total_mib
    watermark = 66 + 0.002 * total
    terms = [
        Term("Proxmox services", 900, 1400, 2560),
        Term("kernel", 192 + 0.002 * total, 256 + 0.004 * total, 384 + 0.01 * total),
        Term("watermarks", watermark, watermark, watermark),
        Term("page cache", 192, 384, 1024),
        Term("tmpfs", 32, min(128, 0.01 * total), min(1024, 0.05 * total)),
        Term("command bursts", 192, min(512, 0.03 * total), min(1536, 0.08 * total)),
    ]
    if host.arc_limit_mib is not None:
        arc = host.arc_limit_mib
        terms.append(Term("ZFS cache (ARC)", 0.85 * arc, arc, 1.15 * arc))
    if host.has_lvm_thin:
        terms.append(Term("LVM-thin metadata", 0, 64 + 0.0005 * total, 64 + 0.005 * total))
    if host.backup == "file":
        terms.append(Term("backup to files", 64, min(512, 0.015 * total), min(2048, 0.05 * total)))
    if host.backup == "pbs":
        terms.append(Term("backup to a backup server", 64, 128, 512))
    if host.ceph_osds:
        osds = host.ceph_osds
        terms.append(Term("Ceph OSDs", 4096 * osds, 5120 * osds, 6144 * osds))
    return tuple(terms)


def guest_terms(guest: GuestLoad, *, in_backup: bool) -> tuple[Term, ...]:
    """What one QEMU process takes beside the guest's RAM and its page tables, in MiB."""
    vga = Term("video", guest.vga_mib, guest.vga_mib, 2 * guest.vga_mib)
    terms = [
        Term("QEMU", 40, 128, 400),
        Term("vCPUs", guest.vcpus, 4 * guest.vcpus, 8 * guest.vcpus),
        Term("disk caches", guest.disks, 4 * guest.disks, 32 * guest.disks),
        vga,
    ]
    if in_backup:
        terms.append(Term("backup buffers", 64, 128, 256))
    return tuple(terms)


def right_size(host: HostMemory, target: GuestLoad, others: tuple[GuestLoad, ...] = ()) -> MemorySize | None:
    """The size for `target` beside `others` at their full size; None when less than 512 MiB would remain.

    Safe means: with the backup running, the ARC at its limit and every other guest full, the node keeps its
    floor free with 99.9 % of the prior. Whole steps are 1 GiB, below 32 GiB of MemTotal half of that.
    """
    backed_up = host.backup is not None  # one guest at a time: the node holds a lock for it
    terms = (*host_terms(host), *guest_terms(target, in_backup=backed_up))
    beside = [_beside(other.vcpus, other.disks, other.vga_mib) for other in others]
    taken = sum(other.booked_mib for other in others) + sum(mean for mean, _ in beside)
    deviation = math.sqrt(sum(term.variance for term in terms) + sum(variance for _, variance in beside))
    floor = min(4096.0, max(1024.0, 0.02 * host.total_mib))

    room = host.total_mib - host.hugepages_mib - taken - sum(term.mean for term in terms)
    share = target.table_share
    typical_share = (_TABLE + share) / 2 if share else 0.0
    safe = (room - Z_SAFE * deviation - floor) / (1 + share)
    if safe < MINIMUM_MIB:
        return None
    step = 512 if host.total_mib < 32 * 1024 else 1024
    recommended = math.floor(safe / step) * step
    return MemorySize(
        edge_mib=math.floor(room / (1 + typical_share)),
        safe_mib=math.floor(safe),
        recommended_mib=recommended,
        floor_mib=math.ceil(floor),
        dominant=_dominant(terms, taken, share * recommended),
    )


def held(present_mib: int, size: MemorySize) -> bool:
    """Whether a VM with automatic memory keeps what it has.

    It does while that is safe and at most 5 % or 2 GiB, whichever is more, below the recommendation: a new
    kernel or a stopped neighbour must not change the size, and cost a power cycle, in every run.
    """
    slack_mib = max(2048, size.recommended_mib // 20)
    return size.recommended_mib - slack_mib <= present_mib <= size.safe_mib


@cache
def _beside(vcpus: int, disks: int, vga_mib: float) -> tuple[float, float]:
    """Mean and variance of what another guest's QEMU takes; guests come in a few sizes, but in hundreds."""
    terms = guest_terms(GuestLoad(vcpus, disks, vga_mib=vga_mib), in_backup=False)
    return sum(term.mean for term in terms), sum(term.variance for term in terms)


def _dominant(terms: tuple[Term, ...], others: float, tables: float) -> tuple[tuple[str, int], ...]:
    needs = {"other guests": others, "page tables": tables} | {term.name: term.mean for term in terms}
    largest = sorted(needs.items(), key=lambda need: -need[1])[:4]
    return tuple((name, round(mib)) for name, mib in largest if mib >= 1)
