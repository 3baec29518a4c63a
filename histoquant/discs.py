"""Opening by a disc: what the disc does not fit into is taken off, as from stain above its background."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

_NONE = np.int32(2**31 - 1)


def open_by_disc(image: FloatImage, width: int) -> FloatImage:
    """Open an image by a disc: the highest of the lowest values within it.

    The same as `cv2.morphologyEx` by `cv2.MORPH_ELLIPSE`, which looks at every pixel of the disc. Here rows
    of it are made of narrower ones, and one row of the image serves all rows of the disc.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        No NaN.
    width : int
        Diameter of the disc, px, odd.

    Returns
    -------
    ndarray of float32, shape (rows, columns)

    References
    ----------
    Urbach ER, Wilkinson MHF. Efficient 2-D grayscale morphological transformations with arbitrary flat
    structuring elements. IEEE Trans Image Process 2008;17:1-8.

    Examples
    --------
    >>> image = np.zeros((9, 9), np.float32)
    >>> image[1:8, 1:8], image[0, 0] = 1, 5
    >>> open_by_disc(image, 5)[:3, :5]
    array([[0., 0., 0., 0., 0.],
           [0., 0., 0., 1., 1.],
           [0., 1., 1., 1., 1.]], dtype=float32)
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    halves = disc.sum(axis=1, dtype=np.int64) // 2
    lowest = _find_lowest(np.ascontiguousarray(image, np.float32).view(np.int32), halves, np.int32(0))
    return np.asarray(_find_lowest(lowest, halves, np.int32(-1)).view(np.float32))


def _find_lowest(image: Keys, halves: Ints, turn: np.int32) -> Keys:
    """Lowest value within a disc, given half the width of its rows, by a turn of -1 the highest.

    Values are bits of floats; beyond the border there are none.
    """
    lowest = np.full(image.shape, _NONE, np.int32)
    lines = np.full((2, image.shape[1] + 2 * int(halves.max())), _NONE, np.int32)
    _lower_all(image, halves, np.unique(halves), turn, lines, lowest)
    return lowest


@Compiled
def _lower_all(image: Keys, halves: Ints, widths: Ints, turn: np.int32, lines: Keys, lowest: Keys) -> None:
    """Let every row lower those above and below by what is lowest in rows of the disc; lines are for work."""
    rows, columns = image.shape
    most = widths[-1]
    for row in range(rows):
        line, spare, reach = lines[0], lines[1], 0
        for column in range(len(line)):
            line[column] = _NONE
        for column in range(columns):
            line[most + column] = _rank(image[row, column]) ^ turn
        for half in widths:
            while reach < half:
                step = min(half - reach, 2 * reach + 1)
                _widen(line, spare, step)
                line, spare, reach = spare, line, reach + step
            for at in range(len(halves)):
                under = row + at - len(halves) // 2
                if halves[at] == half and 0 <= under < rows:
                    _lower(lowest[under], line[most : most + columns])
    for row in range(rows):
        for column in range(columns):
            lowest[row, column] = _rank(lowest[row, column] ^ turn)


@Compiled
def _rank(bits: np.int32) -> np.int32:
    """A whole number that sorts as the float of these bits, and back: vectors find the lowest of those."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@Compiled
def _widen(line: Keys, wide: Keys, step: int) -> None:
    """Take the lowest of each value and of those a step before and behind it."""
    before, own, behind = line[: len(line) - 2 * step], line[step : len(line) - step], line[2 * step :]
    inner = wide[step : len(line) - step]
    for at in range(len(inner)):
        inner[at] = min(before[at], own[at], behind[at])


@Compiled
def _lower(lowest: Keys, line: Keys) -> None:
    for at in range(len(lowest)):
        lowest[at] = min(lowest[at], line[at])
