"""Parameters are refused in Proxmox's own words. Texts: pve-common, PVE/JSONSchema.pm."""

from __future__ import annotations

from typing import Any

import pytest

from vi_ops.lab.format import FormatError, Formats, split_property_string
from vi_ops.lab.route import Refusal
from vi_ops.lab.schema import MISSING, UNKNOWN, Schema

NET = {
    "model": {"type": "string", "default_key": True, "enum": ["virtio", "e1000"]},
    "virtio": {"alias": "macaddr", "keyAlias": "model"},
    "macaddr": {"type": "string", "optional": True},
    "bridge": {"type": "string", "optional": True},
    "firewall": {"type": "boolean", "optional": True},
}
PARAMS: dict[str, Any] = {
    "vmid": {"type": "integer", "format": "pve-vmid", "minimum": 100},
    "cores": {"type": "integer", "minimum": 1, "maximum": 8, "optional": True},
    "onboot": {"type": "boolean", "optional": True},
    "name": {"type": "string", "maxLength": 5, "minLength": 2, "optional": True},
    "bios": {"type": "string", "enum": ["ovmf", "seabios"], "optional": True},
    "tag": {"type": "string", "pattern": "[a-z]+", "optional": True},
    "tags": {"type": "string", "format": "pve-tag-list", "optional": True},
    "net[n]": {"type": "string", "format": NET, "optional": True},
    "ipconfig[n]": {"type": "string", "format": "pve-qm-ipconfig", "optional": True},
    "command": {"type": "array", "items": {"type": "string"}, "optional": True},
    "force": {"type": "boolean", "requires": "archive", "optional": True},
    "archive": {"type": "string", "optional": True},
}
FORMATS = Formats(
    simple={
        "pve-vmid": {"regex": "[1-9][0-9]{2,8}", "error": "value does not look like a valid VM ID"},
        "pve-tag": {"regex": "[a-z]+", "error": "invalid characters in tag"},
        "ipv4": {"regex": r"\d+\.\d+\.\d+\.\d+", "error": "value does not look like a valid IPv4 address"},
    },
    property_strings={
        "pve-qm-ipconfig": {
            "keys": {
                "ip": {"type": "string", "format": "pve-ipv4-config", "optional": True},
                "gw": {"type": "string", "format": "ipv4", "optional": True, "requires": "ip"},
                "new": {"type": "string", "optional": True, "since": "9"},
            }
        }
    },
    indexed={"net": 32, "ipconfig": 32},
)
SCHEMA = Schema({"POST /x": {"params": PARAMS}}, FORMATS)
BAD_NETWORK = "value does not look like a valid ipv4 network configuration\n"


def refused(**params: Any) -> dict[str, str]:
    with pytest.raises(Refusal, match="Parameter verification failed") as caught:
        SCHEMA.check("POST", "/x", {"vmid": "100", **params})
    assert caught.value.status == 400
    return caught.value.errors or {}


