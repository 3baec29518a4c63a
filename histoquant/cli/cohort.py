"""Command that analyses a cohort: cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoquant.cli.app import OK, PARTLY, Flag, app, complain


@app.command
def cohort(
    visits: Path,
    *,
    out: Path,
    patients: Path | None = None,
    run: Path | None = None,
    enter_p: float = 0.10,
    window_days: float = 90.0,
    empty_is_no: Annotated[bool, Flag] = False,
    mean: Annotated[bool, Flag] = False,
) -> int:
    """Judge outcomes from visits, compare patients by outcome, and regress the outcome on covariates.

    Writes cohort.html, outcomes.csv (each patient, the rule that decided, what a missing value left open),
    summaries.csv, tests.csv, logistic.csv, with --run marker_*.csv, and the printed tables as CSV, HTML (to
    paste into a word processor) and LaTeX in tables/. Exit code 1: something was left out, is open, or
    differs; it is said.

    VISITS, a row per visit, the first being the baseline; empty is not known:

        patient,month,mrs,ck,ck_limit,weakness_worse,other_cause
        P01,0,4,5200,200,,
        P01,3,2,900,200,no,no
        P01,12,1,180,200,no,no
        P02,0,5,8000,200,,
        P02,12,3,2500,200,yes,no

    month: of treatment, or instead date (2019-03-05), counted from treatment_start of --patients or from the
    first visit. mrs: modified Rankin Scale, 0 to 6. ck, ck_limit: creatine kinase and its upper reference
    limit, U/L. weakness_worse, other_cause (exercise, electrolytes, thyroid, drugs): yes or no.

    PATIENTS, a row per patient; any other columns are covariates (yes or no; numbers; or up to 12 different
    texts):

        patient,age,male,ILD,therapy
        P01,52,no,no,GC + MTX
        P02,47,yes,yes,GC

    Parameters
    ----------
    visits
        CSV as above (comma, semicolon or tab; UTF-8 or GB18030).
    out
        Folder for the results.
    patients
        CSV as above; optional columns treatment_start and group.
    run
        A run's folder: its markers are compared between the outcomes, whatever groups the study had.
    enter_p
        Likelihood ratio P below which a variable enters the multivariate model.
    window_days
        How far from day 365 the visit of 12 months may lie.
    empty_is_no
        An empty weakness_worse or other_cause means no.
    mean
        Print numbers as mean and SD instead of median and quartiles.
    """
    from histoquant.cohort.analyse import analyse_cohort, write_cohort
    from histoquant.cohort.outcome import OutcomeSettings
    from histoquant.cohort.page import tell_outcomes
    from histoquant.errors import HistoquantError

    if not window_days >= 0:
        raise HistoquantError(f"{window_days:g} is no width", "--window-days", "give 0 or more")
    settings = OutcomeSettings(window_days=window_days, empty_is_no=empty_is_no)
    found = analyse_cohort(visits, patients, run, settings, enter_p)
    page = write_cohort(out, found, mean)
    notes = [*found.notes, *(found.markers.notes if found.markers else ())]
    if found.markers is not None and len(found.markers.differing):
        notes.append(f"{len(found.markers.differing)} patient(s) have another group in the study.")
    for note in notes:
        complain(note)
    print("\n".join(tell_outcomes(found.outcomes)))
    print(page)
    return PARTLY if notes else OK
