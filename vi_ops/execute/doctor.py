"""Look at everything that vi-ops needs: this machine, the inventory, each node. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from vi_ops.errors import ViOpsError
from vi_ops.execute.inventory import find_inventory, load_site
from vi_ops.execute.local import free_bytes, may_use_kvm
from vi_ops.execute.look import look_at_node
from vi_ops.execute.pve import Pve, connect
from vi_ops.execute.state import site_state
from vi_ops.facts.access import parse_rights
from vi_ops.facts.node import NodeFacts, parse_version
from vi_ops.plan.role import RELEASES, Lack, lacking, least_grants
from vi_ops.specs.check import format_path
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.units import GIB, format_size

OLDEST_PYTHON: Final = (3, 11)
QEMU: Final = "qemu-system-x86_64"
# An image that is built, its qcow2 copy and a guest's disk.
LAB_BYTES: Final = 6 * GIB
# A ticket of a clock that is 5 min off is refused (pve-access-control, get_ticket_age_range).
CLOCK_WARN_S: Final = 30.0
CLOCK_FAIL_S: Final = 300.0


class Verdict(StrEnum):
    """`warn` is worth knowing; only `fail` stands in the way."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at. `subject` is `this machine`, the inventory or a node."""

    code: str
    verdict: Verdict
    subject: str
    message: str
    hint: str | None = None


def examine(prove_kvm: Callable[[], bool | None]) -> Iterator[Check]:
    """All checks in order, each as soon as it is made; `prove_kvm` tries it, None if it cannot."""
    yield from examine_machine(prove_kvm)
    try:
        path = find_inventory(None)
        site = load_site(path)
        state = site_state(path).path
    except ViOpsError as error:
        yield _failed("inventory", error)
        return
    counts = f"nodes: {len(site.nodes)}, VMs: {len(site.vms)}, not managed: {len(site.unmanaged)}"
    yield Check("doctor-inventory", Verdict.OK, "inventory", f"{path}: {counts}")
    for advice in site.advice:
        said = f"{format_path(advice.path)}: {advice.message}"
        yield Check(advice.code, Verdict.WARN, advice.host, said, advice.hint)
    yield _check_state(state)
    for node in site.nodes.values():
        yield from examine_node(site, node, state)


def examine_machine(prove_kvm: Callable[[], bool | None]) -> Iterator[Check]:
    """What this machine must have, and what the lab needs besides."""
    yield _check_python()
    yield _check_ansible()
    yield _check_program("doctor-ssh", "ssh", "apt install openssh-client", Verdict.FAIL)
    yield _check_program("doctor-qemu", QEMU, "apt install qemu-system-x86", Verdict.WARN)
    yield _check_kvm(prove_kvm)
    yield _check_space()


def examine_node(site: Site, node: NodeSpec, state: Path) -> Iterator[Check]:
    """A node, from the secret to the storages; what cannot be asked after a failure is left out."""
    try:
        with connect(node, state_dir=state) as pve:
            yield Check("doctor-secret", Verdict.OK, node.host, f"secret of {pve.authid} read")
            version = parse_version(None, pve.get("/version"))
            yield Check("doctor-api", Verdict.OK, node.host, f"{node.api.url} answers, certificate verified")
            yield _check_clock(node, pve)
            major = int(version.split(".")[0])
            is_known = major in RELEASES
            hint = "vi-ops knows releases 8 and 9"
            yield _judge("doctor-release", node.host, is_known, f"Proxmox VE {version}", hint)
            if is_known:
                rights = parse_rights(pve.get("/access/permissions"))
                yield _check_rights(node, lacking(least_grants(site, node, major), rights))
            yield from _check_storages(site, node, look_at_node(pve))
    except ViOpsError as error:
        yield _failed(node.host, error)


def _check_rights(node: NodeSpec, gaps: Sequence[Lack]) -> Check:
    told = "; ".join(f"{', '.join(gap.privileges)} on {gap.path}" for gap in gaps)
    return _judge(
        "doctor-rights",
        node.host,
        not gaps,
        f"the login lacks {told}" if gaps else "the login has the rights that vi-ops needs",
        f"`vi-ops node roles {node.host}` prints what root types",
        Verdict.WARN,
    )


