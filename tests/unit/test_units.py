"""Sizes: what is read is what was written, and decimal units never slip through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vi_ops.units import GIB, KIB, MIB, TIB, exact_size, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("150 GiB", 150 * GIB),
        ("150GiB", 150 * GIB),
        ("150G", 150 * GIB),
        (" 16 GiB ", 16 * GIB),
        ("1.5 GiB", 1536 * MIB),
        ("0.5 KiB", 512),
        ("2 TiB", 2 * TIB),
        ("754 MiB", 754 * MIB),
        ("8K", 8 * KIB),
    ],
)
def test_a_size_with_its_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("150 GB", "did you mean '150 GiB'?"),
        ("150 gib", "did you mean '150 GiB'?"),
        ("150 gb", "did you mean '150 GiB'?"),
        ("1 MB", "did you mean '1 MiB'?"),
        ("16", "expected a size with its unit"),
        ("GiB", "expected a size with its unit"),
        ("-1 GiB", "expected a size with its unit"),
        ("1,5 GiB", "expected a size with its unit"),
        ("1e3 GiB", "expected a size with its unit"),
        ("", "expected a size with its unit"),
        ("4 bytes", "use KiB, MiB, GiB, TiB"),
        ("0.1 KiB", "not a whole number of bytes"),
        ("٣ GiB", "expected a size with its unit"),
    ],
)
def test_anything_else_is_refused_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"unit|whole") as refused:
        parse_size(text)
    assert says in str(refused.value)


@given(st.integers(min_value=1, max_value=2**60 // KIB).map(lambda kib: kib * KIB))
def test_an_exact_size_reads_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


@given(st.integers(min_value=1, max_value=2**50))
def test_bytes_that_are_not_whole_kib_are_never_rounded(size_bytes: int) -> None:
    if size_bytes % KIB:
        with pytest.raises(ValueError, match="KiB"):
            exact_size(size_bytes)


@given(st.integers(min_value=KIB, max_value=2**60))
def test_a_size_for_reading_is_within_five_per_cent(size_bytes: int) -> None:
    number, unit = format_size(size_bytes).split()
    factor = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}[unit]
    assert float(number) * factor == pytest.approx(size_bytes, rel=0.05)


@given(st.text() | st.from_regex(r"[0-9]{1,30}(\.[0-9]{1,30})? ?[A-Za-z]{1,3}", fullmatch=True))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        said = str(error)
    else:
        said = "unit" if size_bytes >= 0 else ""
    assert "unit" in said or "whole" in said
