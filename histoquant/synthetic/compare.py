# This module touches files: it reads a run's folder and truth files.
"""Measured against true counts, in the same drawn fields: measurement error without sampling error."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histoquant.geometry import Field
from histoquant.results import read_table
from histoquant.study import encode_name
from histoquant.synthetic.truth import Truth, find_uncertain, truth_in_field


def compare_fields(run: Path, truths: dict[str, Truth]) -> pd.DataFrame:
    """Count every measured field of a run again in the truth, by the half-area rule.

    Objects where the truth is uncertain count neither way, in the truth and in the measurement.

    Parameters
    ----------
    run : Path
        A run's folder.
    truths : dict of str to Truth
        By section ID; other sections are left out.

    Returns
    -------
    DataFrame
        patient, marker, section, field, fibers, true_fibers, positive_cells, true_positive_cells.
    """
    fields = read_table(run / "fields.csv")
    fields = fields[fields["section"].isin(list(truths)) & fields["status"].isin(["ok", "no_fibers"])]
    rows = []
    for row in fields.to_dict("records"):
        name, number = row["section"], int(row["field"])
        place = (row["center_x_um"], row["center_y_um"], row["width_um"], row["height_um"])
        field = Field(number, row["shape"], *(float(value) for value in place))
        true = truth_in_field(truths[name], field)
        fibers, cells = _count_certain(run / "sections" / encode_name(name), number, truths[name])
        rows.append(
            {
                **{key: row[key] for key in ("patient", "marker", "section", "field")},
                **{"fibers": fibers, "true_fibers": true.fibers},
                **{"positive_cells": cells, "true_positive_cells": true.positive_cells},
            }
        )
    return pd.DataFrame(rows)


def compare_sections(fields: pd.DataFrame) -> pd.DataFrame:
    """Sum fields to sections and take the mean of the field ratios, measured and true.

    Parameters
    ----------
    fields : DataFrame
        What `compare_fields` made.

    Returns
    -------
    DataFrame
        patient, marker, section, the four totals, cells_per_fiber and true_cells_per_fiber.

    Examples
    --------
    >>> fields = pd.DataFrame({"patient": "P", "marker": "CD19", "section": "P-CD19", "field": [1, 2],
    ...     "fibers": [10, 20], "true_fibers": [10, 20], "positive_cells": [1, 2],
    ...     "true_positive_cells": [2, 2]})
    >>> compare_sections(fields)[["cells_per_fiber", "true_cells_per_fiber"]].round(3).to_dict("list")
    {'cells_per_fiber': [0.1], 'true_cells_per_fiber': [0.15]}
    """
    table = fields.assign(
        cells_per_fiber=fields["positive_cells"] / fields["fibers"].where(fields["fibers"] > 0),
        true_cells_per_fiber=fields["true_positive_cells"]
        / fields["true_fibers"].where(fields["true_fibers"] > 0),
    )
    grouped = table.groupby(["patient", "marker", "section"], sort=True)
    totals = ["fibers", "true_fibers", "positive_cells", "true_positive_cells"]
    means = grouped[["cells_per_fiber", "true_cells_per_fiber"]].mean()
    return grouped[totals].sum(min_count=1).join(means).reset_index()


def _count_certain(section: Path, number: int, truth: Truth) -> tuple[int, int]:
    objects = pd.read_parquet(section / "objects.parquet")
    counted = objects[objects["field"].eq(number) & objects["counted"].astype(bool)]
    counted = counted[~find_uncertain(truth, counted["x_um"], counted["y_um"])]
    fiber = counted["kind"].eq("fiber")
    return int(fiber.sum()), int((~fiber & counted["positive"].astype(bool)).sum())