@pytest.mark.parametrize(
    ("params", "errors"),
    [
        ({"vmid": "x"}, {"vmid": "type check ('integer') failed - got 'x'"}),
        # The format comes before the limits: 99 is no VM ID, whatever the minimum says.
        ({"vmid": "99"}, {"vmid": "invalid format - value does not look like a valid VM ID\n"}),
        ({"cores": "0"}, {"cores": "value must have a minimum value of 1"}),
        ({"cores": "9"}, {"cores": "value must have a maximum value of 8"}),
        ({"onboot": "true"}, {"onboot": "type check ('boolean') failed - got 'true'"}),
        ({"name": "abcdef"}, {"name": "value may only be 5 characters long"}),
        ({"name": "a"}, {"name": "value must be at least 2 characters long"}),
        ({"bios": "x"}, {"bios": "value 'x' does not have a value in the enumeration 'ovmf, seabios'"}),
        ({"tag": "A"}, {"tag": "value does not match the regex pattern"}),
        ({"tags": "a;b,C"}, {"tags": "invalid format - invalid characters in tag\n"}),
        ({"foo": "1"}, {"foo": UNKNOWN}),
        ({"net32": "virtio"}, {"net32": UNKNOWN}),
        ({"net01": "virtio"}, {"net01": UNKNOWN}),
        ({"force": "1"}, {"archive": "missing property required by 'force'"}),
        ({"name": ["ab", "cd"]}, {"name": "type check ('string') failed - got ARRAY"}),
        (
            {"net0": "virtio,bridge"},
            {"net0": "invalid format - duplicate key in comma-separated list property: model\n"},
        ),
        (
            {"net0": "virtio,x=1"},
            {"net0": "invalid format - invalid key in comma-separated list property: x\n"},
        ),
        ({"net0": "bridge=a"}, {"net0": f"invalid format - format error\nnet0.model: {MISSING}\n"}),
        (
            {"ipconfig0": "ip=300.1.1.1/99"},
            {"ipconfig0": f"invalid format - format error\nipconfig0.ip: invalid format - {BAD_NETWORK}\n"},
        ),
        (
            {"ipconfig0": "gw=10.0.0.1"},
            {
                "ipconfig0": "invalid format - format error\n"
                "ipconfig0.ip: missing property required by 'ipconfig0.gw'\n"
            },
        ),
        (
            {"ipconfig0": "dhcp"},
            {"ipconfig0": "invalid format - value without key, but schema does not define a default key\n"},
        ),
    ],
)
def test_wrong_parameter_is_named(params: dict[str, Any], errors: dict[str, str]) -> None:
    assert refused(**params) == errors


def test_every_wrong_parameter_is_named_at_once() -> None:
    assert refused(cores="0", foo="1", bios="x").keys() == {"cores", "foo", "bios"}


def test_missing_parameter_is_named() -> None:
    with pytest.raises(Refusal) as caught:
        SCHEMA.check("POST", "/x", {})
    assert caught.value.errors == {"vmid": MISSING}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"command": "id"}, {"command": ["id"]}),
        ({"command": ["id", "-u"]}, {"command": ["id", "-u"]}),
        ({"tags": ["a", "b"]}, {"tags": "a,b"}),
        ({"net0": "virtio=AA:BB,bridge=x,firewall=on"}, {"net0": "virtio=AA:BB,bridge=x,firewall=on"}),
        ({"ipconfig0": "ip=dhcp"}, {"ipconfig0": "ip=dhcp"}),
        ({"onboot": "1"}, {"onboot": "1"}),
    ],
)
def test_right_parameter_is_shaped(given: dict[str, Any], seen: dict[str, Any]) -> None:
    assert SCHEMA.check("POST", "/x", {"vmid": "100", **given}) == {"vmid": "100", **seen}


def test_method_that_the_schema_lacks_takes_all() -> None:
    assert SCHEMA.check("GET", "/y", {"a": "b"}) == {"a": "b"}


def test_key_of_a_later_release_is_unknown_before_it() -> None:
    old = Formats(property_strings=FORMATS.property_strings, major=8)
    assert "new" in (FORMATS.keys_of("pve-qm-ipconfig") or {})
    assert "new" not in (old.keys_of("pve-qm-ipconfig") or {})


def test_alias_brings_its_name_along() -> None:
    assert split_property_string(NET, "virtio=AA:BB,firewall=yes") == {
        "model": "virtio",
        "macaddr": "AA:BB",
        "firewall": "1",
    }
    with pytest.raises(FormatError, match="key alias 'model' is already defined"):
        split_property_string(NET, "e1000,virtio=AA:BB")


@pytest.mark.parametrize("text", ["10.0.0.1/24", "dhcp", "manual", "10.0.0.1/8"])
def test_address_is_accepted(text: str) -> None:
    FORMATS.check("pve-ipv4-config", text)


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1/7", "10.0.0.1/33", "fe80::1/64", "auto", ""])
def test_address_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="ipv4 network"):
        FORMATS.check("pve-ipv4-config", text)
