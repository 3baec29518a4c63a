"""A table of the page."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from histoquant.report.formats import ABSENT

Row = Mapping[Hashable, Any]
"""A row of a stored table by column."""


class Cell(NamedTuple):
    """A cell of a table: text, where it leads, and its state (`ok`, `failed`, ...)."""

    text: str
    href: str = ""
    state: str = ""


class Column(NamedTuple):
    """A column of a table: its heading, and whether it holds numbers."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the page: caption, columns, rows of cells (the first is the row's heading), a remark."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    remark: str = ""


def make_table(
    caption: str, columns: Iterable[Column], rows: Iterable[Iterable[str | Cell]], remark: str = ""
) -> Table:
    """Make a table of plain texts and cells; a column of notes or groups that holds none is left out."""
    titles = tuple(columns)
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    # A column of remarks without a remark only takes room.
    kept = [
        at
        for at, column in enumerate(titles)
        if column.title not in ("Note", "Group") or any(row[at].text != ABSENT for row in cells)
    ]
    return Table(
        caption,
        tuple(titles[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in cells),
        remark,
    )
