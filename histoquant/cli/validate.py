"""Commands that compare counts of the same fields: validate, agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from histoquant.cli.app import OK, PARTLY, Flag, app, complain

if TYPE_CHECKING:
    import pandas as pd


@app.command
def validate(folder: Path, truth: Path) -> int:
    """Compare a run with a person's counts, points or outlines, in the run's own fields.

    Writes fields.csv, sections.csv, agreement.csv, cells.csv (for points and outlines) and validation.html
    to validation/NAME/ (the name of the truth) in the run's folder; the run's report tells the result. Exit
    code 1: something of the truth was not compared, or looks odd; it is said.

    Parameters
    ----------
    folder
        A run's folder.
    truth
        CSV of counts (section, field, fibers, positive_cells; empty: not counted); or CSV of points
        (section, x_um, y_um, positive: 1, 0, or -1 where nobody can tell; optionally field,
        nucleus_radius_um, nucleus), um from the slide's upper left corner; or a folder of GeoJSON files,
        named by section, in level-0 pixels, with classes that say Positive, Negative, Uncertain or Fiber.
    """
    from histoquant.validation import validate_run

    found = validate_run(folder, truth)
    for note in found.notes:
        complain(note)
    print(_format(found.agreement))
    print(found.folder / "validation.html")
    return PARTLY if found.notes else OK


@app.command
def agree(
    folder: Path, first: str, second: str | None = None, *, blinded: Annotated[bool, Flag] = False
) -> int:
    """Compare two reviewers of a run, or the program and one: limits of agreement, ICC(2,1), kappa.

    Writes fields.csv, sections.csv, cells.csv, agreement.csv and validation.html to
    readers/FIRST against SECOND/ of the folder; for the program to validation/reviewer FIRST/, which
    `histoquant report` shows. For blinded readers the names begin with `blinded `.

    Parameters
    ----------
    folder
        A run's folder.
    first
        A reviewer.
    second
        Another reviewer; the program if not given.
    blinded
        Compare blinded readings of these names, not edits.
    """
    from histoquant.readers import compare_readers

    place, agreement = compare_readers(folder, first, second, blinded)
    shown = agreement[agreement["measure"].isin(["bias", "limit_low", "limit_high", "icc", "f1", "kappa"])]
    print(shown.round(3).to_string(index=False))
    print(place / "validation.html")
    return OK


def _format(agreement: pd.DataFrame) -> str:
    """The main measures as text: a row per count, then a row per measure of cells."""
    import pandas as pd

    rows, cells = [], []
    for (marker, level, quantity), own in agreement.groupby(["marker", "level", "quantity"], sort=False):
        found = {str(row["measure"]): row for row in own.to_dict("records")}
        about = {"marker": marker or "all", "level": level, "quantity": quantity}
        if level == "cell":
            cells += [
                {**about, "measure": name, "n": row["n"], "estimate (CI)": _write(row, 3)}
                for name, row in found.items()
            ]
            continue
        digits = 3 if quantity == "cells_per_fiber" else 1
        low, high = (f"{found[f'limit_{side}']['estimate']:.{digits}f}" for side in ("low", "high"))
        rows.append(
            {
                **about,
                "n": found["bias"]["n"],
                "bias (CI)": _write(found["bias"], digits),
                "limits of agreement": f"{low} to {high}",
                "bias % (CI)": _write(found["bias_percent"], 1),
                "ICC (CI)": _write(found["icc"], 3),
            }
        )
    tables = [pd.DataFrame(part).to_string(index=False) for part in (rows, cells) if part]
    return "\n\n".join(tables)


def _write(row: Mapping[Any, Any], digits: int) -> str:
    """Estimate and interval; nan is a dash."""
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("estimate", "ci_low", "ci_high"))
    return (value if low == "nan" else f"{value} ({low} to {high})").replace("nan", "-")
