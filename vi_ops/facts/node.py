"""What a node is, as its API tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vi_ops.errors import FactError
from vi_ops.facts.access import Rights, parse_rights
from vi_ops.facts.answer import integer_of, mapping_of, rows_of

_BRIDGES: Final = frozenset({"bridge", "OVSBridge", "vnet"})


@dataclass(frozen=True)
class StorageFacts:
    """One storage. Sizes in bytes; `content` are the words of Proxmox: images, import, iso, backup.

    A storage that is not active tells no sizes: they are 0, because nothing fits there.
    """

    name: str
    type: str
    content: frozenset[str]
    is_active: bool
    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class GuestSummary:
    """One row of `GET /nodes/{node}/qemu?full=1`. `qmpstatus` is QEMU's word: running, paused.

    `memory_next_bytes` is what a running guest of the inventory gets at its next start; 0 where nobody asked.
    """

    vmid: int
    name: str
    status: str
    memory_max_bytes: int
    is_template: bool = False
    tags: tuple[str, ...] = ()
    qmpstatus: str = ""
    uptime_s: int = 0
    memory_next_bytes: int = 0


@dataclass(frozen=True)
class NodeFacts:
    """One node at one moment. `permissions` is the effective tree of `GET /access/permissions`.

    `images` maps a storage name to the volids with content `import` that it holds. `permissions_here` are
    those of `permissions` that do not reach below their path. `physical` is False for a node in a VM.
    `vnets` are those of `bridges` that lie in an SDN zone, which the node does not name.
    `taken` says in words what has a vmid elsewhere in the cluster, or is a container here.
    Processors and memory are 0 where the login may not see them: it lacks Sys.Audit on the node.
    """

    name: str
    release: str
    version: str
    cpus: int
    memory_total_bytes: int
    memory_used_bytes: int
    storages: Mapping[str, StorageFacts] = field(default_factory=dict)
    bridges: frozenset[str] = frozenset()
    guests: Mapping[int, GuestSummary] = field(default_factory=dict)
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    permissions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    permissions_here: Mapping[str, frozenset[str]] = field(default_factory=dict)
    physical: bool = True
    uptime_s: int | None = None
    kernel: str | None = None
    vnets: frozenset[str] = frozenset()
    taken: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_seen(self) -> bool:
        """Whether processors and memory are known."""
        return self.memory_total_bytes > 0

    @property
    def major(self) -> int:
        return int(self.release.split(".", 1)[0])

    @property
    def rights(self) -> Rights:
        """What our login may do on this node."""
        return Rights(self.permissions, self.permissions_here)


@dataclass(frozen=True)
class NodeAnswers:
    """What the node said, as it came: one field for each call of `look_at_node`.

    `is_seen` is False where the login was refused the status.
    """

    status: Any
    storage: Any = None
    network: Any = None
    qemu: Any = None
    permissions: Any = None
    version: Any = None
    images: Mapping[str, Any] = field(default_factory=dict)
    is_seen: bool = True


def parse_node(name: str, answers: NodeAnswers) -> NodeFacts:
    """A node from its answers. Rows that lack what names them are left out; other gaps are told as absent.

    Raises FactError where processors or memory are missing, because no plan can be made without them.
    """
    status = mapping_of(answers.status)
    cpu, memory = mapping_of(status.get("cpuinfo")), mapping_of(status.get("memory"))
    cpus = total = used = 0
    try:
        if answers.is_seen:
            cpus, total, used = int(cpu["cpus"]), int(memory["total"]), int(memory["used"])
    except (KeyError, TypeError, ValueError) as error:
        raise FactError(
            "node-status", f"node {name} tells no processors or memory: {str(status)[:200]}"
        ) from error
    version = parse_version(status, answers.version)
    rights = parse_rights(answers.permissions)
    return NodeFacts(
        name=name,
        release=".".join(version.split(".")[:2]),
        version=version,
        cpus=cpus,
        memory_total_bytes=total,
        memory_used_bytes=used,
        storages={storage.name: storage for storage in parse_storages(answers.storage)},
        bridges=frozenset(parse_bridges(answers.network)),
        vnets=frozenset(parse_bridges(answers.network, frozenset({"vnet"}))),
        guests={guest.vmid: guest for guest in parse_guests(answers.qemu)},
        images={storage: frozenset(parse_volids(rows)) for storage, rows in answers.images.items()},
        permissions=rights.granted,
        permissions_here=rights.local,
        # The processor flag by which any kernel knows that it runs in a VM.
        physical="hypervisor" not in str(cpu.get("flags", "")).split(),
        uptime_s=integer_of(status.get("uptime")),
        kernel=mapping_of(status.get("current-kernel")).get("release"),
    )


def parse_version(status: object, version: object) -> str:
    """`9.2.4` from `pve-manager/9.2.4/…` in the node's status, else from `GET /version`. Raises FactError."""
    text = str(mapping_of(status).get("pveversion", ""))
    if match := re.match(r"pve-manager/(\d+\.\d+[^/\s]*)", text):
        return match[1]
    said = str(mapping_of(version).get("version") or mapping_of(version).get("release") or "")
    if not re.match(r"\d+\.\d+", said):
        raise FactError("node-version", f"expected a version of Proxmox VE, got {text or said!r}")
    return said


def parse_storages(rows: object) -> Iterator[StorageFacts]:
    """Storages of `GET /nodes/{node}/storage`."""
    for row in rows_of(rows):
        if name := row.get("storage"):
            content = frozenset(filter(None, str(row.get("content", "")).split(",")))
            total, available = integer_of(row.get("total")) or 0, integer_of(row.get("avail")) or 0
            is_active = bool(integer_of(row.get("active")))
            yield StorageFacts(
                str(name), str(row.get("type", "unknown")), content, is_active, total, available
            )


def parse_bridges(rows: object, types: frozenset[str] = _BRIDGES) -> Iterator[str]:
    """Names of the bridges among `GET /nodes/{node}/network`."""
    for row in rows_of(rows):
        if row.get("iface") and row.get("type") in types:
            yield str(row["iface"])


def parse_guests(rows: object) -> Iterator[GuestSummary]:
    """Guests of `GET /nodes/{node}/qemu`. A guest that tells no status is `unknown`."""
    for row in rows_of(rows):
        vmid = integer_of(row.get("vmid"))
        if vmid is None:
            continue
        yield GuestSummary(
            vmid=vmid,
            name=str(row.get("name") or f"VM {vmid}"),
            status=str(row.get("status", "unknown")),
            memory_max_bytes=integer_of(row.get("maxmem")) or 0,
            is_template=bool(integer_of(row.get("template"))),
            tags=tuple(filter(None, re.split(r"[;,\s]+", str(row.get("tags") or "")))),
            qmpstatus=str(row.get("qmpstatus", "")),
            uptime_s=integer_of(row.get("uptime")) or 0,
        )


def parse_volids(rows: object) -> Iterator[str]:
    """Volume ids of `GET /nodes/{node}/storage/{storage}/content`."""
    return (str(row["volid"]) for row in rows_of(rows) if row.get("volid"))


def parse_taken(rows: object, node: str) -> dict[int, str]:
    """What else than a VM of `node` has a vmid, by vmid, from `GET /cluster/resources?type=vm`."""
    taken: dict[int, str] = {}
    for row in rows_of(rows):
        vmid, kind, where = integer_of(row.get("vmid")), row.get("type"), row.get("node")
        if vmid is not None and (kind, where) != ("qemu", node):
            what = "container" if kind == "lxc" else "VM"
            taken[vmid] = f"{what} {row.get('name') or vmid} on {where}"
    return taken
