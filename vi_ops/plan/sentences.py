"""One sentence for each thing that is already right, and for each that waits for a power cycle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vi_ops.facts.vm import VmFacts
from vi_ops.plan import cloud_init
from vi_ops.plan.disk import system_disk_of
from vi_ops.plan.step import Change, Effect
from vi_ops.plan.vm_config import SYSTEM_DISK, in_words
from vi_ops.plan.vm_memory import VmMemory
from vi_ops.specs.vm import VmSpec
from vi_ops.units import format_size

_ASPECTS: Final = {
    "cpu": ("cpu", "sockets", "cores"),
    "memory": ("memory", "balloon"),
    "network": ("net0", "ipconfig0", "nameserver", "searchdomain"),
    "user": ("ciuser", "sshkeys", "cipassword", "ciupgrade", "cicustom", "ide2"),
    "agent and console": ("agent", "serial0"),
    "description and tags": ("description", "tags"),
    "start on boot": ("onboot",),
    "protection": ("protection",),
}


def unchanged(spec: VmSpec, vm: VmFacts, memory: VmMemory, told: tuple[Change, ...]) -> tuple[str, ...]:
    """What needs nothing, by aspect."""
    changed = {change.key for change in told} | vm.started_with.keys()
    right = [aspect for aspect, keys in _ASPECTS.items() if not changed & set(keys)]
    words = _words(spec, vm, memory)
    sentences = [f"{aspect}: {words[aspect]}" for aspect in right]
    disk = system_disk_of(vm.config)
    is_sized = disk and (disk.size_bytes or 0) >= spec.disk.size and not disk.is_larger_than(spec.disk.size)
    if disk and is_sized and disk.storage == spec.disk.storage:
        sentences.insert(0, f"disk: {format_size(spec.disk.size)} on {disk.storage}")
    return (*sentences, *(("power: running",) if vm.is_running else ()))


def _words(spec: VmSpec, vm: VmFacts, memory: VmMemory) -> dict[str, str]:
    cpu, network, keys = spec.cpu, spec.network, len(spec.user.ssh_keys)
    password = "; its password is set, which the node never shows" if "cipassword" in vm.config else ""
    return {
        "cpu": f"{cpu.type}, {cpu.sockets} x {cpu.cores}",
        "memory": memory.reason,
        "network": f"{network.bridge}, {network.address}",
        "user": f"{spec.user.name} with {keys} SSH key{'' if keys == 1 else 's'}{password}",
        "agent and console": "guest agent on, serial console",
        "description and tags": ", ".join(spec.tags) or "as they are",
        "start on boot": _yes(vm, "onboot"),
        "protection": _yes(vm, "protection"),
    }


def _yes(vm: VmFacts, key: str) -> str:
    return "on" if str(vm.config.get(key, 0)) == "1" else "off"


def waiting(
    spec: VmSpec, vm: VmFacts, told: tuple[Change, ...], unread: tuple[str, ...], *, grows: bool
) -> tuple[str, ...]:
    """What is written, by this plan or before it, and not in force yet; `unread` are keys of cloud-init's.

    The last sentence says how to make it happen. A power-off from inside ends QEMU; a reboot does not.
    """
    if not vm.is_running:
        return ()
    sentences = list(_waiting(vm, told, unread))
    if sentences:
        sentences[-1] += (
            f". `vi-ops ssh {spec.host} -- sudo poweroff`, then `vi-ops provision {spec.host}`, starts it"
            f" anew; so does `qm reboot {spec.vmid}` on {vm.node}; a reboot from inside the guest does not"
        )
    if grows:
        sentences.insert(
            0,
            f"root file system: {SYSTEM_DISK} has {format_size(spec.disk.size)} at once, the file system"
            " in it grows at the next boot",
        )
    return tuple(sentences)


def _waiting(vm: VmFacts, told: tuple[Change, ...], unread: tuple[str, ...]) -> Iterator[str]:
    changed = {change.key for change in told}
    for change in told:
        if change.effect is Effect.POWER_CYCLE and change.key not in cloud_init.KEYS:
            in_force = in_words(change.key, vm.running.get(change.key)) or "the default"
            yield f"{change.key}: {change.after or 'the default'} after a power cycle, {in_force} until then"
    for key in vm.pending:
        if key not in changed:
            after, now = in_words(key, vm.config.get(key)), in_words(key, vm.running.get(key))
            yield f"{key}: {after or 'absent'} after a power cycle, {now or 'absent'} until then"
    # The instance-id is a hash of user-data and network. Source: qemu-server, PVE/QemuServer/Cloudinit.pm.
    if instance := [_until_then(key, vm, changed) for key in unread if key != "cicustom"]:
        yield (
            f"{', '.join(instance)}: the guest reads {'them' if len(instance) > 1 else 'it'} at the next"
            " start; cloud-init then takes it for a new instance: it sets up user and network again and makes"
            " new SSH host keys"
        )
    if "cicustom" in unread:
        yield "cicustom: the guest reads it at the next start"


def _until_then(key: str, vm: VmFacts, changed: set[str]) -> str:
    """A key, and of one that was written before this plan what the guest has until its next start."""
    before = in_words(key, vm.started_with.get(key))
    return f"{key} ({before} until then)" if before and key not in changed else key
