"""Commands that publish stored results again: stats, report."""

from __future__ import annotations

from pathlib import Path

from histoquant.cli.app import OK, app, complain


@app.command
def stats(folder: Path, *, edits: str | None = None) -> int:
    """Compute patients.csv and statistics.csv again from a run's sections.csv.

    With --edits, all four tables are written to reviewed/REVIEWER/ of the folder with that reviewer's edits;
    the run's own stay as they are.

    Parameters
    ----------
    folder
        A run's folder.
    edits
        A reviewer who has edited sections of the run.
    """
    if edits is not None:
        print(_publish_review(folder, edits, page=False) / "statistics.csv")
        return OK
    from histoquant.publish import publish_statistics, read_run
    from histoquant.results import open_run, read_table
    from histoquant.tables import SECTION_COLUMNS

    run_json, settings = read_run(folder)
    with open_run(folder):
        sections = read_table(folder / "sections.csv", SECTION_COLUMNS)
        publish_statistics(folder, sections, settings, int(run_json["seed"]))
    print(folder / "statistics.csv")
    return OK


@app.command
def report(folder: Path, *, edits: str | None = None) -> int:
    """Write report.html again from a run's stored tables and pictures.

    With --edits, tables and report are written to reviewed/REVIEWER/ with that reviewer's edits;
    the run's own stay as they are.

    Parameters
    ----------
    folder
        A run's folder.
    edits
        A reviewer who has edited sections of the run.
    """
    if edits is not None:
        print(_publish_review(folder, edits, page=True) / "report.html")
        return OK
    from histoquant.publish import publish_report, read_run
    from histoquant.results import open_run

    read_run(folder)
    with open_run(folder):
        print(publish_report(folder))
    return OK


def _publish_review(folder: Path, reviewer: str, page: bool) -> Path:
    """Write the tables with a reviewer's edits, and say what is odd in the trails."""
    from histoquant.reviewed import publish_review

    place, notes = publish_review(folder, reviewer, page)
    for note in notes:
        complain(note)
    return place
