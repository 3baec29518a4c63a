"""The results in plain words: what was seen, with its numbers, and no more than they bear."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from histoquant.report.formats import (
    format_count,
    format_equals_p,
    format_interval,
    format_mean_sd,
    format_number,
    is_absent,
)
from histoquant.report.table import Row

ALPHA = 0.05
"""Level of significance of the paper."""


def tell_results(correlations: pd.DataFrame, comparisons: pd.DataFrame, confidence: float) -> list[str]:
    """Tell the main correlation and every group comparison.

    Parameters
    ----------
    correlations, comparisons : DataFrame
        Rows of statistics.csv, the main pair of markers first.
    confidence : float
        Of the intervals, 0 to 1.

    Returns
    -------
    list of str
        Sentences; empty without statistics.
    """
    told = [tell_correlation(row, confidence) for row in correlations.head(1).to_dict("records")]
    told += [tell_comparison(row) for row in comparisons.to_dict("records")]
    # "n = 3" stays on one line.
    return [re.sub(r" ([=<±]) ", "\u00a0\\1\u00a0", text).replace(" %", "\u00a0%") for text in told]


def tell_correlation(row: Row, confidence: float) -> str:
    """Tell one correlation.

    Parameters
    ----------
    row : mapping
        A row of statistics.csv.
    confidence : float
        Of the interval, 0 to 1.

    Returns
    -------
    str

    Examples
    --------
    >>> print(tell_correlation({"marker": "BAFF-R", "marker_2": "CD19", "n": 29, "estimate": 0.818,
    ...     "ci_low": 0.61, "ci_high": 0.92, "p": 1e-7, "p_exact": 1e-4}, 0.95))
    Patients with more BAFF-R-positive cells per fiber also had more CD19-positive cells per fiber: \
Spearman’s rho = 0.82 (95 % CI 0.61 to 0.92; n = 29 patients; P < 0.001, exact or permutation P < 0.001).
    """
    first, second = row["marker"], row["marker_2"]
    if is_absent(row.get("estimate")):
        reason = "" if is_absent(row.get("note")) else f": {row['note']}"
        count = format_count(row.get("n"))
        return f"{first} and {second}: no correlation could be computed (n = {count} patients){reason}."
    interval = ""
    if not is_absent(row.get("ci_low")) and not is_absent(row.get("ci_high")):
        interval = f"{100 * confidence:g} % CI {format_interval(row['ci_low'], row['ci_high'], 2)}; "
    rho, count = format_number(row["estimate"], 2), format_count(row["n"])
    numbers = f"({interval}n = {count} patients; {_tell_p(row)})"
    note = "" if is_absent(row.get("note")) else f" Note: {row['note']}."
    return f"{_tell_direction(row)}: Spearman’s rho = {rho} {numbers}.{note}"


def tell_comparison(row: Row) -> str:
    """Tell one comparison of two groups.

    Parameters
    ----------
    row : mapping
        A row of statistics.csv.

    Returns
    -------
    str

    Examples
    --------
    >>> print(tell_comparison({"marker": "CD19", "group": "a", "group_2": "b", "n": 19, "n_2": 10,
    ...     "mean": 0.18, "sd": 0.08, "mean_2": 0.36, "sd_2": 0.21, "p": 0.002, "p_exact": 0.0015}))
    CD19: 0.18 ± 0.08 positive cells per fiber in a (n = 19), 0.36 ± 0.21 in b (n = 10); \
P = 0.002, exact or permutation P = 0.002.
    """
    first = format_mean_sd(row.get("mean"), row.get("sd"), 2)
    second = format_mean_sd(row.get("mean_2"), row.get("sd_2"), 2)
    count, count_2 = format_count(row.get("n")), format_count(row.get("n_2"))
    return (
        f"{row['marker']}: {first} positive cells per fiber in {row['group']} (n = {count}), "
        f"{second} in {row['group_2']} (n = {count_2}); {_tell_p(row)}."
    )


def _tell_direction(row: Row) -> str:
    first, second = (f"{row[name]}-positive cells per fiber" for name in ("marker", "marker_2"))
    p: Any = row.get("p")
    estimate: Any = row["estimate"]
    if is_absent(p):
        return f"{first} and {second} (not tested)"
    if float(p) >= ALPHA:
        return f"No relation between {first} and {second} was shown, which is not proof that there is none"
    text = f"Patients with more {first} also had {'more' if estimate > 0 else 'fewer'} {second}"
    low, high = row.get("ci_low"), row.get("ci_high")
    if is_absent(low) or is_absent(high) or float(low) * float(high) > 0:  # type: ignore[arg-type]
        return text
    return f"{text}, though the interval includes 0"


def _tell_p(row: Row) -> str:
    p: Any = row.get("p")
    exact: Any = row.get("p_exact")
    text = f"P {format_equals_p(p)}"
    if is_absent(exact):
        return text
    text += f", exact or permutation P {format_equals_p(exact)}"
    if not is_absent(p) and (float(p) < ALPHA) != (float(exact) < ALPHA):
        text += f"; the two lie on either side of {ALPHA:g}"
    return text
