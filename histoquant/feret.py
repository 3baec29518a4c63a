"""Feret diameters of labelled objects: the narrowest and the widest pair of parallel lines around each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.compiled import Compiled
from histoquant.spans import Spans, list_spans

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NOWHERE = 1 << 40


def measure_feret(labels: Labels | Spans) -> pd.DataFrame:
    """Measure the Feret diameters of every object.

    Of the convex hull, so that a notch does not matter; exact for it. The outline runs halfway between
    the centers of pixels inside and outside: what lies along the rows is measured exactly, a straight
    edge that lies aslant up to half a pixel too far out.

    Parameters
    ----------
    labels : ndarray of int, shape (rows, columns), or Spans
        Objects; 0 is background.

    Returns
    -------
    DataFrame
        One row per label (index `label`, ascending): `min_feret_px`, `max_feret_px`.

    References
    ----------
    Briguet A et al. (2004), Histological parameters for the quantitative assessment of muscular
    dystrophy in the mdx-mouse. Neuromuscular Disorders 14, 675-682: of all measures of a fiber's size the
    minimal Feret diameter changes least where the fiber is cut aslant.

    Examples
    --------
    >>> measure_feret(np.array([[7, 7, 7, 7], [7, 7, 7, 7]])).round(3).to_dict("index")
    {7: {'min_feret_px': 2.0, 'max_feret_px': 4.123}}
    """
    spans = labels if isinstance(labels, Spans) else list_spans(labels)
    least, largest = measure_spans(spans)
    columns = {"min_feret_px": least, "max_feret_px": largest}
    return pd.DataFrame(columns, index=pd.Index(spans.labels, name="label"))


def measure_spans(spans: Spans) -> tuple[Floats, Floats]:
    """Columns of `measure_feret`, not yet a table.

    Parameters
    ----------
    spans : Spans
        Of the objects.

    Returns
    -------
    least, largest : ndarray of float64, shape (labels,)
        px.
    """
    return _measure_all(spans.index, spans.rows, spans.first, spans.last, len(spans.labels))


def measure_hull(corners: Floats) -> tuple[float, float]:
    """Measure the least and the largest width of a convex polygon.

    The least width lies across one of its sides (Houle & Toussaint 1988), the largest between two corners.

    Parameters
    ----------
    corners : ndarray of float, shape (n, 2)
        In order around the polygon.

    Returns
    -------
    tuple of float
        Least and largest width; a polygon of fewer than three corners has a least width of 0.

    Examples
    --------
    >>> measure_hull(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]]))
    (3.0, 5.0)
    """
    least, largest = _measure_widths(np.ascontiguousarray(corners, float))
    return (least if len(corners) > 2 else 0.0), largest


@Compiled
def _measure_widths(corners: Floats) -> tuple[float, float]:
    """Least and largest width of a convex polygon."""
    least, largest = np.inf, 0.0
    for at in range(len(corners)):
        x, y = corners[at]
        next_x, next_y = corners[(at + 1) % len(corners)]
        right, down = next_x - x, next_y - y
        across = 0.0
        for other in corners:
            to_x, to_y = other[0] - x, other[1] - y
            across = max(across, abs(right * to_y - down * to_x))
            largest = max(largest, to_x**2 + to_y**2)
        length = math.hypot(right, down)
        if length > 0:
            # How far the farthest corner lies from the line through this side.
            least = min(least, across / length)
    return least, math.sqrt(largest)


@Compiled
def _measure_all(index: Ints, rows: Ints, first: Ints, last: Ints, number: int) -> tuple[Floats, Floats]:
    """Least and largest width of the hull of every label."""
    top, bottom = np.full(number, _NOWHERE), np.full(number, -_NOWHERE)
    for at in range(len(index)):
        top[index[at]] = min(top[index[at]], rows[at])
        bottom[index[at]] = max(bottom[index[at]], rows[at])
    # In half pixels, and of three rows per row of pixels: its own, and halfway to those above and below.
    start = np.zeros(number + 1, np.int64)
    for at in range(number):
        start[at + 1] = start[at] + 2 * (bottom[at] - top[at]) + 3
    left, right = np.full(start[-1], _NOWHERE), np.full(start[-1], -_NOWHERE)
    for at in range(len(index)):
        middle = start[index[at]] + 2 * (rows[at] - top[index[at]]) + 1
        for step in range(-1, 2):
            place, more = middle + step, 1 - abs(step)
            left[place] = min(left[place], 2 * first[at] - more)
            right[place] = max(right[place], 2 * last[at] + more)
    least, largest = np.empty(number), np.empty(number)
    for at in range(number):
        begin, end = start[at], start[at + 1]
        least[at], largest[at] = _measure_widths(_wrap(left[begin:end], right[begin:end]))
    return least, largest


@Compiled
def _wrap(left: Ints, right: Ints) -> Floats:
    """Corners of the convex hull of rows that reach from `left` to `right`, in order around it; in px."""
    corners = np.empty((2 * len(left), 2))
    count = _bend(corners, 0, left, 1)
    count = _bend(corners, count, right, -1)
    return corners[:count]


@Compiled
def _bend(corners: Floats, begin: int, ends: Ints, turn: int) -> int:
    """Add one side of a hull, downwards on the left (`turn` 1), upwards on the right (-1)."""
    count = begin
    for step in range(len(ends)):
        row = step if turn > 0 else len(ends) - 1 - step
        if abs(ends[row]) == _NOWHERE:
            continue
        while count > begin + 1:
            x, y = corners[count - 2]
            right, down = corners[count - 1, 0] - x, corners[count - 1, 1] - y
            if right * (row / 2 - y) < down * (ends[row] / 2 - x):
                break
            count -= 1
        corners[count, 0], corners[count, 1] = ends[row] / 2, row / 2
        count += 1
    return count
