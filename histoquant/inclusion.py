"""Which objects count in a field: the half-area rule, and two others beside it for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.errors import HistoquantError
from histoquant.spans import Spans, list_spans

Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]


def measure_inclusion(labels: Labels | Spans, inside: Mask) -> pd.DataFrame:
    """Measure how much of every object lies in a field.

    Parameters
    ----------
    labels : ndarray of int, shape (rows, columns), or Spans
        Objects of the field and its margin; 0 is background.
    inside : ndarray of bool, same shape
        The field.

    Returns
    -------
    DataFrame
        One row per label (index `label`, ascending): `area_px`, `inside_px`, `fraction_in_field`,
        `straddling` (cut by the field's edge), `touches_border` (possibly cut by the image's border,
        so that the fraction is one of its visible area only).

    Raises
    ------
    HistoquantError
        The shapes differ, or a label is negative.

    Examples
    --------
    >>> labels = np.array([[1, 1, 2], [0, 0, 2], [0, 0, 2]])
    >>> inside = np.array([[True, False, False], [True, False, False], [True, False, True]])
    >>> measure_inclusion(labels, inside)["fraction_in_field"].round(3).to_dict()
    {1: 0.5, 2: 0.333}
    """
    if not isinstance(labels, Spans):
        _check_labels(labels, inside)
    spans = labels if isinstance(labels, Spans) else list_spans(labels)
    return pd.DataFrame(share_field(spans, inside), index=pd.Index(spans.labels, name="label"))


def share_field(spans: Spans, inside: Mask) -> dict[str, npt.NDArray[Any]]:
    """Columns of `measure_inclusion`, not yet a table.

    Parameters
    ----------
    spans : Spans
        Of the objects.
    inside : ndarray of bool, shape (rows, columns)
        The field.

    Returns
    -------
    dict of ndarray, one value per label
    """
    area, within = spans.count(), spans.count_within(inside)
    return {
        "area_px": area,
        "inside_px": within,
        "fraction_in_field": within / area,
        "straddling": (within > 0) & (within < area),
        "touches_border": spans.touch_border(inside.shape),
    }


def count_half_area(fraction: npt.ArrayLike) -> Mask:
    """Count objects with more than half of their area in the field; exactly half does not count.

    The quotient of two pixel counts below 2**52 is rounded correctly, so it exceeds 0.5 exactly when
    2 * inside > area. An object therefore counts in at most one field of any partition.

    Parameters
    ----------
    fraction : array_like of float
        `fraction_in_field` of `measure_inclusion`.

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> count_half_area([0.0, 0.5, 5 / 9, 1.0])
    array([False, False,  True,  True])
    """
    return np.asarray(fraction, dtype=np.float64) > 0.5


def count_centroid(labels: Labels, inside: Mask) -> pd.Series[bool]:
    """Count objects whose centroid lies in the field, that is, in one of its pixels.

    Parameters
    ----------
    labels, inside : ndarray
        As for `measure_inclusion`.

    Returns
    -------
    Series of bool, index `label`

    Raises
    ------
    HistoquantError
        The shapes differ, or a label is negative.

    Examples
    --------
    >>> count_centroid(np.array([[1, 1, 1, 2, 2]]), np.array([[True, True, False, False, True]])).to_dict()
    {1: True, 2: True}
    """
    names, index = _index_labels(labels, inside)
    rows, columns = np.nonzero(index)
    objects = index[rows, columns]
    area = np.bincount(objects, minlength=names.size)[1:]
    # Pixel centers are whole numbers here; halfway goes to the next pixel, so to one field only.
    row, column = (
        np.floor(np.bincount(objects, weights=place, minlength=names.size)[1:] / area + 0.5).astype(np.intp)
        for place in (rows, columns)
    )
    return pd.Series(inside[row, column], index=pd.Index(names[1:], name="label"), name="counted")


def count_frame(labels: Labels, inside: Mask) -> pd.Series[bool]:
    """Count objects by the unbiased counting frame.

    An object counts if it lies in the frame at least in part and touches no exclusion line: the left
    edge and its extension upwards, the lower edge, the right edge's extension downwards. All that lies
    beyond these lines is known only as far as the image reaches.

    Parameters
    ----------
    labels, inside : ndarray
        As for `measure_inclusion`; `inside` is one rectangle.

    Returns
    -------
    Series of bool, index `label`

    Raises
    ------
    HistoquantError
        The field is no rectangle, the shapes differ, or a label is negative.

    References
    ----------
    Gundersen HJG (1977), Notes on the estimation of the numerical density of arbitrary profiles: the
    edge effect. Journal of Microscopy 111, 219-223.

    Examples
    --------
    >>> inside = np.array([[False, True, True, False]])
    >>> count_frame(np.array([[1, 1, 2, 2]]), inside).to_dict()
    {1: False, 2: True}
    """
    names, index = _index_labels(labels, inside)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not inside.any() or not inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all():
        raise HistoquantError("the counting frame needs a rectangle", "field", "count by half area instead")
    within = np.bincount(index[inside], minlength=names.size) > 0
    left = np.bincount(index[:, : columns[0]].ravel(), minlength=names.size) > 0
    below = np.bincount(index[rows[-1] + 1 :, : columns[-1] + 1].ravel(), minlength=names.size) > 0
    counted = (within & ~left & ~below)[1:]
    return pd.Series(counted, index=pd.Index(names[1:], name="label"), name="counted")


def _check_labels(labels: Labels, inside: Mask) -> None:
    if labels.shape != inside.shape:
        raise HistoquantError(
            f"labels {labels.shape} and field {inside.shape} differ in shape",
            "inclusion",
            "rasterize the field on the grid of the labels",
        )
    if labels.size and labels.min() < 0:
        raise HistoquantError("a label is negative", "inclusion", "number objects from 1")


def _index_labels(labels: Labels, inside: Mask) -> tuple[Labels, Labels]:
    """Names (0 first, ascending) and the same map with every label replaced by its place among them."""
    _check_labels(labels, inside)
    if labels.size and labels.max() > labels.size:
        # Hand-made label maps may hold huge numbers, for which a table by label would not fit in memory.
        names, index = np.unique(np.append(labels, 0), return_inverse=True)
        return names, index[:-1].reshape(labels.shape)
    present = np.bincount(labels.ravel()) > 0 if labels.size else np.ones(1, dtype=bool)
    present[0] = True
    table = np.cumsum(present) - 1
    return np.flatnonzero(present), table[labels]
