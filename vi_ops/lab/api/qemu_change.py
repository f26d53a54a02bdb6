"""One change to a VM's config: read from the request, checked, and put among the pending values.

Source: qemu-server, PVE/API2/Qemu.pm (update_vm_api).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vi_ops.errors import FactError
from vi_ops.facts.property_string import parse_property_string
from vi_ops.lab import nic, options, pending, volume
from vi_ops.lab.api.qemu_drive import make_drives
from vi_ops.lab.api.qemu_rights import Caller, check_import_syntax
from vi_ops.lab.drive import boot_order, is_cdrom, is_drive, parse_drive, print_drive
from vi_ops.lab.password import hashed
from vi_ops.lab.route import Refusal, Request, parameter_error
from vi_ops.lab.sshkeys import check_sshkeys
from vi_ops.lab.task import Log
from vi_ops.lab.vm_config import VmConfig

_CONTROLS: Final = frozenset(
    {"node", "vmid", "digest", "background_delay", "skiplock", "delete", "revert", "force"}
    | {"import-working-storage"}
)
_LIST: Final = re.compile(r"[,;\s\0]+")
_DEVICES: Final = frozenset({"serial", "usb", "hostpci", "virtiofs", "rng"})


@dataclass(frozen=True)
class Change:
    """What a request changes. `values` are as the node stores them, drives that are to be made excepted.

    `described` is the line of the task's log that names all of it, the guest's password hidden.
    """

    values: Mapping[str, str]
    delete: tuple[str, ...]
    revert: tuple[str, ...]
    force: bool
    digest: str
    skiplock: bool
    described: str


def split_list(text: str) -> tuple[str, ...]:
    """The words of a `-list` format."""
    return tuple(word for word in _LIST.split(text) if word)


def new_vmid(request: Request, name: str) -> int:
    """The vmid that a request wants to use. The published schema says the same where it is at hand."""
    if name not in request.params:
        raise parameter_error(**{name: "property is missing and it is not optional"})
    vmid = request.number(name)
    if not 100 <= vmid <= 999_999_999:
        raise parameter_error(**{name: "invalid format - value does not look like a valid VM ID\n"})
    return vmid


def only_root(request: Request, *names: str) -> None:
    """400 for options of root's own ticket."""
    for name in names:
        if request.text(name, "0") != "0" and not request.user.is_root:
            raise parameter_error(**{name: "Only root may use this option."})


def parse_change(request: Request) -> Change:
    """The change that a request asks for. Raises Refusal for what cannot be."""
    only_root(request, "skiplock")
    values = settings(request, _CONTROLS)
    delete = tuple("ide2" if word == "cdrom" else word for word in split_list(request.text("delete")))
    revert = split_list(request.text("revert"))
    if not values and not delete and not revert:
        raise Refusal(500, "no options specified")
    _check_names(values, delete, revert)
    shown = sorted(request.params.keys() - _CONTROLS | request.params.keys() & {"delete", "revert", "force"})
    described = " ".join(
        f"-{name} {'<hidden>' if name == 'cipassword' else request.text(name)}" for name in shown
    )
    return Change(
        canonical(values),
        delete,
        revert,
        request.flag("force"),
        request.text("digest"),
        request.flag("skiplock"),
        described,
    )


def settings(request: Request, controls: frozenset[str]) -> dict[str, str]:
    """The options in a request, booleans as 0 and 1, `cdrom` under its real name."""
    values = {name: request.text(name) for name in request.params if name not in controls}
    if cdrom := values.pop("cdrom", None):
        values["ide2"] = cdrom if "media=" in cdrom else f"{cdrom},media=cdrom"
    for name, value in values.items():
        _check_readable(name, value)
    return values


def _check_readable(name: str, value: str) -> None:
    """Refuse what could not be read again; where the published schema is at hand, it did so before."""
    if name in options.INTEGER and not value.isdecimal():
        raise parameter_error(**{name: f"type check ('integer') failed - got '{value}'"})
    if name == "sshkeys":
        check_sshkeys(value)
    try:
        if is_drive(name):
            parse_drive(value)
        elif name == "memory":
            memory_mib(value)
        elif name in options.BOOLEAN:
            options.parse_boolean(value)
        elif (options.split_index(name) or ("", 0))[0] == "net":
            nic.parse_nic(value)
    except (FactError, ValueError) as error:
        raise parameter_error(**{name: f"invalid format - {error}\n"}) from error


def _check_names(values: Mapping[str, str], delete: tuple[str, ...], revert: tuple[str, ...]) -> None:
    for name in revert:
        if not options.exists(name):
            raise parameter_error(revert=f"unknown option '{name}'")
        if name in values:
            raise parameter_error(delete=f"you can't use '-{name}' and -revert {name}' at the same time")
    for name in delete:
        if name in values:
            raise parameter_error(delete=f"you can't use '-{name}' and -delete {name}' at the same time")
        if name in revert:
            raise parameter_error(
                revert=f"you can't use '-delete {name}' and -revert {name}' at the same time"
            )
        if not options.exists(name):
            raise parameter_error(delete=f"unknown option '{name}'")


