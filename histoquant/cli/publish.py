"""Commands that publish stored results again: stats, report."""

from __future__ import annotations

from pathlib import Path

from histoquant.cli.app import OK, app


@app.command
def stats(folder: Path) -> int:
    """Compute patients.csv and statistics.csv again from a run's sections.csv.

    Parameters
    ----------
    folder
        A run's folder.
    """
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
def report(folder: Path) -> int:
    """Write report.html again from a run's stored tables and pictures.

    Parameters
    ----------
    folder
        A run's folder.
    """
    from histoquant.publish import publish_report, read_run
    from histoquant.results import open_run

    read_run(folder)
    with open_run(folder):
        print(publish_report(folder))
    return OK
