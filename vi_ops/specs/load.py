"""From the vars of inventory hosts to a site, or to everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vi_ops.errors import SpecError
from vi_ops.specs.check import AnyVm, KeyPath, SpecFinding, check_site, check_vm
from vi_ops.specs.model import INVENTORY, Spec
from vi_ops.specs.nearest import did_you_mean, nearest
from vi_ops.specs.node import NodeSpec
from vi_ops.specs.site import Site
from vi_ops.specs.vm import UnmanagedVmSpec, VmSpec

Kind = Literal["node", "vm"]
_SECRET: Final = frozenset({"secret", "password_hash"})
_S = TypeVar("_S", bound=Spec)

SSH_VARS: Final = {
    "host": "ansible_host",
    "port": "ansible_port",
    "user": "ansible_user",
    "key_file": "ansible_ssh_private_key_file",
}
FROM_ANSIBLE: Final = {"host": "the inventory name", "ssh": "ansible_host, ansible_port and ansible_user"}


@dataclass(frozen=True)
class Place:
    """Where a value was written. `file` is relative to the inventory folder where it lies inside."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class HostVars:
    """The resolved vars of one inventory host.

    `places` says where each path was written (a path not in it lies where its parent does); values below a
    path in `hidden` came from a vault and are never shown.
    """

    name: str
    kind: Kind
    values: Mapping[str, Any]
    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    hidden: frozenset[KeyPath] = frozenset()

    def place(self, path: KeyPath) -> Place:
        """Where a path, or the nearest of its parents, was written."""
        for end in range(len(path), -1, -1):
            if found := self.places.get(path[:end]):
                return found
        return Place(f"host_vars/{self.name}.yml")

    def is_hidden(self, path: KeyPath) -> bool:
        return any(path[:end] in self.hidden for end in range(len(path) + 1)) or not _SECRET.isdisjoint(path)


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
    guests: tuple[AnyVm, ...] = (*vms.values(), *unmanaged.values())
    for vm in guests:
        found.extend(check_vm(vm))
    found.extend(check_site({name for name, host in known.items() if host.kind == "node"}, guests))
    found = [*found[:count], *(each for each in found[count:] if not _follows(each, found[:count]))]
    if blocking := tuple(finding for finding in found if finding.blocks):
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


def _line(finding: SpecFinding, known: Mapping[str, HostVars]) -> str:
    host = known.get(finding.host)
    place = f"{host.place(finding.path)}: " if host else ""
    hint = f"; {finding.hint}" if finding.hint else ""
    return f"  {place}{format_path(finding.path)}: {finding.message}{hint} [{finding.code}]"


def format_path(path: KeyPath) -> str:
    """`vm.gpus[0].mapping`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


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
        return SpecFinding("spec-invalid", host.name, (host.kind,), f"expected a mapping, got {_show(value)}")
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
        found.extend(_one_for_each_path(_translate(each, model, host) for each in error.errors()))
        return None


def _one_for_each_path(findings: Iterable[SpecFinding]) -> Iterable[SpecFinding]:
    """A union fails once for each of its branches: keep the first, name the others."""
    first: dict[KeyPath, SpecFinding] = {}
    for finding in findings:
        if finding.path not in first:
            first[finding.path] = finding
        elif finding.message.startswith("expected '"):
            other = finding.message.split(", got ")[0].removeprefix("expected ")
            first[finding.path] = replace(first[finding.path], hint=f"or {other}")
    return first.values()


def _ssh(host: HostVars, fields: Mapping[Any, Any]) -> dict[str, Any]:
    ssh = {key: host.values[name] for key, name in SSH_VARS.items() if host.values.get(name) is not None}
    ssh.setdefault("host", host.name)
    user = fields.get("user")
    if host.kind == "vm" and isinstance(user, Mapping) and isinstance(user.get("name"), str):
        ssh.setdefault("user", user["name"])
    return ssh


def _translate(detail: ErrorDetails, model: type[Spec], host: HostVars) -> SpecFinding:
    """One pydantic error as a finding in the words of this project."""
    loc = tuple(part for part in detail["loc"][:-1] if not _is_union_branch(part))
    if detail["type"] == "extra_forbidden" or not _is_union_branch(detail["loc"][-1]):
        loc += detail["loc"][-1:]
    path: KeyPath = (SSH_VARS[str(loc[1])],) if loc[:1] == ("ssh",) and len(loc) > 1 else (host.kind, *loc)
    kind, context = detail["type"], detail.get("ctx", {})
    got = "" if host.is_hidden(path) else f", got {_show(detail['input'])}"
    if kind == "missing":
        return SpecFinding("spec-missing-key", host.name, path, f"required: {_describe(model, loc)}")
    if kind == "extra_forbidden":
        known = _keys_of(model, loc[:-1]) - FROM_ANSIBLE.keys()
        return SpecFinding(
            "spec-unknown-key", host.name, path, "unknown key", did_you_mean(str(loc[-1]), known)
        )
    if kind == "literal_error":
        return SpecFinding("spec-invalid", host.name, path, f"expected {context['expected']}{got}")
    if kind == "value_error":  # our own words: vi_ops/units.py
        return SpecFinding("spec-invalid", host.name, path, str(context["error"]))
    if "-" in kind:
        shown = got if kind == "spec-invalid" else ""
        return SpecFinding(kind, host.name, path, detail["msg"] + shown)
    expected = _EXPECTED.get(kind) or detail["msg"][:1].lower() + detail["msg"][1:]
    return SpecFinding("spec-invalid", host.name, path, expected + got)


_EXPECTED: Final = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected a text (put it in quotes)",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}


def _is_union_branch(part: object) -> bool:
    """Pydantic puts the tried branch of a union into the path: `literal['auto']`, `function-after[...]`."""
    return isinstance(part, str) and "[" in part


def _show(value: object, width: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _model_at(model: type[Spec], loc: tuple[int | str, ...]) -> type[Spec] | None:
    """The model that the keys of a path lead to."""
    here: type[Spec] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        if here is None or part not in here.model_fields:
            return None
        here = _inner_model(here.model_fields[part].annotation)
    return here


def _inner_model(annotation: Any) -> type[Spec] | None:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    inner = (_inner_model(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model), None)


def _keys_of(model: type[Spec], loc: tuple[int | str, ...]) -> set[str]:
    found = _model_at(model, loc)
    return set(found.model_fields) if found else set()


def _describe(model: type[Spec], loc: tuple[int | str, ...]) -> str:
    owner = _model_at(model, loc[:-1])
    known = owner.model_fields.get(str(loc[-1])) if owner else None
    text = known.description if known else None
    if not text and known and (inner := _inner_model(known.annotation)):
        text = inner.__doc__
    return (text or str(loc[-1])).strip().splitlines()[0].rstrip(".")
