"""How an image gets to a node's storage: fetched from its publisher by the node, or sent from here."""

from __future__ import annotations

from typing import Final

from vi_ops.facts.image import BuiltImage, Published, StoredVolume
from vi_ops.facts.node import StorageFacts
from vi_ops.plan.step import Finding, Param, Plan, PveCall, Step
from vi_ops.specs.image import ImageSpec
from vi_ops.units import format_size

CONTENT: Final = "import"


def check_store(node: str, storage: str, storages: tuple[StorageFacts, ...]) -> Finding | None:
    """Why that storage cannot take an image; None when it can."""
    found = next((one for one in storages if one.name == storage), None)
    if found and found.is_active and CONTENT in found.content:
        return None
    fit = ", ".join(one.name for one in storages if one.is_active and CONTENT in one.content)
    if found is None:
        why = f"{node} has no storage {storage!r} that we may see"
    elif not found.is_active:
        why = f"storage {storage} of {node} is not active"
    else:
        why = f"storage {storage} of {node} holds {', '.join(sorted(found.content))}, but no 'import' content"
    enable = f"pvesm set {storage} --content ...,import (Proxmox VE 8.4 or newer; older ones do not know it)"
    hint = f"set image_storage of {node} to one that has it: {fit}" if fit else f"on the node: {enable}"
    return Finding("image-storage", why, hint=hint)


def plan_fetch(
    spec: ImageSpec, node: str, storage: str, published: Published, stored: StoredVolume | None
) -> Plan:
    """Have the node download the image and verify it; nothing when it is there, in whichever build."""
    subject = f"{spec.name} on {node}"
    volid = f"{storage}:{CONTENT}/{spec.file}"
    if stored is None:
        params: dict[str, Param] = {
            "content": CONTENT,
            "url": spec.url,
            "filename": spec.file,
            "checksum": published.checksum,
            "checksum-algorithm": published.algorithm,
        }
        call = PveCall("POST", f"/nodes/{node}/storage/{storage}/download-url", params)
        size = f" ({format_size(published.size_bytes)})" if published.size_bytes else ""
        title = f"Ensure {volid} is the published {spec.name}"
        return Plan(subject, (Step("fetch", call, f"{node} has no {volid}{size}", title=title),))
    there = f"{volid} is there, {format_size(stored.size_bytes)}"
    if published.size_bytes in (None, stored.size_bytes):
        return Plan(subject, unchanged=(there,))
    kept = f"{volid} is another build than the one published now; it is kept"
    hint = "to have the new one, remove the file from the storage and fetch again; no VM is touched by that"
    return Plan(
        subject, unchanged=(there,), findings=(Finding("image-other-build", kept, hint, blocks=False),)
    )


def plan_push(
    spec: ImageSpec, node: str, storage: str, built: BuiltImage, stored: StoredVolume | None
) -> Plan:
    """Send the image built here. A file of that name and size is taken to be it; another is replaced.

    The node moves the new file into place when it is whole, and disks made from the old one are copies.
    """
    subject = f"{spec.name} on {node}"
    volid = f"{storage}:{CONTENT}/{spec.file}"
    if stored and stored.size_bytes == built.size_bytes:
        return Plan(subject, unchanged=(f"{volid} is there, {format_size(stored.size_bytes)}",))
    params: dict[str, Param] = {
        "content": CONTENT,
        "filename": spec.file,
        "checksum": built.sha256,
        "checksum-algorithm": "sha256",
    }
    call = PveCall("POST", f"/nodes/{node}/storage/{storage}/upload", params)
    because = f"{volid} is another build" if stored else f"{node} has no {volid}"
    return Plan(
        subject, (Step("push", call, because, title=f"Ensure {volid} is the {spec.name} built here"),)
    )
