# This module touches files: it reads a table of scores and writes what came of it.
"""MRI scores from their table to change rates, a comparison of groups and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from histoquant.cohort.groups import compare_variables, describe_variables
from histoquant.cohort.outcome import DAYS_PER_MONTH
from histoquant.cohort.prints import print_groups, tabulate, write_html, write_latex
from histoquant.cohort.read import read_days, read_names
from histoquant.cohort.values import clean, parse_number, read_column
from histoquant.errors import ResultsError, StudyError
from histoquant.mri.rates import MUSCLES, SCORES, add_scores, compute_rates, spread_rates
from histoquant.report.article import Figure, Part, build_article
from histoquant.report.course import plot_courses
from histoquant.report.formats import format_count, format_number, format_text
from histoquant.report.table import Column, Table, make_table
from histoquant.results import open_run, write_bytes, write_table
from histoquant.sheets import Line, read_rows

_REQUIRED = ("patient", "muscle", "side", "fat", "edema")
_OPTIONAL = ("group", "month", "date")
_SIDES = {"left": "left", "l": "left", "左": "left", "right": "right", "r": "right", "右": "right"}
_HOW = (
    "Fatty infiltration (modified Mercuri) and edema are 0 to 5 for every muscle and side; a visit's total "
    "is their sum. Change rate: difference of two totals / months between them, fat after − before, edema "
    "before − after: a positive rate is more fat, or less edema.",
    "A total, and what needs it, is missing where a score of any muscle and side of the table is missing.",
    "Intervals: the nearest of 3, 6, 12, 18 and 24 months since the first visit, within 30 %. Rates use the "
    "months that truly passed.",
    "Rates since the first visit share it: they are not independent of one another. Early rates divide by "
    "few months and scatter more.",
    "After Zhao et al., Orphanet J Rare Dis 2020, doi 10.1186/s13023-020-01431-7. For research; not a "
    "diagnosis.",
)


@dataclass(frozen=True)
class FollowUp:
    """What the analysis of MRI scores gave.

    Attributes
    ----------
    totals, rates : DataFrame
        See `histoquant.mri.rates`.
    summaries, tests : DataFrame
        Rates by group and interval; see `histoquant.cohort.groups`.
    between : bool
        Whether rates are since the visit before.
    notes : tuple of str
        What is missing or unusual.
    """

    totals: pd.DataFrame
    rates: pd.DataFrame
    summaries: pd.DataFrame
    tests: pd.DataFrame
    between: bool
    notes: tuple[str, ...]


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores.

    Parameters
    ----------
    path : Path
        Columns patient, month (of treatment) or date, muscle, side, fat, edema; optionally group.

    Returns
    -------
    DataFrame
        Columns `histoquant.mri.rates.SCORE_COLUMNS`; an empty score is missing.

    Raises
    ------
    StudyError
        The table is missing or unreadable, lacks a column, or a cell is not what its column holds.
    """
    _, _, rows = read_rows(path, "table of scores", _REQUIRED, _OPTIONAL)
    names = read_names(rows, path)
    days = read_days(rows, names, {}, path)
    scores = {score: _read_score(rows, score, path) for score in SCORES}
    return pd.DataFrame(
        {
            "patient": names,
            "group": [cells.get("group", "") for _, cells in rows],
            "month": np.round(np.array(days) / DAYS_PER_MONTH, 3),
            "muscle": [_read_muscle(line, cells, path) for line, cells in rows],
            "side": [_read_side(line, cells, path) for line, cells in rows],
            **scores,
        }
    )


def follow_scores(path: Path, between: bool = False) -> FollowUp:
    """Compute change rates from a table of scores, and compare them between groups.

    Parameters
    ----------
    path : Path
        See `read_scores`.
    between : bool, optional
        Rates since the visit before instead of since the first.

    Returns
    -------
    FollowUp

    Raises
    ------
    StudyError
        As for `read_scores`, or no patient has two visits.
    """
    scores = read_scores(path)
    totals = add_scores(scores)
    rates = compute_rates(totals, between)
    if rates.empty:
        raise StudyError("has no patient with two visits", path, "a change needs two")
    table = spread_rates(rates)
    group = table["group"].where(table["group"].ne(""), None)
    variables = table.drop(columns="group")
    everybody = group if group.notna().any() else pd.Series("all", table.index)
    return FollowUp(
        totals,
        rates,
        describe_variables(variables, everybody),
        compare_variables(variables, everybody, np.random.default_rng(0)),
        between,
        tuple(_note(scores, rates)),
    )


