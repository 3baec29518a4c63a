"""Outcome of every patient from a table of visits: refractory or not, by which rule, and what stayed open.

Our reading of Zhao et al. 2020 (doi 10.1186/s13023-020-01431-7), where it is silent:

- Baseline is the first visit. The visit of 12 months is the nearest to day 365 of treatment within 90 days,
  the later of two equally near.
- An mRS of 0 to 2 there is non-refractory, 3 to 5 refractory; 6, or none, decides nothing.
- A relapse at any visit after the first makes a patient refractory. It asks for all of: creatine kinase above
  the baseline again, after a visit since then at or below it; above three times the upper limit; weakness
  worse; no other cause.
- What is missing is neither yes nor no. A relapse that a missing value leaves possible makes the outcome
  undetermined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from histoquant.errors import StudyError

NON_REFRACTORY, REFRACTORY, UNDETERMINED = "non-refractory", "refractory", "undetermined"
VISIT_COLUMNS = ("patient", "day", "mrs", "ck", "ck_limit", "weakness_worse", "other_cause")
OUTCOME_COLUMNS = (
    *("patient", "outcome", "rule", "visits", "last_day", "follow_up", "day_12_months", "mrs_12_months"),
    *("relapse", "relapse_day", "open"),
)
DAYS_PER_MONTH = 365 / 12
_DEAD = 6


class OutcomeSettings(BaseModel):
    """How an outcome is judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judged_day: Annotated[float, Field(gt=0)] = 365.0
    """Day of treatment at which the mRS decides."""
    window_days: Annotated[float, Field(ge=0)] = 90.0
    """How far from it a visit may lie."""
    relapse_ck_limits: Annotated[float, Field(gt=0)] = 3.0
    """Creatine kinase of a relapse, in upper reference limits; it must be above."""
    empty_is_no: bool = False
    """An empty weakness_worse or other_cause means no."""


def judge_patients(
    visits: pd.DataFrame, settings: OutcomeSettings, patients: Iterable[str] = ()
) -> pd.DataFrame:
    """Judge the outcome of every patient.

    Parameters
    ----------
    visits : DataFrame
        Columns `VISIT_COLUMNS`: `day` of treatment; `mrs` 0 to 6; `ck` and its upper limit `ck_limit` in one
        unit; `weakness_worse` and `other_cause` True or False. All but patient and day may be missing.
    settings : OutcomeSettings
        Day, window and limits.
    patients : iterable of str, optional
        Patients enrolled; those without a visit keep a row.

    Returns
    -------
    DataFrame
        Columns `OUTCOME_COLUMNS`, a row per patient, sorted: `rule` that decided; `follow_up` is `lost` where
        the last visit lies before the window; `relapse` is yes, no or open; `open` says what missing values
        left open.

    Raises
    ------
    StudyError
        A patient has two visits on one day, a visit has no day, or an mRS is not 0 to 6.

    Examples
    --------
    >>> rows = [("P1", 0, 4, 5000, 200, None, None), ("P1", 370, 1, 150, 200, False, False)]
    >>> judge_patients(pd.DataFrame(rows, columns=VISIT_COLUMNS), OutcomeSettings())["outcome"].tolist()
    ['non-refractory']
    """
    _check_visits(visits)
    table = visits.assign(patient=visits["patient"].astype(str)).sort_values(
        ["patient", "day"], kind="stable"
    )
    empty: list[dict[str, Any]] = []
    own: dict[str, list[dict[str, Any]]] = {str(name): empty for name in patients}
    for name, rows in table.groupby("patient", sort=False):
        own[str(name)] = [_read_visit(row, settings) for row in rows.to_dict("records")]
    judged = [{"patient": name, **judge_visits(own[name], settings)} for name in sorted(own)]
    result = pd.DataFrame(judged, columns=list(OUTCOME_COLUMNS))
    return result.astype({"visits": "Int64", "mrs_12_months": "Int64"})


def judge_visits(visits: Sequence[dict[str, Any]], settings: OutcomeSettings) -> dict[str, Any]:
    """Judge one patient from visits in order of time; None is missing.

    Parameters
    ----------
    visits : sequence of dict
        Keys day, mrs, ck, ck_limit, weakness_worse, other_cause.
    settings : OutcomeSettings
        Day, window and limits.

    Returns
    -------
    dict
        Columns `OUTCOME_COLUMNS` but the patient.
    """
    if not visits:
        return _tell(UNDETERMINED, "no visit", visits=0, follow_up="lost", relapse="open", open="no visit")
    chosen = choose_visit(visits, settings)
    mrs = chosen["mrs"] if chosen else None
    relapse, day, gaps = find_relapse(visits, settings)
    outcome, rule = _decide(mrs, relapse, chosen is not None)
    last = visits[-1]["day"]
    lost = last < settings.judged_day - settings.window_days
    notes = [] if relapse else _explain_gap(visits, chosen, settings)
    return _tell(
        outcome,
        rule,
        visits=len(visits),
        last_day=last,
        follow_up="lost" if lost else "complete",
        day_12_months=chosen["day"] if chosen else None,
        mrs_12_months=mrs,
        relapse={True: "yes", False: "no", None: "open"}[relapse],
        relapse_day=day,
        open="; ".join([*notes, *([] if relapse else gaps)]),
    )


def choose_visit(visits: Sequence[dict[str, Any]], settings: OutcomeSettings) -> dict[str, Any] | None:
    """Choose the visit of 12 months; None if none lies within the window."""
    near = [one for one in visits if abs(one["day"] - settings.judged_day) <= settings.window_days]
    return min(near, key=lambda one: (abs(one["day"] - settings.judged_day), -one["day"]), default=None)


