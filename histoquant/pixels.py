"""Pixels of all labels of a map, one after the other: of cells, which are few, no more need be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled
from histoquant.distances import measure_depth
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
        bare = np.ones(len(self.area), bool)
        bare[self.index[where]] = False
        return np.asarray(where | bare[self.index])


def list_pixels(spans: Spans, labels: Labels, box: tuple[slice, slice]) -> Pixels:
    """List the pixels of all labels.

    Parameters
    ----------
    spans : Spans
        Of the labels.
    labels : ndarray of int32, shape (rows, columns)
        0 is background.
    box : tuple of slice
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
    area, spans = spans.count(), spans.move(box)
    flat, beside = np.empty((4, int(area.sum())), np.int64), np.empty((2, int(area.sum())), bool)
    corner, width = (box[0].start, box[1].start), box[1].stop - box[1].start
    runs = spans.index, spans.rows, spans.first, spans.last
    _list(np.ascontiguousarray(labels), corner, width, runs, flat, beside)
    index, rows, columns, places = flat
    inner, touching = beside
    depth = measure_depth(inner, rows, columns)
    return Pixels(index, rows, columns, places, depth, touching, area, spans.locate())


@Compiled
def _list(
    labels: Labels,
    corner: tuple[int, int],
    width: int,
    runs: tuple[Ints, Ints, Ints, Ints],
    flat: Ints,
    beside: Mask,
) -> None:
    """Index, row, column and place of pixels of spans in a box of the labels, and what lies beside each."""
    inner, touching, end = beside[0], beside[1], 0
    for span in range(len(runs[0])):
        index, row, first, last = runs[0][span], runs[1][span], runs[2][span], runs[3][span]
        y, x = corner[0] + row, corner[1] + first
        own, line = labels[y, x], labels[y]
        above, below = labels[max(y - 1, 0)], labels[min(y + 1, len(labels) - 1)]
        start, end = end, end + last - first + 1
        for at in range(start, end):
            column = first + at - start
            flat[0, at], flat[1, at], flat[2, at], flat[3, at] = index, row, column, row * width + column
            up, down = above[corner[1] + column], below[corner[1] + column]
            inner[at] = (up == own) & (down == own)
            touching[at] = ((up != own) & (up != 0)) | ((down != own) & (down != 0))
        # Beyond the image's border there is nothing.
        if x > 0:
            inner[start] = False
            touching[start] |= line[x - 1] != 0
        if corner[1] + last + 1 < len(line):
            inner[end - 1] = False
            touching[end - 1] |= line[corner[1] + last + 1] != 0
