"""Command that tells whether slides are fit to count: qc."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from histoquant.cli.app import OK, PARTLY, Flag, app, check_seed, complain, show_progress


@app.command
def qc(
    study: Path,
    *,
    out: Path,
    history: Annotated[Path | None, Parameter(name="--history")] = None,
    protocol: Path | None = None,
    seed: int = 0,
    quiet: Annotated[bool, Flag] = False,
) -> int:
    """Say of every slide whether it is fit to count: pass, look or repeat, with reasons.

    Writes qc.csv, qc.json and qc.html. Exit code 1: a slide is to be repeated, or a control breaks a rule
    that rejects.

    Parameters
    ----------
    study
        Study table, as for `run`.
    out
        Folder for the results.
    history
        SQLite file to which the measures of control slides are added, and by which they are judged; made if
        absent.
    protocol
        Settings (TOML); limits are in its section qc.
    seed
        Seed of the draw: looked at are the first fields that `run` would measure.
    quiet
        No progress, errors only.
    """
    from histoquant.control.check import check_study, publish_check
    from histoquant.protocol import load_protocol
    from histoquant.results import open_run
    from histoquant.study import read_study

    settings = load_protocol(protocol)
    table = read_study(study, settings.markers)
    with open_run(out) as folder:
        with show_progress("checking", quiet) as note:
            check = check_study(table, settings, check_seed(seed), history, note)
        page = publish_check(check, folder.path, settings)
    for slide in check.slides:
        for reason in slide.reasons:
            complain(f"{slide.section.id}: {slide.verdict}: {reason}")
    for row in check.broken.to_dict("records"):
        complain(f"{row['section']}: {row['measure']} breaks {row['rules']}")
    if not quiet:
        print(page)
    return PARTLY if check.fails else OK
