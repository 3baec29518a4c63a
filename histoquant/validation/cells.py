"""Cells of a run and marks of a person, matched one to one within a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from histoquant.agreement import compare_calls, measure_f1, measure_proportion, tabulate_estimates
from histoquant.geometry import Field, contains_points

REACH_UM = 4.0
"""Centers farther apart are not the same cell."""
CELL_COLUMNS = (
    *("section", "field", "source", "cell", "x_um", "y_um", "positive", "counted"),
    *("match", "match_um", "positive_match"),
)
_NEAR_UM = 25.0
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


def count_marks(marks: pd.DataFrame, field: Field) -> npt.NDArray[np.bool_]:
    """Say which marks count in a field: points inside, areas more than half inside.

    Parameters
    ----------
    marks : DataFrame
        Column shape: points and areas, um.
    field : Field
        The field.

    Returns
    -------
    ndarray of bool, shape (len(marks),)

    Examples
    --------
    >>> marks = pd.DataFrame({"shape": [shapely.Point(1, 1), shapely.box(8, 0, 11, 1)]})
    >>> count_marks(marks, Field(1, "square", 5.0, 5.0, 10.0, 10.0))
    array([ True,  True])
    """
    shapes = np.asarray(marks["shape"], dtype=object)
    if shapes.size == 0:
        return np.zeros(0, bool)
    area = shapely.area(shapes)
    x, y = _locate(shapes).T
    inside = shapely.area(shapely.intersection(shapes, _outline_field(field)))
    # The margin keeps rounding from deciding about exactly half.
    half = inside > area * (0.5 + 1e-9)
    return np.where(area > 0, half, contains_points(field, x, y))


def pair_points(first: Floats, second: Floats, reach_um: float = REACH_UM) -> tuple[Places, Places]:
    """Pair points one to one: as many pairs within reach as there can be, then the nearest.

    Parameters
    ----------
    first, second : ndarray of float, shape (n, 2) and (m, 2)
        Positions, um.
    reach_um : float, optional
        Greatest distance of a pair.

    Returns
    -------
    tuple of ndarray of int
        Places of the partners in `first` and in `second`.

    Examples
    --------
    >>> pair_points(np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([[8.0, 0.0], [20.0, 0.0]]))
    (array([1]), array([0]))
    """
    distance = cdist(first, second)
    i, j = linear_sum_assignment(np.where(distance <= reach_um, distance, 1e6))
    near = distance[i, j] <= reach_um
    return i[near], j[near]


def match_field(field: Field, marks: pd.DataFrame, objects: pd.DataFrame) -> pd.DataFrame:
    """Match the cells of one field with a person's marks.

    Two matchings: `match` pairs cells by place alone, so that calls can be compared; `positive_match`
    pairs positive cells with positive marks, then those left over with uncertain marks, which count
    neither way. A pair matters when either of the two counts in the field, so that a cell at the edge is
    no error for lying a little to one side.

    Parameters
    ----------
    field : Field
        The field.
    marks : DataFrame
        Cells of the section: cell, positive (1, 0, -1), shape.
    objects : DataFrame
        Cells of the field and its margin: object, x_um, y_um, positive, counted.

    Returns
    -------
    DataFrame
        Columns `CELL_COLUMNS` but section: cells and marks that count, and their partners.
    """
    own = _list_marks(field, marks)
    found = pd.DataFrame(
        {
            "source": "run",
            "cell": objects["object"].astype(str).to_numpy(),
            "x_um": objects["x_um"].to_numpy(float),
            "y_um": objects["y_um"].to_numpy(float),
            "positive": objects["positive"].to_numpy(bool).astype(int),
            "counted": objects["counted"].to_numpy(bool),
        }
    )
    table = pd.concat([found, own], ignore_index=True).assign(
        field=field.number, match="", match_um=np.nan, positive_match=""
    )
    run, truth = table["source"].eq("run"), table["source"].eq("truth")
    positive = table["positive"].eq(1)
    table = _join(table, run, truth, "match")
    table = _join(table, run & positive, truth & positive, "positive_match")
    left = run & positive & table["positive_match"].eq("")
    table = _join(table, left, truth & table["positive"].eq(-1), "positive_match")
    matters = table["counted"].copy()
    for column in ("match", "positive_match"):
        matters |= _look_up_counted(table, column)
    return table[matters].reindex(columns=[name for name in CELL_COLUMNS if name != "section"])


def judge_cells(cells: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Judge positive cells and calls from matched cells.

    Parameters
    ----------
    cells : DataFrame
        Columns `CELL_COLUMNS`.
    confidence : float, optional
        Of the intervals.

    Returns
    -------
    DataFrame
        quantity ("positive cells", found or missed; "call", over matched cells) and the columns of
        `histoquant.agreement`: precision, recall, f1; sensitivity, specificity, agreement, kappa.
    """
    positive, run = cells["positive"].eq(1), cells["source"].eq("run")
    alone = cells["positive_match"].eq("")
    matters = cells["counted"].astype(bool) | _look_up_counted(cells, "positive_match")
    both = int((~run & positive & ~alone & matters).sum())
    extra, missed = (int((side & positive & alone & cells["counted"]).sum()) for side in (run, ~run))
    detection = tabulate_estimates(
        {
            "precision": measure_proportion(both, both + extra, confidence),
            "recall": measure_proportion(both, both + missed, confidence),
            "f1": measure_f1(both, extra, missed, confidence),
        }
    )
    calls, reference = _list_calls(cells)
    called = compare_calls(calls, reference, confidence)
    if not (~reference).any():
        called["note"] = called["note"].mask(
            called["measure"].isin(["specificity", "kappa"]), "the truth marks no negative cell"
        )
    return pd.concat([detection.assign(quantity="positive cells"), called.assign(quantity="call")])