def write_follow_up(out: Path, found: FollowUp) -> Path:
    """Write totals.csv, rates.csv, summaries.csv, tests.csv, the printed table and the page.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ResultsError
        The folder is a run's, or cannot be made.
    """
    if (out / "run.json").exists():
        raise ResultsError("is a run's folder", out, "choose another --out")
    printed = print_rates(found)
    numbers = {
        "totals": found.totals,
        "rates": found.rates,
        "summaries": found.summaries,
        "tests": found.tests,
    }
    page = build_page(found, printed)
    with open_run(out):
        for name, table in numbers.items():
            floats = table.select_dtypes("float").columns
            write_table(out / f"{name}.csv", table.assign(**{name: table[name].round(6) for name in floats}))
        write_table(out / "table.csv", tabulate(printed))
        write_bytes(out / "table.html", write_html([printed]).encode())
        write_bytes(out / "table.tex", write_latex(printed, "mri").encode())
        write_bytes(out / "mri.html", page.encode())
    return out / "mri.html"


def print_rates(found: FollowUp) -> Table:
    """Print rates by group and interval, as Table 3 of the study."""
    people = found.rates.drop_duplicates("patient")
    names = list(dict.fromkeys(found.summaries["group"]))
    sizes = {str(name): int(people["group"].eq(name).sum()) or len(people) for name in names}
    since = "since the visit before" if found.between else "since the first visit"
    caption = f"Average change of the total score per month, {since}."
    return print_groups(caption, found.summaries, found.tests, sizes, mean=True)


def build_page(found: FollowUp, printed: Table) -> str:
    """Write the page of a follow-up."""
    facts = {
        "patients": format_count(found.totals["patient"].nunique()),
        "visits": format_count(len(found.totals)),
        "muscles and sides": format_count(found.totals["muscles"].max()),
    }
    svg = plot_courses(found.totals, {"fat": "fatty infiltration, total", "edema": "edema, total"})
    parts = [
        Part("Change rates", texts=found.notes, tables=[printed]),
        Part("Course", figures=[Figure(Markup(svg), "Total scores, one line per patient.")]),
        Part("Visits", tables=[_print_visits(found.rates)]),
        Part("How it was computed", points=_HOW),
    ]
    return build_article(
        "histoquant: MRI follow-up", "Scores of muscles and how fast they change", facts, parts
    )


def _print_visits(rates: pd.DataFrame) -> Table:
    columns = (
        *(Column("Patient", False), Column("Group", False), Column("Month"), Column("Interval")),
        *(Column("Fat"), Column("Fat per month"), Column("Edema"), Column("Edema per month")),
        Column("Note", False),
    )
    rows = (
        (
            *(str(row["patient"]), format_text(row["group"]), format_number(row["month"], 1)),
            *(format_count(row["interval"]), format_count(row["fat"]), format_number(row["fat_rate"], 2)),
            *(format_count(row["edema"]), format_number(row["edema_rate"], 2), format_text(row["note"])),
        )
        for row in rates.to_dict("records")
    )
    return make_table("Every visit after the first.", columns, rows)


def _read_score(rows: list[Line], name: str, path: Path) -> list[float]:
    values = read_column(rows, name, parse_number, path)
    for (line, cells), value in zip(rows, values, strict=True):
        if value is not None and value not in range(6):
            raise StudyError(
                f"{cells[name]!r} is no score",
                f"{path}, row {line}, column {name}",
                "give 0, 1, 2, 3, 4 or 5",
            )
    return [float("nan") if value is None else value for value in values]


def _read_muscle(line: int, cells: dict[str, str], path: Path) -> str:
    name = " ".join(clean(cells["muscle"]).split())
    if not name:
        raise StudyError("has no muscle", f"{path}, row {line}", "name it")
    return name


def _read_side(line: int, cells: dict[str, str], path: Path) -> str:
    side = _SIDES.get(clean(cells["side"]))
    if side is None:
        raise StudyError(
            f"{cells['side']!r} is no side", f"{path}, row {line}, column side", "write left or right"
        )
    return side


def _note(scores: pd.DataFrame, rates: pd.DataFrame) -> list[str]:
    notes = []
    found = set(scores["muscle"])
    if odd := sorted(found - set(MUSCLES)):
        notes.append(f"Muscles that the published study does not have: {', '.join(odd)}.")
    if absent := [name for name in MUSCLES if name not in found]:
        notes.append(f"Muscles of the published study that the table does not have: {', '.join(absent)}.")
    lacking: Any = rates["note"].str.contains("missing")
    if lacking.any():
        notes.append(f"{int(lacking.sum())} visit(s) lack a rate because a score is missing; see rates.csv.")
    alone = scores["patient"].nunique() - rates["patient"].nunique()
    if alone:
        notes.append(f"{alone} patient(s) have one visit only and no rate.")
    return notes
