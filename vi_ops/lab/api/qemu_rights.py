"""What a change to a VM asks of its caller beyond the right to call the method.

Source: qemu-server, PVE/API2/Qemu.pm (check_vm_modify_config_perm, check_storage_access);
pve-storage, PVE/Storage.pm (check_volume_access).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vi_ops.lab import nic, options
from vi_ops.lab.drive import is_cdrom, is_cloudinit, new_disk, owner_of, parse_drive, storage_of
from vi_ops.lab.node import Node
from vi_ops.lab.options import Need
from vi_ops.lab.route import Refusal, User, parameter_error
from vi_ops.lab.storage import split_volid

# Where the refusal is raised in each release: its text carries the line (recorded answers, 8.4 and 9.2).
_PATH_REFUSED_AT: Final = {8: 581, 9: 651}


@dataclass(frozen=True)
class Caller:
    """Who changes which VM. A VM that is being created may draw its rights from the pool it will join."""

    node: Node
    user: User
    vmid: int
    pool: str | None = None

    def require(self, need: Need) -> None:
        """403 unless the caller has what is needed."""
        if self.user.is_root:
            return
        acl, path = self.node.acl, need.path or f"/vms/{self.vmid}"
        pool = f"/pool/{self.pool}" if need.path is None and self.pool else None
        if pool is None or not acl.may(self.user, pool, *need.privileges, any=need.any):
            acl.require(self.user, path, *need.privileges, any=need.any)

    def may_set(self, names: Iterable[str]) -> None:
        """Refuse options that the caller may not set or delete, whatever their value."""
        if self.user.is_root:
            return
        for name in sorted(names):
            for need in options.needs(name):
                self.require(need)

    def may_use(self, option: str, value: str, verb: str = "set") -> None:
        """Refuse a device whose value the caller may not set, replace or delete."""
        if self.user.is_root:
            return
        for need in options.value_needs(option, value, verb):
            self.require(need)

    def may_use_bridges(self, settings: Mapping[str, str]) -> None:
        """Refuse NICs on bridges that the caller may not use."""
        for option in sorted(settings):
            if (options.split_index(option) or ("", 0))[0] == "net":
                path = nic.access_path(settings[option])
                if path:
                    self.require(Need(("SDN.Use",), path))

    def may_change_drive(self, option: str, value: str) -> None:
        """What a drive's change asks for: a disk, a CD-ROM, or the cloud-init drive (both)."""
        drive = parse_drive(value)
        if is_cloudinit(drive):
            self.require(Need(("VM.Config.Cloudinit", "VM.Config.CDROM")))
        else:
            self.require(Need(("VM.Config.CDROM" if is_cdrom(drive) else "VM.Config.Disk",)))

    def may_use_storage(self, option: str, value: str, default_storage: str | None = None) -> None:
        """What a drive's volume asks of its storage, whether it is to be made, imported or attached."""
        drive = parse_drive(value)
        volid, made = drive.get("file", ""), new_disk(drive)
        if not (volid == "none" or is_cloudinit(drive)):
            if made and not is_cdrom(drive):
                self._may_allocate(made[0] or default_storage)
            else:
                self.may_read(volid)
        if source := drive.get("import-from"):
            self._may_import(option, source)

    def _may_allocate(self, storage: str | None) -> None:
        if not storage:
            raise Refusal(500, "no storage ID specified (and no default storage)")
        self.require(Need(("Datastore.AllocateSpace",), f"/storage/{storage}"))
        if "images" not in self.node.storage(storage).content:
            raise parameter_error(storage=f"storage '{storage}' does not support vm images")

    def _may_import(self, option: str, source: str) -> None:
        if storage_of(source):
            content = self.node.volume(source).content
            if content not in ("images", "import"):
                wanted = "needs to be 'images' or 'import'"
                raise parameter_error(**{option: f"{source} has wrong type '{content}' - {wanted}"})
            if (owner := owner_of(source)) and content == "images":
                self.require(Need(("VM.Clone",), f"/vms/{owner}"))
                return
        self.may_read(source)

    def may_read(self, volid: str) -> None:
        """Refuse a volume that the caller may not attach. A path is root's alone, tokens of root included."""
        if self.user.is_root:
            return
        if not storage_of(volid):
            place = f"at /usr/share/perl5/PVE/Storage.pm line {_PATH_REFUSED_AT[self.node.major]}."
            raise Refusal(500, f"Only root can pass arbitrary filesystem paths. {place}")
        path = f"/storage/{split_volid(volid)[0]}"
        if self.node.acl.may(self.user, path, "Datastore.Allocate"):
            return
        volume = self.node.volume(volid)
        if volume.content in ("iso", "vztmpl", "import", "snippets"):
            self.require(Need(("Datastore.AllocateSpace", "Datastore.Audit"), path, any=True))
        elif volume.content == "images" and volume.vmid == self.vmid:
            self.require(Need(("Datastore.AllocateSpace",), path))
        else:
            self.require(Need(("Datastore.Allocate",), path))


def check_import_syntax(option: str, value: str) -> None:
    """400 for an import into anything but a new volume of size 0, and for an ISO that is no CD-ROM."""
    drive = parse_drive(value)
    made = new_disk(drive)
    if "import-from" in drive:
        if not made or made[1] != 0:
            syntax = "use <storage ID>:0,import-from=<source>"
            raise parameter_error(**{option: f"'import-from' requires special syntax - {syntax}"})
        for required in ("efitype", "pre-enrolled-keys") if option == "efidisk0" else ():
            if required not in drive:
                raise parameter_error(**{option: f"need to specify '{required}' when using 'import-from'"})
    is_iso = ":iso/" in drive.get("file", "")
    if is_iso and drive.get("media") != "cdrom":
        raise parameter_error(**{option: "explicit 'media=cdrom' is required for iso images"})