def _list_calls(cells: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Call of the run and of the person for every matched cell that either counts."""
    matters = cells["counted"].astype(bool) | _look_up_counted(cells, "match")
    marks = cells[cells["source"].eq("truth") & cells["match"].ne("") & matters & cells["positive"].ge(0)]
    of_run = cells[cells["source"].eq("run")].set_index(["section", "field", "cell"])["positive"]
    partners = pd.MultiIndex.from_frame(marks[["section", "field", "match"]])
    return of_run.reindex(partners).eq(1).to_numpy(), marks["positive"].eq(1).to_numpy()


def _list_marks(field: Field, marks: pd.DataFrame) -> pd.DataFrame:
    """Marks in and around a field, at their centers."""
    counted = count_marks(marks, field)
    x, y = _locate(np.asarray(marks["shape"], dtype=object)).T
    near = np.hypot(x - field.center_x_um, y - field.center_y_um)
    near = counted | (near <= np.hypot(field.width_um, field.height_um) / 2 + _NEAR_UM)
    return pd.DataFrame(
        {
            "source": "truth",
            "cell": marks["cell"].astype(str).to_numpy()[near],
            "x_um": x[near],
            "y_um": y[near],
            "positive": marks["positive"].to_numpy(int)[near],
            "counted": counted[near],
        }
    )


def _join(table: pd.DataFrame, first: pd.Series[bool], second: pd.Series[bool], column: str) -> pd.DataFrame:
    """Write partners within reach into a column of either."""
    places = table[["x_um", "y_um"]].to_numpy(float)
    rows, rows_2 = np.flatnonzero(first), np.flatnonzero(second)
    i, j = pair_points(places[rows], places[rows_2])
    i, j = rows[i], rows_2[j]
    names = table["cell"].to_numpy(dtype=object)
    partners = table[column].to_numpy(dtype=object).copy()
    partners[i], partners[j] = names[j], names[i]
    table = table.assign(**{column: partners})
    if column == "match":
        distance = np.full(len(table), np.nan)
        distance[i] = distance[j] = np.hypot(*(places[i] - places[j]).T)
        table = table.assign(match_um=distance)
    return table


def _look_up_counted(table: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Whether the partner in a column counts."""
    keys = ["section", "field"] if "section" in table else ["field"]
    counted = table.set_index([*keys, "source", "cell"])["counted"]
    other = table["source"].map({"run": "truth", "truth": "run"})
    partners = pd.MultiIndex.from_frame(table[keys].assign(source=other, cell=table[column]))
    return pd.Series(counted.reindex(partners).eq(True).to_numpy(), index=table.index)


def _locate(shapes: npt.NDArray[Any]) -> Floats:
    """Centers (x, y) of points and areas."""
    return np.asarray(shapely.get_coordinates(shapely.centroid(shapes)), np.float64)


def _outline_field(field: Field) -> Any:
    if field.shape == "circle":
        center = shapely.Point(field.center_x_um, field.center_y_um)
        return center.buffer(field.width_um / 2, quad_segs=256)
    right, bottom = field.left_um + field.width_um, field.top_um + field.height_um
    return shapely.box(field.left_um, field.top_um, right, bottom)
