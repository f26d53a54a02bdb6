"""From the vars of inventory hosts to a site, or to everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vi_ops.errors import SpecError
from vi_ops.specs.check import AnyVm, SpecFinding, check_site, check_vm, format_path
from vi_ops.specs.host_vars import FROM_ANSIBLE, SSH_VARS, HostVars, Place
from vi_ops.specs.model import INVENTORY, Spec
from vi_ops.specs.nearest import nearest
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.translate import findings_of, show
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec

_S = TypeVar("_S", bound=Spec)


class InventoryError(SpecError):
    """An inventory with findings that block; the message holds all of them, the code is the first's."""

    def __init__(self, findings: tuple[SpecFinding, ...], lines: Iterable[str]) -> None:
        unlike = tuple(dict.fromkeys(lines))  # a value from group_vars fails once for each of its hosts
        count = f"{len(unlike)} findings" if len(unlike) > 1 else "1 finding"
        super().__init__(
            findings[0].code,
            "\n".join((f"the inventory has {count}:", *unlike)),
            hint=f"`vi-ops explain {findings[0].code}` tells more" if len(unlike) == 1 else None,
        )
        self.findings = findings


def build_site(path: Path, hosts: Iterable[HostVars], findings: Iterable[SpecFinding] = ()) -> Site:
    """Validate every host and the site as a whole; `findings` are those of the reader.

    Raises InventoryError with all findings when one of them blocks.
    """
    known: dict[str, HostVars] = {}
    found = list(findings)
    for host in hosts:
        if host.name in known:
            found.append(_in_both_groups(host))
        known.setdefault(host.name, host)
    count = len(found)
    specs = [_read_host(host, found) for host in known.values()]
    nodes = {spec.host: spec for spec in specs if isinstance(spec, NodeSpec)}
    vms = {spec.host: spec for spec in specs if isinstance(spec, VmSpec)}
    unmanaged = {spec.host: spec for spec in specs if isinstance(spec, UnmanagedVmSpec)}
    broken = [host for host, spec in zip(known.values(), specs, strict=True) if spec is None]
    usable = [vm for host in broken if host.kind == "vm" and (vm := _usable_part(host, found))]
    guests: tuple[AnyVm, ...] = (*vms.values(), *unmanaged.values(), *usable)
    for vm in guests:
        found.extend(check_vm(vm))
    found.extend(check_site({name for name, host in known.items() if host.kind == "node"}, guests))
    found = [*found[:count], *(each for each in found[count:] if not _follows(each, found[:count]))]
    if blocking := tuple(sorted((one for one in found if one.blocks), key=lambda one: _place(one, known))):
        raise InventoryError(blocking, (_line(finding, known) for finding in blocking))
    return Site(path, nodes, vms, unmanaged, tuple(found))


def build_node(host: str, api: Mapping[str, Any]) -> NodeSpec:
    """A node of which only the API is known yet. Raises InventoryError."""
    known = {host: HostVars(host, "node", {"node": {"api": api}}, {(): Place("command line")})}
    found: list[SpecFinding] = []
    spec = _read_host(known[host], found)
    if not isinstance(spec, NodeSpec):
        raise InventoryError(tuple(found), (_line(finding, known) for finding in found))
    return spec


def _in_both_groups(host: HostVars) -> SpecFinding:
    return SpecFinding(
        "host-in-both-groups",
        host.name,
        ("node",),
        "the host is in 'nodes' and in 'guests': it is either a node or a VM",
        "remove it from one group of hosts.yml",
    )


def _follows(finding: SpecFinding, earlier: Iterable[SpecFinding]) -> bool:
    """Whether a value that could not be resolved explains a finding at it, or at what holds it."""
    return any(
        finding.host == cause.host and finding.path == cause.path[: len(finding.path)] for cause in earlier
    )


def _place(finding: SpecFinding, known: Mapping[str, HostVars]) -> tuple[str, int]:
    """File and line, in the order in which somebody works through them."""
    if finding.host not in known:
        return "", 0
    place = known[finding.host].place(finding.path)
    return place.file, place.line or 0


def _line(finding: SpecFinding, known: Mapping[str, HostVars]) -> str:
    host = known.get(finding.host)
    place = f"{host.place(finding.path)}: " if host else ""
    hint = f"; {finding.hint}" if finding.hint else ""
    return f"  {place}{format_path(finding.path)}: {finding.message}{hint} [{finding.code}]"


def _read_host(host: HostVars, found: list[SpecFinding]) -> NodeSpec | VmSpec | UnmanagedVmSpec | None:
    value = host.values.get(host.kind)
    if not isinstance(value, Mapping):
        found.append(_without_mapping(host, value))
        return None
    found.extend(
        SpecFinding(
            "spec-unknown-key",
            host.name,
            (host.kind, key),
            f"not a key here: it comes from {FROM_ANSIBLE[key]}",
            "remove it",
        )
        for key in sorted(FROM_ANSIBLE.keys() & value.keys())
    )
    fields = {key: item for key, item in value.items() if key not in FROM_ANSIBLE}
    if host.kind == "node":
        return _validate(NodeSpec, host, fields, found)
    if fields.get("managed") is False:
        return _validate(UnmanagedVmSpec, host, fields, found)
    return _validate(VmSpec, host, fields, found)


def _without_mapping(host: HostVars, value: object) -> SpecFinding:
    if value is not None:
        return SpecFinding("spec-invalid", host.name, (host.kind,), f"expected a mapping, got {show(value)}")
    meant = nearest(host.kind, (key for key in host.values if not key.startswith("ansible_")))
    return SpecFinding(
        "spec-missing-key",
        host.name,
        (host.kind,),
        f"required: a mapping that describes the {host.kind}",
        f"is {meant!r} meant to be {host.kind!r}?" if meant else f"write it in host_vars/{host.name}.yml",
    )


def _validate(model: type[_S], host: HostVars, fields: dict[Any, Any], found: list[SpecFinding]) -> _S | None:
    raw = {**fields, "host": host.name}
    raw.setdefault("name", host.name)
    if "ssh" in model.model_fields:
        raw["ssh"] = _ssh(host, fields)
    try:
        return model.model_validate(raw, context=INVENTORY)
    except ValidationError as error:
        found.extend(findings_of(error, model, host))
        return None


def _usable_part(host: HostVars, found: Iterable[SpecFinding]) -> AnyVm | None:
    """A broken VM without its broken keys, so that the rules across fields and hosts are checked at once."""
    broken = {finding.path[1] for finding in found if finding.host == host.name and len(finding.path) > 1}
    value = host.values.get("vm")
    if not isinstance(value, Mapping):
        return None
    fields = {key: item for key, item in value.items() if key not in broken}
    ignored: list[SpecFinding] = []
    return _validate(VmSpec, host, fields, ignored) or _validate(
        UnmanagedVmSpec, host, {**fields, "managed": False}, ignored
    )


def _ssh(host: HostVars, fields: Mapping[Any, Any]) -> dict[str, Any]:
    ssh = {key: host.values[name] for key, name in SSH_VARS.items() if host.values.get(name) is not None}
    ssh.setdefault("host", host.name)
    user = fields.get("user")
    if host.kind == "vm" and isinstance(user, Mapping) and isinstance(user.get("name"), str):
        ssh.setdefault("user", user["name"])
    return ssh
