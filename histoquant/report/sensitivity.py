"""Tables that say how far the result hangs on the threshold of a positive cell and on the stain vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from histoquant.report.formats import (
    ABSENT,
    format_count,
    format_equals_p,
    format_number,
    format_text,
    is_absent,
)
from histoquant.report.sentences import ALPHA
from histoquant.report.table import Column, Table, make_table
from histoquant.sensitivity import USED, VECTORS

_KEYS = ["analysis", "marker", "marker_2", "group", "group_2"]
_REMARK = (
    "Counted again from the stored cells, all markers’ thresholds changed together; nothing was segmented "
    "again, so a ring too faint to be found stays unfound. What other stain vectors do is told by "
    "the command histoquant vectors, given this run’s folder; it reads the fields’ pixels again."
)
_REMARK_VECTORS = (
    "Cells measured again in the pixels by other stain vectors, fibers and outlines of cells kept, so that a "
    "ring that only other vectors would show stays unfound. Slide: estimated on each slide; batch: the "
    "median of these over its batch. Angles to the default vectors, least to largest: haematoxylin {blue}, "
    "DAB {brown} degrees per slide; {blue_batch} and {brown_batch} per batch.{failed} All are in vectors.csv."
)
_SUGGESTION = (
    "A suggestion: nothing was changed. To take one, set threshold_od of the marker in the protocol and run "
    "again, controls and patients alike."
)


def tabulate_sensitivity(table: pd.DataFrame) -> Table | None:
    """Tabulate ratio, rho and differences of groups by the factor of the threshold.

    Parameters
    ----------
    table : DataFrame
        See `histoquant.sensitivity.try_thresholds`.

    Returns
    -------
    Table or None
        None if there is nothing.
    """
    if table.empty:
        return None
    heads = {factor: _name_factor(factor) for factor in sorted(table["threshold_factor"].unique())}
    return _tabulate(table, "threshold_factor", heads, "Thresholds 20 % lower to 20 % higher.", _REMARK)


def tabulate_vectors(table: pd.DataFrame, tried: pd.DataFrame) -> Table | None:
    """Tabulate ratio, rho and differences of groups by stain vectors.

    Parameters
    ----------
    table : DataFrame
        See `histoquant.sensitivity.try_vectors`.
    tried : DataFrame
        See `histoquant.sensitivity.VECTORS_COLUMNS`.

    Returns
    -------
    Table or None
        None if there is nothing.
    """
    if table.empty:
        return None
    failed = int(tried["slide_source"].ne("estimated").sum())
    remark = _REMARK_VECTORS.format(
        blue=_span(tried["slide_haematoxylin_deg"]),
        brown=_span(tried["slide_dab_deg"]),
        blue_batch=_span(tried["batch_haematoxylin_deg"]),
        brown_batch=_span(tried["batch_dab_deg"]),
        failed=f" On {failed} of {len(tried)} slides they could not be estimated; the default stands there."
        if failed
        else "",
    )
    return _tabulate(table, "vectors", {name: name for name in (USED, *VECTORS)}, "Stain vectors.", remark)


def _tabulate(table: pd.DataFrame, column: str, heads: Mapping[Any, str], caption: str, remark: str) -> Table:
    columns = (Column("What", False), *map(Column, heads.values()), Column("Note", False))
    rows = []
    for _, own in table.fillna(dict.fromkeys(_KEYS, "")).groupby(_KEYS, sort=False):
        values = own.set_index(column)
        cells = [_tell(values.loc[name]) for name in heads]
        rows.append((_name(own.iloc[0]), *cells, _note(own["p"])))
    return make_table(caption, columns, rows, remark)


def _span(angles: pd.Series[float]) -> str:
    return f"{angles.min():.1f} to {angles.max():.1f}"


def tabulate_thresholds(table: pd.DataFrame) -> Table | None:
    """Tabulate what the negative controls of each batch say about the thresholds.

    Parameters
    ----------
    table : DataFrame
        See `histoquant.sensitivity.suggest_thresholds`.

    Returns
    -------
    Table or None
        None if there is no negative control.
    """
    if table.empty:
        return None
    columns = (
        Column("Marker", False), Column("Batch", False), Column("Cells"),
        Column("99 % stay under (OD)"), Column("Threshold used (OD)"), Column("Cells above it"),
        Column("Note", False),
    )  # fmt: skip
    rows = (
        (
            format_text(row["marker"]), format_text(row["batch"]), format_count(row["cells"]),
            format_number(row["dab_od_99"]), format_number(row["threshold_od"]),
            ABSENT if is_absent(row["share_above"]) else f"{100 * row['share_above']:.2g} %",
            format_text(row["note"]),
        )
        for row in table.to_dict("records")
    )  # fmt: skip
    return make_table("DAB of cells in negative controls.", columns, rows, _SUGGESTION)


def _name_factor(factor: float) -> str:
    return "as used" if factor == 1 else f"{100 * (factor - 1):+.0f} %".replace("-", "−")


def _name(row: pd.Series[Any]) -> str:
    if row["analysis"] == "ratio":
        return f"{row['marker']}: mean cells per fiber" + (f", {row['group']}" if row["group"] else "")
    if row["analysis"] == "correlation":
        return f"rho of {row['marker']} and {row['marker_2']}"
    return f"{row['marker']}: {row['group_2']} − {row['group']}"


def _tell(row: pd.Series[Any]) -> str:
    value = format_number(row["estimate"])
    return value if is_absent(row["p"]) else f"{value} (P {format_equals_p(row['p'])})"


def _note(p: pd.Series[float]) -> str:
    below = p.dropna() < ALPHA
    return f"P on either side of {ALPHA:g}" if below.any() and not below.all() else ABSENT
