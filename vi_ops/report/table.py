"""Tables of words: aligned columns without frames, so that they can be read, cut and searched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console

from vi_ops.report.text import Page, wrap

_GAP = "  "
# Columns that the last cell of a row should have at least.
_LEAST = 20


def print_table(console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headers; where the width does not suffice, cells wrap at words."""
    table = (headers, *rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(headers) - 1)]
    page = Page(console.width)
    _narrow(widths, [_longest_word(column) for column in zip(*table, strict=True)], page.width)
    for number, row in enumerate(table):
        style = "bold" if number == 0 else ""
        cells = [wrap(cell, width) for cell, width in zip(row, widths, strict=False)]
        room = page.width - sum(widths) - len(_GAP) * len(widths)
        cells.append(wrap(row[-1], max(room, _LEAST)))
        for line in zip_longest(*cells, fillvalue=""):
            lead = "".join(f"{cell:{width}}{_GAP}" for cell, width in zip(line, widths, strict=False))
            page.add_line(lead + line[-1], style)
    page.show(console)


def _narrow(widths: list[int], least: Sequence[int], width: int) -> None:
    """Take columns from the widest cells, down to their longest word, until the last one has some room."""
    while sum(widths) + len(_GAP) * len(widths) + max(least[-1], _LEAST) > width:
        room, column = max((own - least[number], number) for number, own in enumerate(widths))
        if room <= 0:
            return
        widths[column] -= 1


def _longest_word(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in wrap(cell, 1))
