# This module touches files: it makes the demonstration study and reads its truth.
"""The demonstration: a small study whose truth is known, and how near the measurement comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from histoquant.errors import StorageError
from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    StudyPlan,
    read_truth,
    write_study,
)
from histoquant.synthetic.compare import compare_fields, compare_sections

FIELDS = 4
# Infiltrates less focal than the renderer's default, lest four fields tell nothing of a section.
PLAN = StudyPlan(
    patients=(4, 4),
    render=RenderSettings(
        size_um=(2000.0, 2000.0), layout=LayoutSettings(foci_per_mm2=6.0), cells=CellsSettings(focal=0.3)
    ),
)


def make_demo(folder: Path, workers: int, progress: Callable[[int, int], None]) -> Path:
    """Make the study unless it is there: 8 patients, three markers, a planted correlation.

    Parameters
    ----------
    folder : Path
        For slides, truth and study table.
    workers : int
        Processes.
    progress : callable
        Called with the number of sections made and of all.

    Returns
    -------
    Path
        The study table.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    table = folder / "STUDY.csv"
    # The table is written last, so that where it is, the slides are.
    if table.is_file():
        return table
    try:
        return write_study(folder, PLAN, 0, progress, workers)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", folder, "free space, or choose another --out"
        ) from error


def describe_demo(folder: Path, run: Path) -> str:
    """Say what was true and what was measured, in the same fields.

    Parameters
    ----------
    folder : Path
        Of the study.
    run : Path
        Of its results.

    Returns
    -------
    str
        A table of sections, and what follows from it.
    """
    planted = pd.read_csv(folder / "truth.csv")
    truths = {name: read_truth(folder / "truth" / name) for name in planted["section"]}
    table = compare_sections(compare_fields(run, truths))
    shown = table.drop(columns=["patient", "marker"]).rename(columns=lambda name: name.replace("_", " "))
    values = table.set_index(["marker", "patient"])
    lines = ["", "Measured and true counts in the same fields:", ""]
    lines += [shown.round(3).to_string(index=False), ""]
    for name, column in (("measured", "cells_per_fiber"), ("true in the fields", "true_cells_per_fiber")):
        rho = spearmanr(values.loc["BAFF-R", column], values.loc["CD19", column]).statistic
        lines.append(f"Spearman BAFF-R–CD19, {name}: {rho:.3f}")
    for what in ("fibers", "positive_cells"):
        error = table[what].sum() / table[f"true_{what}"].sum() - 1
        lines.append(f"Error of all {what.replace('_', ' ')}: {error:+.1%}")
    lines += ["", *_tell_sampling(planted, table)]
    lines += ["", f"Report: {run / 'report.html'}"]
    return "\n".join(lines)


def _tell_sampling(planted: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """How far a few fields lie from the whole section, which no measurement can mend."""
    whole = planted.set_index("section")["cells_per_fiber"]
    drawn = table.set_index("section")["true_cells_per_fiber"]
    distance = float(((drawn - whole) ** 2).mean() ** 0.5)
    pairs = planted.set_index(["marker", "patient"])["cells_per_fiber"]
    rho = spearmanr(pairs.loc["BAFF-R"], pairs.loc["CD19"]).statistic
    return [
        f"Sampling error, from true values in {FIELDS} fields to those of whole sections: "
        f"root mean square {distance:.3f} cells per fiber, mean {whole.mean():.3f}.",
        f"Spearman BAFF-R–CD19, true of whole sections: {rho:.3f}",
    ]
