"""Command that tries other stain vectors on a finished run: vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoquant.cli.app import OK, PARTLY, Flag, app, choose_workers, complain, show_progress


@app.command
def vectors(folder: Path, *, workers: int | None = None, quiet: Annotated[bool, Flag] = False) -> int:
    """Tell how a run's result moves with default, slide and batch stain vectors.

    Reads the pixels of every field again and measures the stored cells there; nothing is segmented, and no
    count of the run changes. Writes vectors.csv (the vectors and their angles to the default ones) and
    sensitivity_vectors.csv, and the report again, with their table. Exit code 1: a section could not be read
    again, and the report shows no table until all can.

    Parameters
    ----------
    folder
        A run's folder, its slides still in place.
    workers
        Worker processes; as many as there are cores if not given.
    quiet
        No progress, errors only.
    """
    from histoquant import executors
    from histoquant.errors import ResultsError
    from histoquant.publish import publish_report, read_run
    from histoquant.results import open_run
    from histoquant.vectors import try_run

    processes = choose_workers(workers)
    read_run(folder)
    with open_run(folder):
        executor = executors.make_executor(processes, executors.TIMEOUT_S)
        with executor, show_progress("measuring again", quiet) as note:
            table, troubles = try_run(folder, executor, note)
        for name, reason in troubles.items():
            complain(f"{name}: {reason}")
        if table.empty:
            raise ResultsError("has no section that could be read again", folder, "see the reasons above")
        page = publish_report(folder)
    if not quiet:
        print(f"{len(table)} sections measured again, {len(troubles)} not: {page}")
    return PARTLY if troubles else OK
