"""VM configs on the node: where they lie, who may change one at a time, and what a lock in one forbids."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from vi_ops.lab.node import Node
from vi_ops.lab.program import Log, silent
from vi_ops.lab.route import Refusal
from vi_ops.lab.store import write_text
from vi_ops.lab.vm_config import VmConfig, digest, parse_config, write_config

# Source: pve-guest-common, PVE/AbstractConfig.pm (lock_config): ten seconds.
_LOCK_WAIT_S: Final = 10.0
_turn: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)


def config_path(node: Node, vmid: int) -> Path:
    """Where the config of a VM lies."""
    return node.config_dir / f"{vmid}.conf"


def load(node: Node, vmid: int) -> VmConfig:
    """The config of a VM. Raises Refusal(500) where there is none."""
    return parse_config(_text(node, vmid))


def load_digest(node: Node, vmid: int) -> str:
    """SHA-1 of the config as it lies on disk."""
    return digest(_text(node, vmid))


def store(node: Node, vmid: int, config: VmConfig) -> None:
    """Replace the config of a VM in one step."""
    write_text(config_path(node, vmid), write_config(config))


def remove(node: Node, vmid: int) -> None:
    """Forget the config of a VM."""
    config_path(node, vmid).unlink(missing_ok=True)


def create(node: Node, vmid: int, lock: str) -> None:
    """Take a vmid with an empty, locked config. Raises Refusal(500) where it is taken."""
    try:
        with config_path(node, vmid).open("x") as file:
            file.write(write_config(VmConfig({"lock": lock})))
    except FileExistsError:
        raise Refusal(500, f"VM {vmid} already exists on node '{node.name}'") from None


def check_lock(node: Node, vmid: int, config: VmConfig, *, allowed: tuple[str, ...] = ()) -> None:
    """Refuse while something holds the VM: a `lock` in its config, or the fault of that name."""
    if node.faults.take("lock-held", vmid=vmid):
        raise Refusal(500, "VM is locked (backup)")
    lock = config.values.get("lock")
    if lock and lock not in allowed:
        raise Refusal(500, f"VM is locked ({lock})")


@asynccontextmanager
async def changing(node: Node, vmid: int, log: Log = silent) -> AsyncIterator[None]:
    """One at a time changes a VM; the next waits ten seconds, then is refused as Proxmox refuses it."""
    lock = _turn[config_path(node, vmid)]
    had_to_wait = lock.locked()
    if had_to_wait:
        log("trying to acquire lock...")
    try:
        async with asyncio.timeout(_LOCK_WAIT_S):
            await lock.acquire()
    except TimeoutError:
        path = f"/var/lock/qemu-server/lock-{vmid}.conf"
        raise Refusal(500, f"can't lock file '{path}' - got timeout") from None
    if had_to_wait:
        log(" OK")
    try:
        yield
    finally:
        lock.release()


def _text(node: Node, vmid: int) -> str:
    try:
        return config_path(node, vmid).read_text()
    except FileNotFoundError:
        missing = f"nodes/{node.name}/qemu-server/{vmid}.conf"
        raise Refusal(500, f"Configuration file '{missing}' does not exist") from None
