"""Change rates of MRI scores.

Fatty infiltration (modified Mercuri, 0 to 5) and edema (0 to 5) of every muscle and side add up to a total.
The average change rate is the difference of two totals / months between them: for fat after - before, an
increase being the rate; for edema before - after, a reduction being it. After Zhao et al. 2020, doi
10.1186/s13023-020-01431-7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from histoquant.errors import StudyError

MUSCLES = (
    *("gluteus maximus", "vastus intermedius", "vastus medialis", "vastus lateralis", "rectus femoris"),
    *("biceps femoris", "semitendinosus", "semimembranosus", "adductor magnus", "sartorius"),
    *("adductor longus", "gracilis"),
)
SCORES = {"fat": 1.0, "edema": -1.0}
"""Scores, and the sign that makes their change a rate."""
INTERVALS = (3, 6, 12, 18, 24)
SCORE_COLUMNS = ("patient", "group", "month", "muscle", "side", "fat", "edema")
RATE_COLUMNS = (
    *("patient", "group", "month_before", "month", "months", "interval", "muscles"),
    *("fat_before", "fat", "fat_rate", "edema_before", "edema", "edema_rate", "note"),
)
_REACH = 0.3  # of an interval: how far from it a visit may lie


def add_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Add the scores of a visit; a total needs every muscle and side that the table has.

    Parameters
    ----------
    scores : DataFrame
        Columns `SCORE_COLUMNS`; scores may be missing.

    Returns
    -------
    DataFrame
        patient, group, month, fat, edema (missing where a score is), muscles (with both scores), sorted.

    Raises
    ------
    StudyError
        A muscle and side of a visit has two rows, or a patient two groups.

    Examples
    --------
    >>> rows = [("P1", "A", 0, "gracilis", side, 2, 1) for side in ("left", "right")]
    >>> add_scores(pd.DataFrame(rows, columns=SCORE_COLUMNS))[["fat", "edema", "muscles"]].iloc[0].tolist()
    [4, 2, 2]
    """
    twice = scores.duplicated(["patient", "month", "muscle", "side"])
    if twice.any():
        row = scores[twice].iloc[0]
        raise StudyError(
            f"{row['muscle']} {row['side']} of {row['patient']} has two rows at month {row['month']:g}",
            "scores",
            "keep one of them",
        )
    groups = scores.groupby("patient")["group"].nunique()
    if (groups > 1).any():
        raise StudyError(f"{groups.idxmax()} has two groups", "scores", "give each patient one group")
    expected = len(scores[["muscle", "side"]].drop_duplicates())
    visits = scores.groupby(["patient", "group", "month"], sort=True, dropna=False)
    totals = visits[list(SCORES)].sum()
    known = visits[list(SCORES)].count()
    both = scores.assign(both=scores[list(SCORES)].notna().all(axis=1))
    muscles = both.groupby(["patient", "group", "month"], sort=True, dropna=False)["both"].sum()
    return totals.where(known.eq(expected)).assign(muscles=muscles).reset_index()


def compute_rates(totals: pd.DataFrame, between: bool = False) -> pd.DataFrame:
    """Compute the change rate of every visit after the first.

    Parameters
    ----------
    totals : DataFrame
        What `add_scores` made.
    between : bool, optional
        Since the visit before instead of since the first.

    Returns
    -------
    DataFrame
        Columns `RATE_COLUMNS`; rates are points per month, missing where a total is. `interval` is the
        nearest of 3, 6, 12, 18 and 24 months since the first visit, within 30 %; of two visits near one, the
        nearer has it.

    Examples
    --------
    >>> rows = [("P1", "A", 0.0, 10.0, 20.0, 24), ("P1", "A", 6.0, 13.0, 8.0, 24)]
    >>> totals = pd.DataFrame(rows, columns=["patient", "group", "month", "fat", "edema", "muscles"])
    >>> compute_rates(totals)[["interval", "fat_rate", "edema_rate"]].iloc[0].tolist()
    [6.0, 0.5, 2.0]
    """
    rows: list[dict[str, Any]] = []
    for _, own in totals.groupby("patient", sort=True):
        visits = own.sort_values("month").to_dict("records")
        for at, visit in enumerate(visits[1:], start=1):
            before = visits[at - 1] if between else visits[0]
            rows.append(_compare(before, visit, visit["month"] - visits[0]["month"]))
    table = pd.DataFrame(rows, columns=list(RATE_COLUMNS))
    taken = (table["month"] - _first(table, totals) - table["interval"].astype(float)).abs()
    order = table.assign(_far=taken).sort_values("_far", kind="stable")
    second = order[order["interval"].notna()].duplicated(["patient", "interval"])
    lost = second[second].index
    table.loc[lost, "note"] = [
        _join(note, f"another visit lies nearer to {int(interval)} months")
        for note, interval in table.loc[lost, ["note", "interval"]].itertuples(index=False)
    ]
    table.loc[lost, "interval"] = np.nan
    return table.astype({"interval": "Int64", "muscles": "Int64"})


def spread_rates(rates: pd.DataFrame) -> pd.DataFrame:
    """Spread rates to a row per patient and a column per score and interval.

    Returns
    -------
    DataFrame
        Index patient; column group; then such as `fat, 3 months`, fat first, those that occur.
    """
    people = rates.groupby("patient", sort=True)["group"].first().to_frame()
    used = rates[rates["interval"].notna()]
    for score in SCORES:
        for interval in INTERVALS:
            own = used[used["interval"].eq(interval)].set_index("patient")[f"{score}_rate"]
            if own.notna().any():
                people[f"{score}, {interval} months"] = own.astype(float)
    return people


def _first(table: pd.DataFrame, totals: pd.DataFrame) -> pd.Series[Any]:
    return table["patient"].map(totals.groupby("patient")["month"].min()).astype(float)


def _compare(before: dict[Any, Any], after: dict[Any, Any], since: float) -> dict[str, Any]:
    """Rates between two visits."""
    months = after["month"] - before["month"]
    nearest = min(INTERVALS, key=lambda interval: abs(interval - since) / interval)
    row = {
        **{name: after[name] for name in ("patient", "group", "month", "muscles")},
        **{"month_before": before["month"], "months": months},
        "interval": nearest if abs(nearest - since) <= _REACH * nearest else np.nan,
    }
    missing = []
    for score, sign in SCORES.items():
        row |= {f"{score}_before": before[score], score: after[score]}
        row[f"{score}_rate"] = sign * (after[score] - before[score]) / months
        missing += [score] if pd.isna(row[f"{score}_rate"]) else []
    note = f"a score of {' and '.join(missing)} is missing" if missing else ""
    return row | {"note": note}


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
