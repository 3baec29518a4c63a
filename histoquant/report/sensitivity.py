"""Tables that say how far the result hangs on the threshold of a positive cell."""

from __future__ import annotations

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

_KEYS = ["analysis", "marker", "marker_2", "group", "group_2"]
_REMARK = (
    "Counted again from the stored cells, all markers’ thresholds changed together; nothing was segmented "
    "again, so a ring too faint to be found stays unfound. What other stain vectors do cannot be told from "
    'stored cells: run again into another folder with stain.vectors = "auto" (per slide) or with a batch’s '
    "own two vectors, and compare patients.csv."
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
    factors = sorted(table["threshold_factor"].unique())
    heads = (_name_factor(factor) for factor in factors)
    columns = (Column("What", False), *(Column(head) for head in heads), Column("Note", False))
    rows = []
    for _, own in table.fillna(dict.fromkeys(_KEYS, "")).groupby(_KEYS, sort=False):
        by_factor = own.set_index("threshold_factor")
        cells = [_tell(by_factor.loc[factor]) for factor in factors]
        rows.append((_name(own.iloc[0]), *cells, _note(own["p"])))
    return make_table("Thresholds 20 % lower to 20 % higher.", columns, rows, _REMARK)


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
