# This module touches files: it reads tables of a cohort and writes what came of them.
"""A cohort from its tables to outcomes, tests, models and a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histoquant.cohort.groups import compare_variables, describe_variables
from histoquant.cohort.logistic import LOGISTIC_COLUMNS, regress_outcome
from histoquant.cohort.markers import compare_markers, list_names
from histoquant.cohort.outcome import (
    NON_REFRACTORY,
    REFRACTORY,
    UNDETERMINED,
    OutcomeSettings,
    judge_patients,
)
from histoquant.cohort.page import Cohort, build_page, print_tables
from histoquant.cohort.prints import tabulate, write_html, write_latex
from histoquant.cohort.read import Patients, read_patients, read_visits
from histoquant.errors import ResultsError, StudyError
from histoquant.fields import spawn_generator
from histoquant.results import open_run, write_bytes, write_table

_DECIMALS = 6


def analyse_cohort(
    visits: Path,
    patients: Path | None,
    run: Path | None,
    settings: OutcomeSettings,
    enter: float = 0.10,
    seed: int = 0,
) -> Cohort:
    """Judge outcomes, compare covariates and markers between them, and regress the outcome on the covariates.

    Parameters
    ----------
    visits, patients : Path
        Tables; see `histoquant.cohort.read`.
    run : Path or None
        A run's folder.
    settings : OutcomeSettings
        How outcomes are judged.
    enter : float, optional
        P below which variables enter the multivariate model.
    seed : int, optional
        Of random tables in Fisher's test.

    Returns
    -------
    Cohort

    Raises
    ------
    StudyError
        A table is wrong, or `enter` is no probability.
    ResultsError
        The run's folder cannot be used.
    """
    if not 0 < enter <= 1:
        raise StudyError(f"{enter:g} is no probability", "--enter-p", "give more than 0, at most 1")
    people = read_patients(patients) if patients else Patients()
    outcomes = judge_patients(read_visits(visits, people.starts), settings, people.names)
    by_name = dict(zip(outcomes["patient"], outcomes["outcome"], strict=True))
    markers = compare_markers(run, by_name) if run else None
    table = people.covariates
    own = pd.Series([by_name[name] for name in people.names], index=table.index, dtype=object)
    group = own.where(own.ne(UNDETERMINED)).astype(pd.CategoricalDtype([NON_REFRACTORY, REFRACTORY]))
    known = group.notna()
    rows = regress_outcome(table[known], group[known].eq(REFRACTORY), enter) if table.shape[1] else _nothing()
    return Cohort(
        outcomes,
        describe_variables(table, group),
        compare_variables(table, group, spawn_generator(seed, "cohort")),
        rows,
        markers,
        settings,
        enter,
        (*people.notes, *_note(outcomes, people, by_name)),
    )


def write_cohort(out: Path, cohort: Cohort, mean: bool = False) -> Path:
    """Write tables as CSV, HTML and LaTeX, and the page.

    Parameters
    ----------
    out : Path
        A folder, made if absent.
    cohort : Cohort
        What came out.
    mean : bool, optional
        Numbers as mean ± SD, otherwise as median and quartiles.

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
    printed = print_tables(cohort, mean)
    page = build_page(cohort, mean)
    numbers = {
        "outcomes": cohort.outcomes,
        "summaries": cohort.summaries,
        "tests": cohort.tests,
        "logistic": cohort.logistic,
    }
    if cohort.markers is not None:
        numbers |= {
            "marker_statistics": cohort.markers.statistics,
            "marker_summaries": cohort.markers.summaries,
            "marker_positives": cohort.markers.positives,
            "marker_tests": cohort.markers.positive_tests,
            "marker_places": cohort.markers.places,
        }
    with open_run(out):
        (out / "tables").mkdir(exist_ok=True)
        for name, table in numbers.items():
            write_table(out / f"{name}.csv", _finish(table))
        for name, shown in printed.items():
            write_table(out / "tables" / f"{name}.csv", tabulate(shown))
            write_bytes(out / "tables" / f"{name}.html", write_html([shown]).encode())
            write_bytes(out / "tables" / f"{name}.tex", write_latex(shown, name).encode())
        write_bytes(out / "tables.html", write_html(list(printed.values())).encode())
        write_bytes(out / "cohort.html", page.encode())
    return out / "cohort.html"


def _nothing() -> pd.DataFrame:
    return pd.DataFrame(columns=list(LOGISTIC_COLUMNS))


def _note(outcomes: pd.DataFrame, people: Patients, by_name: dict[str, str]) -> list[str]:
    """Patients missing from a table, groups that are not the outcome, relapses left open."""
    notes = []
    absent = [name for name in by_name if name not in set(people.names)] if people.names else []
    if absent:
        notes.append(f"{len(absent)} patient(s) are not in the table of patients: {list_names(absent)}.")
    apart = [
        name
        for name, group in people.groups.items()
        if by_name[name] != UNDETERMINED and group.lower() != by_name[name]
    ]
    if apart:
        notes.append(
            f"{len(apart)} patient(s) have another group in the table of patients: {list_names(apart)}."
        )
    left = outcomes.loc[outcomes["relapse"].eq("open") & outcomes["visits"].gt(0), "patient"].tolist()
    if left:
        notes.append(f"A missing value leaves a relapse open in {len(left)} patient(s): {list_names(left)}.")
    return notes


def _finish(table: pd.DataFrame) -> pd.DataFrame:
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].round(_DECIMALS) for name in floats})
