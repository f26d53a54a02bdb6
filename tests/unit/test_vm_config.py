"""VM config files and property strings: what is written is read back, and the format is Proxmox's."""

from __future__ import annotations

import hashlib
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vi_ops.errors import FactError
from vi_ops.facts.property_string import format_property_string, parse_property_string
from vi_ops.lab import drive, nic, options
from vi_ops.lab.vm_config import VmConfig, digest, encode_text, parse_config, write_config

# A busy machine makes examples slow, not wrong.
UNHURRIED = settings(deadline=None)

KEYS = st.text(string.ascii_lowercase + "-_", min_size=1, max_size=12)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters=",=\0"), min_size=1, max_size=30).filter(
    str.strip
)
LINES = (
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1).map(str.strip).filter(bool)
)
TEXT_OPTIONS = st.sampled_from(
    ["name", "boot", "cpu", "memory", "net0", "scsi0", "usb3", "ipconfig31", "tags", "args"]
)
DESCRIPTIONS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0")).map(str.rstrip).filter(bool)


def valued(keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(keys, LINES, max_size=6)


@st.composite
def configs(draw: st.DrawFn) -> VmConfig:
    values = draw(valued(TEXT_OPTIONS))
    values |= {key: draw(st.sampled_from("01")) for key in draw(st.sets(st.sampled_from(["onboot", "kvm"])))}
    if draw(st.booleans()):
        values["description"] = draw(DESCRIPTIONS)
    names = st.from_regex(r"[a-zA-Z][a-z0-9_-]{1,9}", fullmatch=True).filter(lambda name: name != "PENDING")
    return VmConfig(
        values,
        draw(valued(TEXT_OPTIONS)),
        draw(st.dictionaries(TEXT_OPTIONS, st.booleans(), max_size=3)),
        draw(valued(TEXT_OPTIONS)),
        draw(st.dictionaries(names, valued(TEXT_OPTIONS), max_size=3)),
    )


@UNHURRIED
@given(st.dictionaries(KEYS, WORDS, max_size=6))
def test_a_property_string_survives_printing_and_parsing(values: dict[str, str]) -> None:
    assert parse_property_string(format_property_string(values)) == values


@UNHURRIED
@given(st.dictionaries(KEYS, WORDS, max_size=6), WORDS)
def test_the_default_key_stands_first_and_bare(values: dict[str, str], bare: str) -> None:
    values = {**values, "file": bare}
    text = format_property_string(values, "file")
    assert text.startswith(bare)
    assert parse_property_string(text, "file") == values


@pytest.mark.parametrize("text", ["virtio,bridge", "a=1,a=2"])
def test_a_malformed_property_string_is_refused(text: str) -> None:
    with pytest.raises(FactError):
        parse_property_string(text, "model" if "virtio" in text else None)


@UNHURRIED
@given(configs())
def test_a_config_survives_writing_and_reading(config: VmConfig) -> None:
    again = parse_config(write_config(config))
    assert again == config
    assert write_config(again) == write_config(config)


@UNHURRIED
@given(st.text(st.characters(codec="utf-8")))
def test_a_description_line_holds_no_control_character_and_nothing_beyond_ascii(text: str) -> None:
    encoded = encode_text(text)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert ":" not in encoded


EXAMPLE = """\
#made by hand%3A first line
#second %C3%BC line
boot: order=scsi0;net0
cores: 2
lock: backup
memory: 2048
numa: 0
onboot: 1
scsi0: local:100/vm-100-disk-0.qcow2,size=32G

[PENDING]
delete: !scsi1,tags
memory: 4096

[special:cloudinit]
added: nameserver
name: old

[before-upgrade]
#kept
cores: 1
snaptime: 1700000000
"""


def test_the_file_is_proxmox_own() -> None:
    config = parse_config(EXAMPLE)
    assert config.values["description"] == "made by hand: first line\nsecond ü line"
    assert config.pending == {"memory": "4096"}
    assert config.pending_delete == {"scsi1": True, "tags": False}
    assert config.cloudinit == {"added": "nameserver", "name": "old"}
    assert config.snapshots == {
        "before-upgrade": {"description": "kept", "cores": "1", "snaptime": "1700000000"}
    }
    assert config.merged()["memory"] == "4096"
    assert write_config(config) == EXAMPLE


def test_boolean_words_are_read_and_unknown_keys_dropped() -> None:
    config = parse_config("onboot: yes\nkvm: off\nnosuch: 1\nnet99: virtio\nmeta: ctime=1\n")
    assert config.values == {"onboot": "1", "kvm": "0", "meta": "ctime=1"}


def test_the_digest_is_the_sha1_of_the_text(tmp_path: Path) -> None:
    assert digest(EXAMPLE) == hashlib.sha1(EXAMPLE.encode(), usedforsecurity=False).hexdigest()
    assert digest(EXAMPLE) != digest(EXAMPLE + "tags: a\n")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("memory", "2048", "2048"),
        ("cpulimit", "2", "2"),
        ("cores", "2", 2),
        ("balloon", "0", 0),
        ("onboot", "yes", 1),
        ("agent", "1", "1"),
    ],
)
def test_values_have_the_types_of_the_api(option: str, text: str, value: object) -> None:
    seen = options.typed(option, text)
    assert (seen, type(seen)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("local:2,ssd=1,iothread=on,discard=on", "local:2,discard=on,iothread=1,ssd=1"),
        ("volume=local:iso/x.iso,media=cdrom", "local:iso/x.iso,media=cdrom"),
        ("file=local:0,efitype=4m,pre-enrolled-keys=no", "local:0,efitype=4m,pre-enrolled-keys=0"),
    ],
)
def test_drives_are_printed_in_canonical_order(text: str, canonical: str) -> None:
    assert drive.print_drive(drive.parse_drive(text)) == canonical


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(540672, "528K"), (2400 * 1024**2, "2400M"), (3 * 1024**3, "3G"), (2 * 1024**4, "2T"), (1000, "1000")],
)
def test_sizes_are_the_largest_exact_unit(size_bytes: int, text: str) -> None:
    assert drive.format_disk_size(size_bytes) == text
    assert drive.parse_disk_size(text) == size_bytes


@UNHURRIED
@given(st.integers(min_value=0, max_value=2**60))
def test_sizes_survive_printing_and_parsing(size_bytes: int) -> None:
    assert drive.parse_disk_size(drive.format_disk_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    "text", ["virtio=BC:24:11:00:00:01,bridge=vmbr0", "bridge=vmbr0,model=virtio,macaddr=BC:24:11:00:00:01"]
)
def test_a_nic_is_stored_as_model_and_mac(text: str) -> None:
    assert nic.canonical_nic(text) == "virtio=BC:24:11:00:00:01,bridge=vmbr0"


def test_a_nic_without_a_mac_gets_one_of_proxmox_own() -> None:
    first, second = nic.canonical_nic("virtio,bridge=vmbr0"), nic.canonical_nic("virtio,bridge=vmbr0")
    assert first.startswith("virtio=BC:24:11:")
    assert first != second


def test_the_boot_order_is_first_disk_first_cdrom_first_nic() -> None:
    values = {
        "efidisk0": "local:1/vm-1-disk-0.raw",
        "scsi1": "local:1/vm-1-disk-1.raw",
        "ide2": "local:1/vm-1-cloudinit.qcow2,media=cdrom",
        "net1": "virtio",
    }
    assert drive.default_boot_order(values) == "order=scsi1;ide2;net1"
