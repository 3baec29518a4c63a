"""Counts of a run beside a person's, field by field, section by section, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from histoquant.agreement import AGREEMENT_COLUMNS, compare_values
from histoquant.geometry import Field
from histoquant.synthetic.compare import compare_sections
from histoquant.validation.cells import count_marks, judge_cells

QUANTITIES = ("fibers", "positive_cells", "cells_per_fiber")
PAIR_COLUMNS = (
    *("patient", "marker", "section", "field", "fibers", "true_fibers"),
    *("positive_cells", "true_positive_cells", "cells_per_fiber", "true_cells_per_fiber"),
)
SUMMARY_COLUMNS = ("marker", "level", "quantity", *AGREEMENT_COLUMNS)
USABLE = ("ok", "no_fibers")
_COUNTED = ("fibers", "positive_cells")


def make_field(row: Mapping[str, object]) -> Field:
    """Make a field from its row of fields.csv."""
    places = (float(str(row[name])) for name in ("center_x_um", "center_y_um", "width_um", "height_um"))
    return Field(int(str(row["field"])), str(row["shape"]), *places)  # type: ignore[arg-type]


def count_truth(fields: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
    """Count a person's marks in the run's fields by the half-area rule.

    Parameters
    ----------
    fields : DataFrame
        Rows of fields.csv.
    marks : DataFrame
        See `histoquant.validation.truth.Truth`. Marks that name a field lie in that one only, and only
        fields that are named are counted then.

    Returns
    -------
    DataFrame
        section, field, fibers (nan where the section has no fiber marked), positive_cells (nan where
        nobody marked a cell).
    """
    rows = []
    cells = bool(marks["kind"].eq("cell").any())
    for section, own in marks.groupby("section", sort=True):
        fibers = bool(own["kind"].eq("fiber").any())
        for row in fields[fields["section"].eq(section)].to_dict("records"):
            inside = select_field(own, int(row["field"]))
            if inside is None:
                continue
            counted = inside[count_marks(inside, make_field({str(k): v for k, v in row.items()}))]
            fiber, positive = counted["kind"].eq("fiber"), counted["positive"].eq(1)
            rows.append(
                {
                    **{"section": section, "field": int(row["field"])},
                    "fibers": float(fiber.sum()) if fibers else np.nan,
                    "positive_cells": float((~fiber & positive).sum()) if cells else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=["section", "field", *_COUNTED])


def select_field(marks: pd.DataFrame, number: int) -> pd.DataFrame | None:
    """Select the marks of a section that belong to a field; None if marks name fields, but not this one."""
    if marks["field"].isna().all():
        return marks
    own = marks[marks["field"].isna() | marks["field"].eq(number)]
    return own if len(own) else None


def pair_fields(fields: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """Put a run's counts of fields beside a person's.

    Parameters
    ----------
    fields : DataFrame
        Rows of fields.csv.
    counts : DataFrame
        section, field, fibers, positive_cells of the person; nan is not counted.

    Returns
    -------
    DataFrame
        Columns `PAIR_COLUMNS`, a row per field that both have.
    """
    true = counts[["section", "field"]].assign(**{f"true_{name}": counts[name] for name in _COUNTED})
    own = fields[["patient", "marker", "section", "field", *_COUNTED]].astype({"field": "int64"})
    pairs = own.merge(true.astype({"field": "int64"}), on=["section", "field"])
    for name in ("", "true_"):
        numbers = pairs[[f"{name}{part}" for part in _COUNTED]].astype(float)
        fibers, cells = numbers.iloc[:, 0], numbers.iloc[:, 1]
        pairs[f"{name}cells_per_fiber"] = cells / fibers.where(fibers > 0)
        pairs[list(numbers.columns)] = numbers
    return pairs[list(PAIR_COLUMNS)].sort_values(["patient", "marker", "section", "field"], ignore_index=True)


def pair_sections(pairs: pd.DataFrame) -> pd.DataFrame:
    """Sum fields to sections, over the fields that both counted; the ratio is the mean of their ratios.

    Parameters
    ----------
    pairs : DataFrame
        What `pair_fields` made.

    Returns
    -------
    DataFrame
        patient, marker, section, fields, and the six numbers of `PAIR_COLUMNS`.
    """
    masked = pairs.copy()
    for part in _COUNTED:
        both = [part, f"true_{part}"]
        masked.loc[pairs[both].isna().any(axis=1), both] = np.nan
    sections = compare_sections(masked)
    sections.insert(3, "fields", sections["section"].map(pairs["section"].value_counts()))
    return sections


def summarise_agreement(
    pairs: pd.DataFrame, sections: pd.DataFrame, cells: pd.DataFrame, confidence: float
) -> pd.DataFrame:
    """Summarise the agreement of all sections, and of each marker where there are several.

    Parameters
    ----------
    pairs, sections, cells : DataFrame
        Fields and sections as paired, and matched cells (may be empty).
    confidence : float
        Of limits and intervals.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`: marker (empty: all), level ("section", "field", "cell"), quantity, and a
        row per measure of `histoquant.agreement`.
    """
    markers = sorted(set(pairs["marker"]))
    parts = []
    for marker in ["", *markers] if len(markers) > 1 else markers:
        for level, table in (("section", sections), ("field", pairs)):
            own = table[table["marker"].eq(marker)] if marker else table
            for part in QUANTITIES:
                if own[f"true_{part}"].notna().any():
                    found = compare_values(own[part], own[f"true_{part}"], confidence)
                    parts.append(found.assign(marker=marker, level=level, quantity=part))
        names = set(pairs.loc[pairs["marker"].eq(marker), "section"]) if marker else set(pairs["section"])
        own = cells[cells["section"].isin(names)]
        if len(own):
            parts.append(judge_cells(own, confidence).assign(marker=marker, level="cell"))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(SUMMARY_COLUMNS))
    return table[list(SUMMARY_COLUMNS)]
