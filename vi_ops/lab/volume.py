"""Volumes of a directory storage: made, imported, grown, cloned, freed. Names as Proxmox gives them.

Sparse raw and thin qcow2: a volume takes the room that its guest has written. All functions raise GuestError
with a text that a Proxmox task could end with. Source: pve-storage, PVE/Storage/Plugin.pm.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from vi_ops.lab.guest_error import GuestError
from vi_ops.lab.node import Node
from vi_ops.lab.program import Log, qemu_img, run, silent
from vi_ops.lab.storage import Volume
from vi_ops.units import format_size

FIRMWARE: Final = Path("/usr/share/OVMF")
CLOUDINIT_BYTES: Final = 4 * 1024**2
# Proxmox's own create options; `Formatting '...'` in its task logs is what qemu-img prints for them.
_CREATE: Final = {
    "raw": "preallocation=off",
    "qcow2": "preallocation=off",
    "vmdk": "subformat=monolithicSparse",
}


def path(node: Node, volid: str) -> Path:
    """The file of a volume; it need not exist."""
    return node.volume(volid).path


def volumes(node: Node, vmid: int) -> list[str]:
    """The volids of every disk image that belongs to a VM, on all storages, by name."""
    return sorted(v.volid for storage in node.storages.values() for v in storage.volumes() if v.vmid == vmid)


async def allocate(
    node: Node,
    storage: str,
    vmid: int,
    size_bytes: int,
    *,
    volume_format: str = "qcow2",
    name: str | None = None,
    log: Log = silent,
) -> str:
    """Make an empty volume of `size_bytes` and give its volid, the lowest free number unless `name` says."""
    volume = _new(node, storage, vmid, volume_format, name)
    async with _unless_it_fails(volume):
        await qemu_img(
            "create", "-f", volume_format, "-o", _CREATE[volume_format], volume.path, str(size_bytes), log=log
        )
    return volume.volid


async def allocate_efidisk(
    node: Node,
    storage: str,
    vmid: int,
    *,
    volume_format: str = "raw",
    enrolled: bool = False,
    log: Log = silent,
) -> tuple[str, int]:
    """A copy of the firmware's variables, 528 KiB; `enrolled` has Microsoft's keys: secure boot is on."""
    template = FIRMWARE / ("OVMF_VARS_4M.ms.fd" if enrolled else "OVMF_VARS_4M.fd")
    if not template.exists():
        raise GuestError(f"EFI base image '{template}' not found: install the package ovmf")
    size_bytes = template.stat().st_size
    volid = await allocate(node, storage, vmid, size_bytes, volume_format=volume_format, log=log)
    target = path(node, volid)
    await qemu_img("convert", "-n", "-f", "raw", "-O", volume_format, template.resolve(), target)
    _transferred(size_bytes, log)
    return volid, size_bytes


async def allocate_cloudinit(
    node: Node, storage: str, vmid: int, *, volume_format: str = "qcow2", log: Log = silent
) -> str:
    """The empty 4 MiB volume that each start fills anew."""
    name = f"{vmid}/vm-{vmid}-cloudinit.{volume_format}"
    return await allocate(
        node, storage, vmid, CLOUDINIT_BYTES, volume_format=volume_format, name=name, log=log
    )


async def import_from(
    node: Node,
    source: str,
    storage: str,
    vmid: int,
    log: Log = silent,
    *,
    volume_format: str | None = None,
) -> tuple[str, int]:
    """Copy an image (volid or absolute path) into a new volume; gives its volid and virtual size in bytes.

    The format stays the source's unless told. A real copy, never a backing file: an image store may replace
    its image. In the same format the file is copied as it is, sharing blocks where the file system can:
    0.15 s for Debian 13's 148 MiB on ext4, where `qemu-img convert` takes 1.2 s and unpacks it to 345 MiB.
    """
    origin = Path(source) if source.startswith("/") else path(node, source)
    if not origin.is_file():
        raise GuestError(f"failed to stat '{origin}'")
    image = await _inspect(origin)
    if "backing-filename" in image:
        raise GuestError(
            f"'{origin}' has a backing file '{image['backing-filename']}' - refusing to import it"
        )
    target_format = volume_format or str(image["format"])
    if target_format not in _CREATE:
        target_format = "raw"
    volume = _new(node, storage, vmid, target_format, None)
    async with _unless_it_fails(volume):
        if image["format"] == target_format:
            await run("cp", "--reflink=auto", "--sparse=always", "--", str(origin), str(volume.path))
            volume.path.chmod(0o600)
        else:
            await qemu_img(
                "convert", "-f", str(image["format"]), "-O", target_format, origin.resolve(), volume.path
            )
    size_bytes = int(image["virtual-size"])
    _transferred(size_bytes, log)
    return volume.volid, size_bytes


async def size(node: Node, volid: str) -> int:
    """The virtual size in bytes; also of a volume that a guest has open."""
    return int((await _inspect(path(node, volid)))["virtual-size"])


async def resize(node: Node, volid: str, size_bytes: int) -> None:
    """Grow the volume of a stopped guest; the same size is fine, a smaller one is refused."""
    now_bytes = await size(node, volid)
    if size_bytes < now_bytes:
        raise GuestError("shrinking disks is not supported")
    if size_bytes > now_bytes:
        volume = node.volume(volid)
        await qemu_img("resize", "-f", volume.format, volume.path, str(size_bytes))


async def clone(
    node: Node,
    volid: str,
    storage: str,
    vmid: int,
    log: Log = silent,
    *,
    full: bool = True,
    volume_format: str | None = None,
) -> tuple[str, int]:
    """A copy for another VM, or with `full=False` a qcow2 that rests on a template's volume.

    Gives (volid, bytes). A linked clone lies beside its base, whatever `storage` says.
    """
    if full:
        return await import_from(node, volid, storage, vmid, log, volume_format=volume_format)
    base = node.volume(volid)
    if not base.path.name.startswith("base-"):
        raise GuestError(f"clone_image on wrong vtype 'images' - '{volid}' is no base image")
    base_storage = volid.partition(":")[0]
    volume = _new(node, base_storage, vmid, "qcow2", None)
    # Relative, so that a lab may be moved.
    backing = f"../{base.path.parent.name}/{base.path.name}"
    async with _unless_it_fails(volume):
        await qemu_img("create", "-f", "qcow2", "-F", base.format, "-b", backing, volume.path, log=log)
    linked = f"{base_storage}:{base.path.parent.name}/{base.path.name}/{volume.name}"
    return linked, await size(node, linked)


async def template(node: Node, volid: str) -> str:
    """Turn a volume into a base image, which nobody writes again; gives its new volid."""
    volume = node.volume(volid)
    target = volume.path.with_name(volume.path.name.replace("vm-", "base-", 1))
    if not volume.path.name.startswith("vm-") or target.exists():
        raise GuestError(f"create_base not possible with base image '{volid}'")
    volume.path.rename(target)
    target.chmod(0o400)
    return f"{volid.partition(':')[0]}:{target.parent.name}/{target.name}"


async def free(node: Node, volid: str, log: Log = silent) -> None:
    """Delete a volume. One that is gone already is only a warning; one with linked clones is refused."""
    volume = node.volume(volid)
    for user in await _linked_to(node, volume):
        raise GuestError(f"base volume '{volid}' is still in use by linked clone '{user}'")
    try:
        volume.path.unlink()
    except FileNotFoundError:
        log(f"disk image '{volume.path}' does not exist")
    with contextlib.suppress(OSError):
        volume.path.parent.rmdir()


async def _linked_to(node: Node, base: Volume) -> list[str]:
    if not base.path.name.startswith("base-"):
        return []
    storage = node.storage(base.volid.partition(":")[0])
    images = [v for v in storage.volumes() if v.content == "images" and v.format == "qcow2" and v != base]
    found = []
    for image in images:
        backing = (await _inspect(image.path)).get("full-backing-filename")
        if backing and Path(backing).resolve() == base.path.resolve():
            found.append(image.volid)
    return found


def _new(node: Node, storage: str, vmid: int, volume_format: str, name: str | None) -> Volume:
    if volume_format not in _CREATE:
        raise GuestError(f"unsupported format '{volume_format}'")
    place = node.storage(storage)
    volume = place.volume(name or place.free_name(vmid, volume_format))
    volume.path.parent.mkdir(parents=True, exist_ok=True)
    if node.faults.take("full-storage", vmid, path=storage):
        raise GuestError(f"unable to create image: qemu-img: {volume.path}: No space left on device")
    if volume.path.exists():
        raise GuestError(f"disk image '{volume.path}' already exists")
    volume.path.touch(mode=0o600)
    return volume


@contextlib.asynccontextmanager
async def _unless_it_fails(volume: Volume) -> AsyncIterator[None]:
    """Half a volume is none: remove the file when the block ends in an error or is cancelled."""
    try:
        yield
    except BaseException:
        volume.path.unlink(missing_ok=True)
        raise


def _transferred(size_bytes: int, log: Log) -> None:
    total = format_size(size_bytes)
    log(f"transferred 0.0 B of {total} (0.00%)")
    log(f"transferred {total} of {total} (100.00%)")


async def _inspect(image: Path) -> dict[str, Any]:
    # -U: a running guest holds a lock on its volumes.
    answer: dict[str, Any] = json.loads(await qemu_img("info", "-U", "--output=json", image))
    return answer
