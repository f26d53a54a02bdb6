"""Growing, moving and copying a VM's disks through the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.vm_lab import VmLab, vm_lab
from vi_ops.lab import volume
from vi_ops.lab.route import Refusal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmLab]:
    with vm_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.mark.parametrize(("size", "result"), [("+1G", "3G"), ("4G", "4G"), ("2560M", "2560M"), ("2G", "2G")])
def test_a_disk_grows(lab: VmLab, size: str, result: str) -> None:
    vmid = lab.create(scsi0="local:2,ssd=1")
    status, log = lab.task("PUT", f"/qemu/{vmid}/resize", disk="scsi0", size=size)
    assert (status, log) == ("OK", [] if size == "2G" else ["Image resized."])
    assert lab.get(vmid, "config")["scsi0"].endswith(f",size={result},ssd=1")


def test_a_disk_does_not_shrink(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:2")
    before = lab.config(vmid)
    status, _ = lab.task("PUT", f"/qemu/{vmid}/resize", disk="scsi0", size="1G")
    assert status == "shrinking disks is not supported"
    assert lab.config(vmid) == before


def test_what_resize_refuses(lab: VmLab) -> None:
    vmid = lab.create(ide2="local:cloudinit")
    assert (
        lab.ask("PUT", f"/qemu/{vmid}/resize", disk="scsi5", size="1G").reason
        == "disk 'scsi5' does not exist"
    )
    assert lab.ask("PUT", f"/qemu/{vmid}/resize", disk="ide2", size="1G").reason == "you can't resize a cdrom"
    lab.fault("lock-held", vmid)
    assert lab.ask("PUT", f"/qemu/{vmid}/resize", disk="ide2", size="1G").reason == "VM is locked (backup)"


def test_a_full_clone_is_a_vm_of_its_own(lab: VmLab) -> None:
    vmid = lab.create(
        name="source", scsi0="local:1", ide2="local:cloudinit", net0="virtio,bridge=vmbr0", tags="a"
    )
    newid = next(lab.vmids)
    status, _ = lab.task("POST", f"/qemu/{vmid}/clone", newid=newid, name="copy")
    assert status == "OK"
    source, copy = lab.get(vmid, "config"), lab.get(newid, "config")
    assert copy["scsi0"] == f"local:{newid}/vm-{newid}-disk-0.raw,size=1G"
    assert copy["ide2"] == f"local:{newid}/vm-{newid}-cloudinit.qcow2,media=cdrom"
    assert (copy["name"], copy["tags"]) == ("copy", "a")
    for own in ("net0", "smbios1", "vmgenid"):
        assert copy[own] != source[own]
    assert "lock" not in copy


def test_a_linked_clone_rests_on_its_template_which_then_cannot_go(lab: VmLab) -> None:
    vmid = lab.create(name="base", scsi0="local:1")
    assert lab.task("POST", f"/qemu/{vmid}/template") == ("OK", [])
    config = lab.get(vmid, "config")
    assert (config["template"], config["scsi0"]) == (1, f"local:{vmid}/base-{vmid}-disk-0.raw,size=1G")
    newid = next(lab.vmids)
    assert lab.task("POST", f"/qemu/{vmid}/clone", newid=newid)[0] == "OK"
    copy = lab.get(newid, "config")
    assert copy["scsi0"] == f"local:{vmid}/base-{vmid}-disk-0.raw/{newid}/vm-{newid}-disk-0.qcow2,size=1G"
    assert "template" not in copy
    assert lab.task("DELETE", f"/qemu/{newid}")[0] == "OK"
    assert volume.volumes(lab.lab.node, newid) == []
    assert volume.volumes(lab.lab.node, vmid) != []


def test_a_clone_that_fails_leaves_nothing(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1")
    newid = next(lab.vmids)
    lab.fault("full-storage", newid)
    status, _ = lab.task("POST", f"/qemu/{vmid}/clone", newid=newid)
    assert status.startswith("clone failed: ")
    assert newid not in lab.lab.node.vmids()


def test_a_clone_of_real_devices_is_roots(lab: VmLab) -> None:
    vmid = lab.create(who="root", usb0="host=174c:55aa")
    refused = lab.ask("POST", f"/qemu/{vmid}/clone", newid=next(lab.vmids))
    assert (refused.status, refused.reason) == (500, "only root can set 'usb0' config for real devices")


def test_a_disk_moves_to_another_format(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1,ssd=1")
    status, _ = lab.task(
        "POST", f"/qemu/{vmid}/move_disk", disk="scsi0", storage="local", format="qcow2", delete=1
    )
    assert status == "OK"
    assert lab.get(vmid, "config")["scsi0"] == f"local:{vmid}/vm-{vmid}-disk-1.qcow2,size=1G,ssd=1"
    assert volume.volumes(lab.lab.node, vmid) == [f"local:{vmid}/vm-{vmid}-disk-1.qcow2"]


def test_unlink_is_a_deletion(lab: VmLab) -> None:
    vmid = lab.create(scsi0="local:1")
    assert lab.ask("PUT", f"/qemu/{vmid}/unlink", idlist="scsi0", force=1).status == 200
    assert "scsi0" not in lab.get(vmid, "config")
    assert volume.volumes(lab.lab.node, vmid) == []


def test_an_absent_volume_cannot_be_attached(lab: VmLab) -> None:
    vmid = lab.create()
    volid = f"local:{vmid}/vm-{vmid}-disk-5.raw"
    answer = lab.put(vmid, scsi0=volid)
    assert (answer.status, answer.reason) == (500, f"volume {volid} does not exist")
    with pytest.raises(Refusal):
        lab.lab.node.storage("nope")
