"""Pixels of all labels of a map, one after the other: of cells, which are few, no more need be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histoquant.distances import look_beside, measure_depth
from histoquant.ranks import rank_groups
from histoquant.spans import Spans

Labels = npt.NDArray[np.int32]
FloatImage = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pixels:
    """Pixels of labels, row by row.

    Attributes
    ----------
    index : ndarray of int64, shape (pixels,)
        Place of each pixel's label among all, ascending.
    rows, columns, places : ndarray of int64, shape (pixels,)
        Where it lies, and its place in the flat image.
    depth : ndarray of float32, shape (pixels,)
        Its distance to the outside of its label, see `measure_depth`.
    touching : ndarray of bool, shape (pixels,)
        Whether it lies beside another label.
    area : ndarray of int64, shape (labels,)
        Pixels per label.
    middle : tuple of two ndarrays of float64, shape (labels,)
        Mean row and mean column per label.
    """

    index: Ints
    rows: Ints
    columns: Ints
    places: Ints
    depth: FloatImage
    touching: Mask
    area: Ints
    middle: tuple[Floats, Floats]

    @property
    def centers(self) -> Ints:
        """Row and column of the pixel nearest to the middle of each label, shape (2, labels)."""
        return np.rint(self.middle).astype(np.int64)

    def mean(self, values: npt.NDArray[np.generic], where: Mask) -> Floats:
        """Mean per label; NaN where nothing is left."""
        index = self.index[where]
        total = np.bincount(index, values[where], len(self.area))
        count = np.bincount(index, minlength=len(self.area))
        return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))

    def quantile(self, values: FloatImage, share: float) -> Floats:
        """Quantile per label."""
        return rank_groups(values, self.index, len(self.area), share)

    def fill(self, where: Mask) -> Mask:
        """A label with no pixel in `where` takes all it has."""
        bare = np.bincount(self.index[where], minlength=len(self.area)) == 0
        return np.asarray(where | bare[self.index])


def list_pixels(spans: Spans, labels: Labels, box: tuple[slice, slice] = np.s_[0:, 0:]) -> Pixels:
    """List the pixels of all labels.

    Parameters
    ----------
    spans : Spans
        Of the labels.
    labels : ndarray of int32, shape (rows, columns)
        0 is background.
    box : tuple of slice, optional
        A box around all labels, in which places are given.

    Returns
    -------
    Pixels

    Examples
    --------
    >>> from histoquant.spans import list_spans
    >>> labels = np.int32([[0, 7, 7], [0, 0, 2]])
    >>> pixels = list_pixels(list_spans(labels), labels, np.s_[0:2, 1:3])
    >>> pixels.index.tolist(), pixels.places.tolist(), pixels.area.tolist()
    ([1, 1, 0], [0, 1, 3], [1, 2])
    """
    index, rows, columns = spans.list_pixels()
    inner, touching = look_beside(labels, rows, columns)
    depth = measure_depth(inner, rows, columns)
    rows, columns = rows - box[0].start, columns - box[1].start
    places = rows * len(range(*box[1].indices(labels.shape[1]))) + columns
    middle = spans.move(box).locate()
    return Pixels(index, rows, columns, places, depth, touching, spans.count(), middle)