def find_relapse(
    visits: Sequence[dict[str, Any]], settings: OutcomeSettings
) -> tuple[bool | None, float | None, list[str]]:
    """Find the first relapse.

    Parameters
    ----------
    visits : sequence of dict
        In order of time; the first is the baseline.
    settings : OutcomeSettings
        Gives the limit.

    Returns
    -------
    relapse : bool or None
        None: a missing value leaves it open.
    day : float or None
        Of the first relapse.
    gaps : list of str
        For every visit that is open: what is missing.
    """
    baseline = visits[0]["ck"]
    fell: bool | None = False
    found: list[bool | None] = []
    gaps = []
    for visit in visits[1:]:
        limit = visit["ck_limit"]
        criteria = {
            "creatine kinase against baseline": _and([fell, _above(visit["ck"], baseline)]),
            "creatine kinase against its limit": _above(
                visit["ck"], None if limit is None else settings.relapse_ck_limits * limit
            ),
            "weakness_worse": visit["weakness_worse"],
            "other_cause": None if visit["other_cause"] is None else not visit["other_cause"],
        }
        relapse = _and(criteria.values())
        if relapse:
            return True, visit["day"], []
        if relapse is None:
            missing = ", ".join(name for name, value in criteria.items() if value is None)
            gaps.append(f"relapse on day {visit['day']:.0f}: not known: {missing}")
        found.append(relapse)
        above = _above(visit["ck"], baseline)
        fell = _or([fell, None if above is None else not above])
    return _or(found), None, gaps


def _above(value: float | None, limit: float | None) -> bool | None:
    return None if value is None or limit is None else value > limit


def _and(values: Iterable[bool | None]) -> bool | None:
    """All of them, where None may be either."""
    known = list(values)
    return False if False in known else None if None in known else True


def _or(values: Iterable[bool | None]) -> bool | None:
    known = list(values)
    return True if True in known else None if None in known else False


def _decide(mrs: int | None, relapse: bool | None, visited: bool) -> tuple[str, str]:
    if relapse:
        return REFRACTORY, "relapse"
    if mrs == _DEAD:
        return UNDETERMINED, "mRS 6 at 12 months"
    if mrs is None:
        return UNDETERMINED, f"no {'mRS' if visited else 'visit'} at 12 months"
    if mrs > 2:
        return REFRACTORY, "mRS 3-5 at 12 months"
    if relapse is None:
        return UNDETERMINED, "mRS 0-2 at 12 months, relapse open"
    return NON_REFRACTORY, "mRS 0-2 at 12 months, no relapse"


def _explain_gap(
    visits: Sequence[dict[str, Any]], chosen: dict[str, Any] | None, settings: OutcomeSettings
) -> list[str]:
    """Why no mRS of 12 months decides, and what lies near."""
    if chosen and chosen["mrs"] is not None:
        return ["died"] if chosen["mrs"] == _DEAD else []
    if any(one["mrs"] == _DEAD for one in visits):
        return ["died before 12 months"]
    distances = {one["day"]: abs(one["day"] - settings.judged_day) for one in visits}
    if chosen is None:
        nearest = min(distances, key=lambda day: distances[day])
        span = f"{settings.window_days:g} days of day {settings.judged_day:g}"
        return [f"no visit within {span}, the nearest is on day {nearest:.0f}"]
    near = [
        f"{one['mrs']} on day {one['day']:.0f}"
        for one in visits
        if one["mrs"] is not None and distances[one["day"]] <= settings.window_days
    ]
    others = f", but mRS {', '.join(near)}" if near else ""
    return [f"no mRS at the visit of 12 months (day {chosen['day']:.0f}){others}"]


def _tell(outcome: str, rule: str, **values: Any) -> dict[str, Any]:
    blank = dict.fromkeys(OUTCOME_COLUMNS[3:])
    return {**blank, "outcome": outcome, "rule": rule, **values}


def _read_visit(row: dict[Any, Any], settings: OutcomeSettings) -> dict[str, Any]:
    """Plain values; missing ones None."""
    visit = {name: None if pd.isna(row[name]) else row[name] for name in VISIT_COLUMNS}
    for name in ("weakness_worse", "other_cause"):
        if visit[name] is not None:
            visit[name] = bool(visit[name])
        elif settings.empty_is_no:
            visit[name] = False
    if visit["mrs"] is not None:
        visit["mrs"] = int(visit["mrs"])
    return visit


def _check_visits(visits: pd.DataFrame) -> None:
    days = visits["day"].astype(float)
    if days.isna().any():
        name = visits.loc[days.isna(), "patient"].iloc[0]
        raise StudyError(f"a visit of {name} has no day", "visits", "give its month or date")
    twice = visits[visits.assign(patient=visits["patient"].astype(str)).duplicated(["patient", "day"])]
    if len(twice):
        row = twice.iloc[0]
        raise StudyError(
            f"{row['patient']} has two visits on day {row['day']:g}", "visits", "merge them into one row"
        )
    mrs = visits["mrs"].astype(float)
    wrong = mrs.notna() & ~mrs.isin(np.arange(7))
    if wrong.any():
        row = visits[wrong].iloc[0]
        raise StudyError(
            f"{row['patient']} has the mRS {row['mrs']:g} on day {row['day']:g}", "visits", "give 0 to 6"
        )