def canonical(values: Mapping[str, str]) -> dict[str, str]:
    """Values as the node stores them: drives and NICs reordered, MACs and generation ids made up."""
    return {name: _canonical(name, values[name]) for name in sorted(values)}


def _canonical(name: str, value: str) -> str:
    if "\n" in value and name != "description":
        raise Refusal(500, f"unable to parse value of '{name}' - property contains a line feed")
    if is_drive(name):
        check_import_syntax(name, value)
        return print_drive(parse_drive(value))
    if (options.split_index(name) or ("", 0))[0] == "net":
        return nic.canonical_nic(value)
    if name == "vmgenid" and value == "1":
        return str(uuid.uuid4())
    if name in options.BOOLEAN:
        return str(int(options.parse_boolean(value)))
    return unique_tags(value) if name == "tags" else value


def unique_tags(text: str) -> str:
    """Tags as the datacenter's defaults store them: lower case, sorted, each once, joined with `;`."""
    return ";".join(sorted({tag.lower() for tag in split_list(text)}))


def memory_mib(text: str) -> int:
    """MiB of the property string `memory`."""
    return int(parse_property_string(text, "current").get("current", "512"))


def check_balloon(values: Mapping[str, str], stored: VmConfig) -> None:
    """Refuse a balloon that is larger than the memory around it."""
    if "memory" not in values and "balloon" not in values:
        return
    merged = {**stored.merged(), **values}
    if int(merged.get("balloon", "0")) > memory_mib(merged.get("memory", "512")):
        raise Refusal(500, "balloon value too large (must be smaller than assigned memory)")


async def stage(change: Change, stored: VmConfig, caller: Caller, log: Log) -> None:
    """Put the change among the pending values of `stored`; makes the volumes of new drives."""
    for name in change.revert:
        pending.revert(stored, name, caller.vmid)
    for name in change.delete:
        await _stage_delete(name, change, stored, caller, log)
    for name in sorted(change.values):
        value = change.values[name]
        if stored.pending.get(name) != value:
            await _stage_value(name, value, change, stored, caller, log)
    pending.clean(stored)


async def _stage_delete(name: str, change: Change, stored: VmConfig, caller: Caller, log: Log) -> None:
    value = stored.values.get(name, stored.pending.get(name))
    if value is None:
        log(f"cannot delete '{name}' - not set in current configuration!")
        return
    _unboot(stored, name)
    if name.startswith("unused"):
        _check_protection(stored, f"can't remove unused disk '{value}'")
        caller.may_change_drive(name, value)
        await volume.free(caller.node, value)
        del stored.values[name]
        return
    if is_drive(name):
        _check_protection(stored, f"can't remove drive '{name}'")
        caller.may_change_drive(name, value)
        waiting = stored.pending.pop(name, None)
        if waiting is not None:
            pending.release_volume(stored, waiting, caller.vmid, keep=stored.values.get(name))
    caller.may_use(name, value, "delete")
    if name.startswith("net"):
        caller.may_use_bridges({name: value})
    pending.delete(stored, name, force=change.force)


def _check_protection(stored: VmConfig, text: str) -> None:
    if stored.values.get("protection") == "1":
        raise Refusal(500, f"{text} - protection mode enabled")


def _unboot(stored: VmConfig, name: str) -> None:
    """A device that goes is no longer booted from."""
    order = boot_order(stored.merged())
    if name in order:
        pending.change(stored, "boot", "order=" + ";".join(word for word in order if word != name))


async def _stage_value(
    name: str, value: str, change: Change, stored: VmConfig, caller: Caller, log: Log
) -> None:
    old = stored.values.get(name)
    family = (options.split_index(name) or (name, 0))[0]
    if is_drive(name):
        value = await _stage_drive(name, value, stored, caller, log)
    elif family in _DEVICES or name == "rng0":
        for word in (old, value):
            if word is not None:
                caller.may_use(name, word, "modify")
    elif family == "net" and old is not None:
        caller.may_use_bridges({name: old})
    elif name == "boot":
        _check_boot_order(value, change, stored)
    elif name == "cipassword":
        is_windows = stored.merged().get("ostype", "").startswith("w")
        stored.values[name] = value if is_windows else hashed(value)
        return
    pending.change(stored, name, value)


async def _stage_drive(name: str, value: str, stored: VmConfig, caller: Caller, log: Log) -> str:
    if name in stored.values:
        caller.may_change_drive(name, stored.values[name])
    caller.may_change_drive(name, value)
    if waiting := stored.pending.pop(name, None):
        pending.release_volume(stored, waiting, caller.vmid, keep=value)
    made = await make_drives({name: value}, stored.merged(), caller, None, log)
    order = boot_order(stored.merged())
    if order and name not in order and is_cdrom(parse_drive(value)):
        pending.change(stored, "boot", "order=" + ";".join([*order, name]))
    return made[name]


def _check_boot_order(value: str, change: Change, stored: VmConfig) -> None:
    known = stored.values.keys() | stored.pending.keys() | change.values.keys()
    for device in boot_order({"boot": value}):
        if device not in known or device in change.delete:
            raise Refusal(500, f"invalid bootorder: device '{device}' does not exist'")