def _check_storages(site: Site, node: NodeSpec, facts: NodeFacts) -> Iterator[Check]:
    wanted = {vm.disk.storage for vm in site.vms.values() if vm.node == node.host} | {node.image_storage}
    missing = sorted(one for one in wanted if one not in facts.storages or not facts.storages[one].is_active)
    message = f"storages: {', '.join(sorted(wanted))}"
    if missing:
        message = f"not there, or not active: {', '.join(missing)}"
    hint = f"the node has {', '.join(sorted(facts.storages)) or 'none that this login sees'}"
    yield _judge("doctor-storage", node.host, not missing, message, hint)
    if images := facts.storages.get(node.image_storage):
        yield _judge(
            "doctor-import",
            node.host,
            "import" in images.content,
            f"storage {images.name} takes {', '.join(sorted(images.content))}",
            f"root allows images there once: pvesm set {images.name} --content"
            f" {','.join(sorted(images.content | {'import'}))}",
        )


def _check_clock(node: NodeSpec, pve: Pve) -> Check:
    offset_s = pve.clock_offset_s
    if offset_s is None:
        return Check("doctor-clock", Verdict.WARN, node.host, "the node tells no time")
    verdict = Verdict.OK
    if abs(offset_s) > CLOCK_WARN_S:
        verdict = Verdict.FAIL if abs(offset_s) > CLOCK_FAIL_S else Verdict.WARN
    side = "ahead of" if offset_s > 0 else "behind"
    told = "its clock is ours" if abs(offset_s) < 2 else f"its clock is {abs(offset_s):.0f} s {side} ours"
    hint = None if verdict is Verdict.OK else "let both take their time from NTP: `timedatectl` shows whether"
    return Check("doctor-clock", verdict, node.host, told, hint)


def _check_python() -> Check:
    have = ".".join(map(str, sys.version_info[:3]))
    need = ".".join(map(str, OLDEST_PYTHON))
    return _judge(
        "doctor-python",
        "this machine",
        sys.version_info >= OLDEST_PYTHON,
        f"Python {have}",
        f"install {need} or newer",
    )


def _check_ansible() -> Check:
    try:
        found = f"ansible-core {importlib.metadata.version('ansible-core')}"
        is_there = (
            shutil.which("ansible-playbook") or (Path(sys.executable).parent / "ansible-playbook").exists()
        )
    except importlib.metadata.PackageNotFoundError:
        found, is_there = "ansible-core is not installed", False
    hint = "install vi-ops with its dependencies: pipx install vi-ops"
    return _judge("doctor-ansible", "this machine", bool(is_there), found, hint)


def _check_program(code: str, program: str, hint: str, otherwise: Verdict) -> Check:
    path = shutil.which(program)
    return _judge(code, "this machine", path is not None, path or f"{program} is not there", hint, otherwise)


def _check_kvm(prove: Callable[[], bool | None]) -> Check:
    works = prove() if may_use_kvm() and shutil.which(QEMU) else False
    if works is None:
        hint = "pipx install 'vi-ops[lab]', if you want the lab"
        return Check(
            "doctor-kvm", Verdict.WARN, "this machine", "KVM not tried: the lab is not installed", hint
        )
    if works:
        return Check("doctor-kvm", Verdict.OK, "this machine", "KVM works: the lab's guests run fast")
    found = "/dev/kvm is there and does not work" if may_use_kvm() else "no /dev/kvm for this user"
    message = f"{found}: the lab's guests are emulated and boot in about a minute"
    hint = "add yourself to the group kvm, where the processor has virtualisation"
    if may_use_kvm():
        hint = "switch on virtualisation in the firmware, or nested virtualisation on this machine's host"
    return Check("doctor-kvm", Verdict.WARN, "this machine", message, hint)


def _check_space() -> Check:
    named = os.environ.get("VI_OPS_LAB_DIR")
    home = Path(named) if named else user_data_path("vi-ops")
    free = free_bytes(home)
    return _judge(
        "doctor-space",
        "this machine",
        free >= LAB_BYTES,
        f"{format_size(free)} free at {home}",
        f"the lab needs about {format_size(LAB_BYTES)}: VI_OPS_LAB_DIR puts it elsewhere",
        Verdict.WARN,
    )


def _check_state(path: Path) -> Check:
    mode = path.stat().st_mode & 0o777
    return _judge(
        "doctor-state",
        "inventory",
        not mode & 0o077,
        f"state in {path}, mode {mode:04o}",
        f"chmod 700 {path}",
    )


def _judge(
    code: str, subject: str, is_good: bool, message: str, hint: str, otherwise: Verdict = Verdict.FAIL
) -> Check:
    return Check(code, Verdict.OK if is_good else otherwise, subject, message, None if is_good else hint)


def _failed(subject: str, error: ViOpsError) -> Check:
    return Check(error.code, Verdict.FAIL, subject, error.message.removeprefix(f"{subject}: "), error.hint)
