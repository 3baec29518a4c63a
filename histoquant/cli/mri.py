"""Command that follows muscles by MRI scores: mri."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoquant.cli.app import OK, PARTLY, Flag, app, complain


@app.command
def mri(scores: Path, *, out: Path, between: Annotated[bool, Flag] = False) -> int:
    """Compute change rates of fatty infiltration and edema, compare them between groups, plot their course.

    Writes mri.html, totals.csv, rates.csv (points per month), summaries.csv and tests.csv (by group and
    interval), and the printed table as CSV, HTML and LaTeX. Exit code 1: a score or muscle is missing, or a
    muscle is not the study's; it is said.

    SCORES, a row per patient, visit, muscle and side; a patient's first visit is the baseline:

        patient,group,month,muscle,side,fat,edema
        P01,refractory,0,vastus lateralis,left,1,4
        P01,refractory,0,vastus lateralis,right,1,3
        P01,refractory,6,vastus lateralis,left,3,1
        P01,refractory,6,vastus lateralis,right,2,1

    month: of treatment, or instead date (2019-03-05). group may be left out. fat, edema: scores 0 to 5; empty
    is not scored. side: left or right.

    Parameters
    ----------
    scores
        CSV as above (comma, semicolon or tab; UTF-8 or GB18030).
    out
        Folder for the results.
    between
        Rates since the visit before instead of since the first.
    """
    from histoquant.mri.analyse import follow_scores, write_follow_up

    found = follow_scores(scores, between)
    page = write_follow_up(out, found)
    for note in found.notes:
        complain(note)
    print(page)
    return PARTLY if found.notes else OK
