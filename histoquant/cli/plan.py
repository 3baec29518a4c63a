"""Command that plans a study from a pilot run: plan."""

from __future__ import annotations

from pathlib import Path

from histoquant.cli.app import OK, app


@app.command
def plan(folder: Path, *, error: float = 0.1, power: float = 0.8, difference: float | None = None) -> int:
    """Plan fields per section and patients per group from a pilot run, and see what the fields' error hides.

    Writes plan.html, components.csv (variances of patients, sections and fields), fields.csv (coefficient of
    error), patients.csv (per group, Mann-Whitney by simulation) and correlations.csv (how far the error pulls
    rho towards 0) to plan/ in the run's folder.

    There is no table to write: what is read is fields.csv of the run (patient, group, marker, section,
    control, status, and cells_per_fiber in positive cells per fiber). To try it: `histoquant demo`, then
    `histoquant plan histoquant-demo/results`.

    Parameters
    ----------
    folder
        A run's folder, with at least two usable fields per section and a few patients.
    error
        Wanted coefficient of error of a section: standard error / mean.
    power
        Wanted power at P < 0.05, two-sided.
    difference
        Difference between groups to be found, in positive cells per fiber; half of each marker's mean if not
        given.
    """
    from histoquant.planning.analyse import plan_study, tell_plan, write_plan

    found = plan_study(folder, error, power, difference)
    page = write_plan(folder, found)
    print("\n".join(tell_plan(found)))
    print(page)
    return OK
