"""Tables of words: aligned columns without frames, so that they can be read, cut and searched."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from vi_ops.report.text import Page

_GAP = "  "


def print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headers; where the width does not suffice, the last column wraps."""
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers) - 1)]
    page = Page(console.width)
    for number, row in enumerate((headers, *rows)):
        lead = "".join(f"{cell:{width}}{_GAP}" for cell, width in zip(row, widths, strict=False))
        style = "bold" if number == 0 else ""
        page.add(row[-1], prefix=lead, prefix_style=style, style=style)
    page.show(console)
