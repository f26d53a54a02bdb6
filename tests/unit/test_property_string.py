"""Property strings: what is printed is read back the same, whatever the order, and what is odd is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vi_ops.errors import FactError
from vi_ops.facts.property_string import format_property_string, parse_property_string
from vi_ops.plan.diff import NIC_MODELS, format_net, parse_net

KEYS = st.from_regex(r"[a-z][a-z0-9_\-]{0,8}", fullmatch=True)
VALUES = st.text(
    st.characters(codec="ascii", exclude_characters=",", categories=["L", "N", "P", "S"]), min_size=1
)
MACS = st.from_regex(r"[0-9A-F][02468ACE](:[0-9A-F]{2}){5}", fullmatch=True)


@given(values=st.dictionaries(KEYS, VALUES, max_size=6))
def test_round_trip(values: dict[str, str]) -> None:
    assert parse_property_string(format_property_string(values)) == values


@given(values=st.dictionaries(KEYS, VALUES, max_size=6), file=VALUES.filter(lambda text: "=" not in text))
def test_round_trip_with_a_default_key(values: dict[str, str], file: str) -> None:
    values = {**values, "file": file}
    text = format_property_string(values, "file")
    assert text.partition(",")[0] == file
    assert parse_property_string(text, "file") == values


@given(values=st.dictionaries(KEYS, VALUES, max_size=6), order=st.randoms())
def test_the_order_does_not_matter(values: dict[str, str], order: st.randoms) -> None:  # type: ignore[valid-type]
    parts = format_property_string(values).split(",")
    order.shuffle(parts)  # type: ignore[attr-defined]
    assert parse_property_string(",".join(parts)) == values


@given(model=st.sampled_from(sorted(NIC_MODELS)), mac=st.none() | MACS, tag=st.none() | st.integers(1, 4094))
def test_nics_round_trip(model: str, mac: str | None, tag: int | None) -> None:
    values = {"model": model, "bridge": "vmbr0"}
    values |= {"macaddr": mac} if mac else {}
    values |= {"tag": str(tag)} if tag else {}
    assert parse_net(format_net(values)) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a=1,,b=2,", {"a": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        (
            "local:0,import-from=local:import/x.qcow2",
            {"file": "local:0", "import-from": "local:import/x.qcow2"},
        ),
        ("import-from=x,local:0", {"file": "local:0", "import-from": "x"}),
    ],
)
def test_reads(text: str, values: dict[str, str]) -> None:
    assert parse_property_string(text, "file") == values


@pytest.mark.parametrize("text", ["x", "a=1,x", "a=1,a=2"])
def test_refuses_a_value_without_key_and_a_key_twice(text: str) -> None:
    with pytest.raises(FactError) as raised:
        parse_property_string(text)
    assert raised.value.code == "property-string"


def test_refuses_a_second_value_without_key() -> None:
    with pytest.raises(FactError):
        parse_property_string("x,y", "file")


def test_booleans_become_digits_and_commas_are_refused() -> None:
    assert format_property_string({"on": True, "off": False, "size": 4}) == "on=1,off=0,size=4"
    with pytest.raises(ValueError, match="comma"):
        format_property_string({"a": "1,2"})
