"""Spans: runs of pixels of one label along a row; of large objects there are far fewer than pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """The spans of a label map.

    Attributes
    ----------
    labels : ndarray of int64, shape (labels,)
        All labels, ascending; 0, the background, is none.
    index : ndarray of int64, shape (spans,)
        Place of each span's label in `labels`.
    rows, first, last : ndarray of int64, shape (spans,)
        Row, first and last column.
    """

    labels: Ints
    index: Ints
    rows: Ints
    first: Ints
    last: Ints

    def count(self) -> Ints:
        """Pixels per label."""
        return self._add_up(self.last - self.first + 1)

    def count_within(self, mask: Mask) -> Ints:
        """Pixels per label that lie in a mask."""
        return self._add_up(_count_true(np.ascontiguousarray(mask), self.rows, self.first, self.last))

    def locate(self) -> tuple[Floats, Floats]:
        """Mean row and mean column per label."""
        length, count, size = self.last - self.first + 1, self.count(), len(self.labels)
        row = np.bincount(self.index, self.rows * length, size) / count
        # The sum of whole numbers from first to last is exact.
        column = np.bincount(self.index, (self.first + self.last) * length / 2, size) / count
        return row, column

    def frame(self) -> list[tuple[slice, slice]]:
        """The box (rows, columns) of each label."""
        ends = []
        for low, high in ((self.rows, self.rows), (self.first, self.last)):
            start, stop = np.full(len(self.labels), np.iinfo(np.int64).max), np.zeros(len(self.labels), int)
            np.minimum.at(start, self.index, low)
            np.maximum.at(stop, self.index, high + 1)
            ends.append([slice(*end) for end in zip(start.tolist(), stop.tolist(), strict=True)])
        return list(zip(*ends, strict=True))

    def move(self, box: tuple[slice, slice]) -> Spans:
        """The same spans in a box around all of them."""
        down, right = (part.start for part in box)
        return replace(self, rows=self.rows - down, first=self.first - right, last=self.last - right)

    def join(self, owner: Ints) -> Spans:
        """The spans of labels some of which are one: told is the place of the label that each belongs to."""
        names, place = np.unique(owner, return_inverse=True)
        index, count = place[self.index], len(self.index)
        parted = (index[1:] != index[:-1]) | (self.rows[1:] != self.rows[:-1])
        parted |= self.first[1:] != self.last[:-1] + 1
        begins, ends = np.append(True, parted)[:count], np.append(parted, True)[:count]
        return Spans(
            self.labels[names], index[begins], self.rows[begins], self.first[begins], self.last[ends]
        )

    def list_pixels(self) -> tuple[Ints, Ints, Ints]:
        """Place of the label in `labels`, row and column of every pixel, row by row."""
        length = self.last - self.first + 1
        index, rows, first = (np.repeat(part, length) for part in (self.index, self.rows, self.first))
        return index, rows, first + np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)

    def touch_border(self, shape: tuple[int, ...]) -> Mask:
        """Labels with a pixel at the image's border."""
        at_edge = (self.rows == 0) | (self.rows == shape[0] - 1)
        at_edge |= (self.first == 0) | (self.last == shape[1] - 1)
        return np.asarray(np.bincount(self.index[at_edge], minlength=len(self.labels)) > 0)

    def _add_up(self, pixels: npt.NDArray[np.integer[Any]]) -> Ints:
        return np.bincount(self.index, pixels, len(self.labels)).astype(np.int64)


def list_spans(labels: Labels) -> Spans:
    """List the spans of a label map, row by row.

    Parameters
    ----------
    labels : ndarray of int, shape (rows, columns)
        0 is background.

    Returns
    -------
    Spans

    Examples
    --------
    >>> spans = list_spans(np.array([[7, 7, 0], [0, 2, 7]]))
    >>> spans.labels[spans.index].tolist(), spans.first.tolist(), spans.last.tolist()
    ([7, 2, 7], [0, 1, 2], [1, 1, 2])
    """
    # Two kinds of whole numbers are compiled, no more.
    kind = np.int32 if labels.dtype == np.int32 else np.int64
    values, rows, first, last = np.ascontiguousarray(_find_spans(np.ascontiguousarray(labels, kind)).T)
    names, index = index_labels(values)
    return Spans(names, index, rows, first, last)


@Compiled
def _find_spans(labels: Labels) -> Ints:
    """Label, row, first and last column of every span, shape (spans, 4)."""
    found = np.empty((1 << 14, 4), np.int64)
    count = 0
    for row in range(labels.shape[0]):
        if count + labels.shape[1] > len(found):
            wider = np.empty((2 * len(found) + labels.shape[1], 4), np.int64)
            for at in range(count):  # in a loop: slices take seconds to compile
                for part in range(4):
                    wider[at, part] = found[at, part]
            found = wider
        own, column = labels[row], 0
        while column < len(own):
            value, first = own[column], column
            while column + 8 <= len(own) and _goes_on(own, column, value):
                column += 8
            while column < len(own) and own[column] == value:
                column += 1
            if value != 0:
                found[count, 0], found[count, 1] = value, row
                found[count, 2], found[count, 3] = first, column - 1
                count += 1
    return found[:count]


@Compiled
def _goes_on(row: Labels, column: int, value: int) -> Any:
    """Whether the next eight pixels are all of one value: looked at together, by vectors."""
    other = row[np.uint64(column)] ^ value
    for step in range(1, 8):
        other |= row[np.uint64(column + step)] ^ value
    return other == 0


@Compiled
def _count_true(mask: Mask, rows: Ints, first: Ints, last: Ints) -> Ints:
    """How much is true of every span."""
    count = np.zeros(len(rows), np.int64)
    for at in range(len(rows)):
        for value in mask[rows[at], first[at] : last[at] + 1]:
            count[at] += value
    return count


def index_labels(values: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
    """List labels, ascending, and the place of each value among them: `np.unique` without a sort.

    Examples
    --------
    >>> [part.tolist() for part in index_labels(np.array([7, 2, 7]))]
    [[2, 7], [1, 0, 1]]
    """
    highest = int(values.max(initial=0))
    # Hand-made label maps may hold huge numbers, for which a table by label would not fit in memory.
    if int(values.min(initial=0)) < 0 or highest > 1000 + 100 * len(values):
        names, index = np.unique(values, return_inverse=True)
        return names.astype(np.int64), index
    present = np.bincount(values, minlength=1) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[values]
