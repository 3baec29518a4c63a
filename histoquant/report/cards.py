"""What the page shows of each section: facts, overview, fields, small pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pandas as pd

from histoquant.report.formats import (
    ABSENT,
    format_count,
    format_field,
    format_mean_sd,
    format_number,
    format_text,
    is_absent,
)
from histoquant.report.table import Cell, Column, Row, Table, make_table


def make_cards(
    sections: pd.DataFrame,
    fields: pd.DataFrame,
    overviews: Mapping[str, str],
    thumbnails: Mapping[tuple[str, int], str],
    links: Mapping[tuple[str, int], str],
) -> list[dict[str, Any]]:
    """Gather what the page shows of each section: facts, overview, fields, small pictures.

    Parameters
    ----------
    sections, fields : DataFrame
        Columns of sections.csv and fields.csv.
    overviews, thumbnails : mapping to str
        Data URIs.
    links : mapping of (section, field) to str
        Paths of full pictures, not quoted.

    Returns
    -------
    list of dict
        In the order of `sections`.
    """
    cards = []
    for at, row in enumerate(sections.to_dict("records"), 1):
        section = str(row["section"])
        own = fields[fields["section"] == section].to_dict("records") if len(fields) else []
        hrefs = {number: quote_link(path) for (name, number), path in links.items() if name == section}
        pictures = [
            {"src": thumbnails[section, field["field"]], "href": hrefs.get(field["field"], ""),
             "number": format_field(field["field"]), "alt": _describe_field(section, field)}
            for field in own if (section, field["field"]) in thumbnails
        ]  # fmt: skip
        cards.append(
            {"id": f"section-{at}", "section": section, "status": format_text(row["status"]),
             "facts": _tell_section(row), "reason": "" if is_absent(row["reason"]) else str(row["reason"]),
             "overview": overviews.get(section, ""), "fields": _tabulate_fields(section, own, hrefs),
             "pictures": pictures}
        )  # fmt: skip
    return cards


def quote_link(path: str) -> str:
    """Quote a relative path for use as a link; it can name no other scheme or host.

    Examples
    --------
    >>> quote_link("sections/张 100%2F/overlays/1.jpg")
    './sections/%E5%BC%A0%20100%252F/overlays/1.jpg'
    """
    return "./" + quote(path.lstrip("/"), safe="/")


def _tell_section(row: Row) -> str:
    parts = [
        f"patient {format_text(row['patient'])}", format_text(row["marker"]),
        "no group" if is_absent(row["group"]) else f"group {row['group']}",
        f"{format_mean_sd(row['cells_per_fiber'], row['cells_per_fiber_sd'])} positive cells per fiber",
    ]  # fmt: skip
    return " · ".join(parts + ([] if is_absent(row["control"]) else [f"{row['control']} control"]))


def _describe_field(section: str, field: Row) -> str:
    fibers, cells = format_count(field["fibers"]), format_count(field["positive_cells"])
    return f"Field {format_field(field['field'])} of {section}: {fibers} fibers, {cells} positive cells"


def _tabulate_fields(section: str, fields: list[Any], hrefs: Mapping[int, str]) -> Table | None:
    if not fields:
        return None
    columns = (
        Column("Field", False), Column("x, y (mm)"), Column("Tissue"), Column("Fibers"),
        Column("Positive cells"), Column("Cells per fiber"), Column("Cut fibers / cells"),
        Column("Positive fibers"), Column("Status", False),
    )  # fmt: skip
    return make_table(f"Fields of {section}.", columns, (_list_field(row, hrefs) for row in fields))


def _list_field(row: Row, hrefs: Mapping[int, str]) -> tuple[str | Cell, ...]:
    status = format_text(row["status"])
    # A field that counts may still want a look; "ok: dark" would say two things at once.
    joint = "; look: " if status == "ok" else ": "
    reason = "" if is_absent(row["reason"]) else f"{joint}{row['reason']}"
    x, y = ((None if is_absent(row[name]) else row[name] / 1000) for name in ("center_x_um", "center_y_um"))
    tissue = ABSENT if is_absent(row["tissue_fraction"]) else f"{100 * row['tissue_fraction']:.0f} %"
    return (
        Cell(format_field(row["field"]), href=hrefs.get(row["field"], "")),
        f"{format_number(x, 2)}, {format_number(y, 2)}", tissue,
        format_count(row["fibers"]), format_count(row["positive_cells"]),
        format_number(row["cells_per_fiber"]),
        f"{format_count(row['straddling_fibers'])} / {format_count(row['straddling_cells'])}",
        format_count(row["positive_fibers"]),
        Cell(f"{status}{reason}", state=status),
    )  # fmt: skip
