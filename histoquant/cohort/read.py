# This module touches files: it reads tables of visits and patients.
"""Tables of a cohort that people make: visits, and patients with their covariates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant.cohort.outcome import DAYS_PER_MONTH, VISIT_COLUMNS
from histoquant.cohort.values import infer_column, parse_date, parse_flag, parse_number, read_column
from histoquant.errors import StudyError
from histoquant.sheets import Line, read_rows

_REQUIRED = ("patient", "mrs", "ck", "ck_limit", "weakness_worse", "other_cause")
_WHEN = ("month", "date")
_ABOUT = ("patient", "group", "treatment_start")


@dataclass(frozen=True)
class Patients:
    """The table of patients.

    Attributes
    ----------
    names : tuple of str
        In the order of the table.
    covariates : DataFrame
        A row per patient, indexed by name; columns of dtype boolean, float or object.
    groups : dict of str to str
        Group that the table gives, where it does.
    starts : dict of str to date
        Start of treatment, where it is given.
    notes : tuple of str
        Columns left out and why.
    """

    names: tuple[str, ...] = ()
    covariates: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: Mapping[str, str] = field(default_factory=dict)
    starts: Mapping[str, date] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_visits(path: Path, starts: Mapping[str, date]) -> pd.DataFrame:
    """Read a table of visits.

    Parameters
    ----------
    path : Path
        Columns patient, month (of treatment) or date, mrs, ck, ck_limit, weakness_worse, other_cause.
    starts : mapping of str to date
        Start of treatment by patient, for a table of dates; the first visit where it is not given.

    Returns
    -------
    DataFrame
        Columns `VISIT_COLUMNS`, a row per visit.

    Raises
    ------
    StudyError
        The table is missing or unreadable, lacks a column, or a cell is not what its column holds.
    """
    _, _, rows = read_rows(path, "table of visits", _REQUIRED, _WHEN)
    names = read_names(rows, path)
    table = pd.DataFrame(
        {
            "patient": names,
            "day": read_days(rows, names, starts, path),
            **{
                name: pd.Series(read_column(rows, name, parse_number, path), dtype=float)
                for name in ("mrs", "ck", "ck_limit")
            },
            **{
                name: pd.Series(read_column(rows, name, parse_flag, path), dtype="boolean")
                for name in ("weakness_worse", "other_cause")
            },
        }
    )
    _check(table, rows, path)
    return table[list(VISIT_COLUMNS)]


def read_patients(path: Path) -> Patients:
    """Read a table of patients: one row each, covariates in any columns.

    Parameters
    ----------
    path : Path
        Column patient; optionally group and treatment_start (a date); all others are covariates.

    Returns
    -------
    Patients

    Raises
    ------
    StudyError
        As for `read_visits`, or a patient has two rows.
    """
    _, _, rows = read_rows(path, "table of patients", ("patient",), _ABOUT[1:])
    names = read_names(rows, path)
    seen: dict[str, int] = {}
    for (line, _), name in zip(rows, names, strict=True):
        if name in seen:
            raise StudyError(
                f"{name} has row {seen[name]} too", f"{path}, row {line}", "give one row per patient"
            )
        seen[name] = line
    columns = [name for name in (rows[0][1] if rows else {}) if name not in _ABOUT]
    found = {name: infer_column(rows, name, path) for name in columns}
    covariates = {name: values for name, values in found.items() if values is not None}
    left = tuple(
        f"Column {name} of {path.name} holds many different texts and was left out."
        for name, values in found.items()
        if values is None
    )
    groups = dict(zip(names, (cells.get("group", "") for _, cells in rows), strict=True))
    starts = dict(zip(names, read_column(rows, "treatment_start", parse_date, path), strict=True))
    return Patients(
        tuple(names),
        pd.DataFrame(covariates, index=range(len(names))).set_axis(pd.Index(names, name="patient")),
        {name: group for name, group in groups.items() if group},
        {name: start for name, start in starts.items() if start is not None},
        left,
    )


def read_names(rows: list[Line], path: Path) -> list[str]:
    """Read the column patient, which every row must have."""
    if not rows:
        raise StudyError("has no rows", path, "give a row below the header")
    for line, cells in rows:
        if not cells["patient"]:
            raise StudyError("has no patient", f"{path}, row {line}", "name the patient")
    return [cells["patient"] for _, cells in rows]


def read_days(rows: list[Line], names: list[str], starts: Mapping[str, date], path: Path) -> list[float]:
    """Read the column month or date as days; dates count from the start of treatment or the first visit."""
    given = [name for name in _WHEN if name in rows[0][1]]
    if len(given) != 1:
        problem = "has both month and date" if given else "has no column month or date"
        fix = "keep one of them" if given else "add month (of treatment) or date"
        raise StudyError(problem, f"{path}, row 1", fix)
    values: list[Any] = read_column(rows, given[0], parse_number if given == ["month"] else parse_date, path)
    for (line, _), value in zip(rows, values, strict=True):
        if value is None:
            raise StudyError(f"has no {given[0]}", f"{path}, row {line}", "say when the visit was")
    if given == ["month"]:
        return [value * DAYS_PER_MONTH for value in values]
    first: dict[str, date] = {}
    for name, value in zip(names, values, strict=True):
        first[name] = min(value, first.get(name, value))
    return [
        float((value - starts.get(name, first[name])).days) for name, value in zip(names, values, strict=True)
    ]


def _check(table: pd.DataFrame, rows: list[Line], path: Path) -> None:
    """Refuse an mRS that is none, and two visits of a patient at one time."""
    wrong = table["mrs"].notna() & ~table["mrs"].isin(range(7))
    for name, bad, fix in (
        ("mrs", wrong, "give a whole number from 0 to 6"),
        ("ck", table["ck"] < 0, "give 0 or more"),
        ("ck_limit", table["ck_limit"] <= 0, "give the upper reference limit, in the unit of ck"),
    ):
        if bad.any():
            at = int(bad.to_numpy().argmax())
            line, cells = rows[at]
            raise StudyError(f"{cells[name]!r} cannot be", f"{path}, row {line}, column {name}", fix)
    twice = table.duplicated(["patient", "day"])
    if twice.any():
        at = int(twice.to_numpy().argmax())
        same = table["patient"].eq(table["patient"][at]) & table["day"].eq(table["day"][at])
        first = rows[int(same.to_numpy().argmax())][0]
        raise StudyError(
            f"{table['patient'][at]} has a visit at the same time as in row {first}",
            f"{path}, row {rows[at][0]}",
            "merge them into one row",
        )
