"""What must hold on a node before anything is written there: storage, room, image, bridge, threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vi_ops.facts.node import NodeFacts, StorageFacts
from vi_ops.plan.step import Finding
from vi_ops.plan.vm_config import THIN_TYPES, image_volid
from vi_ops.specs.image import find_image, image_catalogue
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.vm import VmSpec
from vi_ops.units import GIB, format_size

# A storage filled to the last byte stops its guests with io-error; thin storages fill as guests write.
_MARGIN_SHARE, _MARGIN_BYTES = 0.05, GIB
# What an installed cloud image with its base packages writes at least, on a thin storage.
_FIRST_BYTES = 4 * GIB


def check_creation(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts) -> tuple[Finding, ...]:
    """What stands against creating the VM on this node."""
    return (
        *check_disk_storage(spec, node),
        *check_image(spec, node_spec, node),
        *check_bridge(spec, node),
        *check_threads(spec, node),
    )


def check_disk_storage(spec: VmSpec, node: NodeFacts) -> Iterator[Finding]:
    """Storages of the disk and the cloud-init drive: known, active, for images, with room."""
    for name in dict.fromkeys((spec.disk.storage, spec.cloud_init.storage or spec.disk.storage)):
        storage = node.storages.get(name)
        if storage is None:
            yield Finding("storage-missing", f"{node.name} has no storage {name!r}", hint=_others(node))
        elif not storage.is_active:
            yield Finding(
                "storage-inactive",
                f"storage {name} of {node.name} is disabled or not reachable",
                hint="see `pvesm status` on the node",
            )
        elif "images" not in storage.content:
            yield Finding(
                "storage-content",
                f"storage {name} of {node.name} holds {_list(storage.content)}, no disk images",
                hint=_others(node),
            )
        elif name == spec.disk.storage:
            yield from check_room(storage, spec.disk.size)


def check_room(storage: StorageFacts, more_bytes: int) -> Iterator[Finding]:
    """Room for `more_bytes`. A thin storage may promise more than it has: that is told, not refused."""
    margin = max(_MARGIN_BYTES, int(more_bytes * _MARGIN_SHARE))
    available = storage.available_bytes
    at_least = min(more_bytes, _FIRST_BYTES) if storage.type in THIN_TYPES else more_bytes
    if available < at_least + margin:
        yield Finding(
            "storage-full",
            f"storage {storage.name} has {format_size(available)} left;"
            f" {format_size(at_least + margin)} are needed ({format_size(margin)} of it as a margin)",
            hint="free some room, choose another storage, or a smaller disk",
        )
    elif available < more_bytes + margin:
        yield Finding(
            "storage-overcommit",
            f"thin storage {storage.name} has {format_size(available)} left for a disk that may grow by"
            f" {format_size(more_bytes)}",
            hint="watch its fill: a guest whose storage is full stops with io-error",
            blocks=False,
        )


def check_image(spec: VmSpec, node_spec: NodeSpec, node: NodeFacts) -> Iterator[Finding]:
    """The image as a volume that the node can import, onto a disk that is large enough for it."""
    yield from _check_size(spec)
    volid = image_volid(spec, node_spec)
    storage, _, volume = volid.partition(":")
    if not volume.startswith("import/"):
        yield Finding(
            "image-not-importable",
            f"{volid}: a disk is imported only from a volume of content type import",
            hint=f"store it as {storage}:import/<name>.qcow2",
        )
    elif storage not in (*node.images, node_spec.image_storage):
        # Only the image storage is listed: what another one holds the node will say.
        if storage not in node.storages:
            yield Finding("storage-missing", f"{node.name} has no storage {storage!r}", hint=_others(node))
    elif volid not in node.images.get(storage, frozenset()):
        yield Finding("image-missing", f"{node.name} has no image {volid}", hint=_how_to_get(spec, node))


def _check_size(spec: VmSpec) -> Iterator[Finding]:
    """Of an image of one's own nothing is known: there the node refuses the resize, after the import."""
    least = 0 if ":" in spec.image else find_image(spec.image).least_disk
    if spec.disk.size < least:
        yield Finding(
            "disk-below-image",
            f"the disk in {spec.image} has at least {format_size(least)}, the inventory says"
            f" {format_size(spec.disk.size)}; a disk is never shrunk",
            hint=f"set disk.size to '{format_size(least)}' or more",
        )


def _how_to_get(spec: VmSpec, node: NodeFacts) -> str:
    storage, is_own, volume = spec.image.partition(":")
    if is_own:
        file = volume.removeprefix("import/")
        return f"put the file {file} on storage {storage} of {node.name} as content type import"
    hint = f"`vi-ops image fetch {spec.image}` has the node download it"
    if find_image(spec.image).build is None:
        return hint
    return (
        f"{hint}; one built here with `vi-ops image build` goes there with `vi-ops image push {spec.image}`"
    )


def check_known(spec: VmSpec) -> Iterator[Finding]:
    """The image's name, of a VM that needs none any more."""
    if ":" not in spec.image and spec.image not in image_catalogue():
        yield Finding(
            "image-unknown",
            f"no image is called {spec.image!r}: VM {spec.vmid} keeps its disk, but could not be made anew",
            hint=f"known images: {', '.join(image_catalogue())}",
            blocks=False,
        )


def check_bridge(spec: VmSpec, node: NodeFacts) -> Iterator[Finding]:
    """The bridge of net0."""
    if spec.network.bridge not in node.bridges:
        yield Finding(
            "bridge-missing",
            f"{node.name} has no bridge {spec.network.bridge!r}",
            hint=f"it has {_list(node.bridges)}" if node.bridges else "it has no bridge at all",
        )


def check_threads(spec: VmSpec, node: NodeFacts) -> Iterator[Finding]:
    """vCPUs against host threads: above that the node refuses the start, not the config."""
    vcpus = spec.cpu.sockets * spec.cpu.cores
    if node.is_seen and vcpus > node.cpus:
        yield Finding(
            "cpu-too-many",
            f"{spec.cpu.sockets} x {spec.cpu.cores} = {vcpus} vCPUs are more than the"
            f" {node.cpus} threads of {node.name}, which would refuse to start it",
            hint=f"lower cpu.sockets or cpu.cores: at most {node.cpus} in all",
        )


def _others(node: NodeFacts) -> str:
    fit = [name for name, one in node.storages.items() if one.is_active and "images" in one.content]
    return f"storages for disk images there: {_list(fit)}"


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"
