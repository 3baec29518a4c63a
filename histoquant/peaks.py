"""Peaks: what is high for its surroundings, and what is highest in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def mark_high(image: FloatImage, reach: int, share: float, least: float) -> Mask:
    """Mark what is above a value and above a share of the highest within a square.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        No NaN.
    reach : int
        From the middle of the square to its sides, px.
    share : float
        Of the highest.
    least : float
        The value.

    Returns
    -------
    ndarray of bool, shape (rows, columns)

    References
    ----------
    van Herk M. A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels.
    Pattern Recognition Letters 1992;13:517-521.

    Examples
    --------
    >>> mark_high(np.float32([[9, 4, 5, 4, 0]]), 1, 0.5, 1.0)
    array([[ True, False,  True,  True, False]])
    """
    mask, columns, side = np.empty(image.shape, bool), image.shape[1], 2 * reach + 1
    later, earlier = np.full((2, side + 1, columns), -np.inf, np.float32)
    lines = np.full((2, columns + 2 * reach), -np.inf, np.float32)
    _mark_high(image, reach, np.float32(share), np.float32(least), later, earlier, lines, mask)
    return mask


@Compiled
def _mark_high(
    image: FloatImage,
    reach: int,
    share: np.float32,
    least: np.float32,
    later: FloatImage,
    earlier: FloatImage,
    lines: FloatImage,
    mask: Mask,
) -> None:
    """Cut rows into blocks as high as the square, which is in late rows of one and early ones of the next."""
    rows, columns = image.shape
    side, nothing = 2 * reach + 1, earlier[0]
    for first in range(-reach, rows - reach, side):
        for k in range(side):
            back, ahead = first + side - 1 - k, first + side + k
            _take_higher(later[k + 1], later[k], image[back] if 0 <= back < rows else nothing)
            _take_higher(earlier[k + 1], earlier[k], image[ahead] if ahead < rows else nothing)
        for k in range(min(side, rows - reach - first)):
            y = first + reach + k
            _take_higher(lines[0, reach : reach + columns], later[side - k], earlier[k])
            highest = _widen(lines[0], lines[1], reach)[reach : reach + columns]
            for x in range(columns):
                mask[y, x] = (image[y, x] > least) & (image[y, x] > share * highest[x])
            for x in range(reach):
                lines[0, x] = lines[0, reach + columns + x] = -np.inf


@Compiled
def _take_higher(higher: FloatImage, one: FloatImage, other: FloatImage) -> None:
    for x in range(len(higher)):
        higher[x] = one[x] if one[x] > other[x] else other[x]


@Compiled
def _widen(line: FloatImage, spare: FloatImage, reach: int) -> FloatImage:
    """The highest within reach along a line, but for its ends."""
    reached = 0
    while reached < reach:
        step = min(reach - reached, 2 * reached + 1)
        before, own, behind = line[: len(line) - 2 * step], line[step : len(line) - step], line[2 * step :]
        inner = spare[step : len(line) - step]
        for x in range(len(inner)):
            higher = own[x] if own[x] > before[x] else before[x]
            inner[x] = behind[x] if behind[x] > higher else higher
        line, spare, reached = spare, line, reached + step
    return line


def find_tops(image: FloatImage, at: Places, reach: int) -> Mask:
    """Find the places around which nothing is higher.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        No NaN.
    at : ndarray of int64, shape (places,)
        Places of the flattened image, ascending.
    reach : int
        From the middle of a square to its sides, px.

    Returns
    -------
    ndarray of bool, shape (places,)

    Examples
    --------
    >>> find_tops(np.float32([[9, 4, 5, 4, 0]]), np.array([0, 1, 2]), 1)
    array([ True, False,  True])
    """
    is_top = np.empty(len(at), bool)
    _find_tops(image, at, reach, is_top)
    return is_top


@Compiled
def _find_tops(image: FloatImage, at: Places, reach: int, is_top: Mask) -> None:
    y = 0
    for index in range(len(at)):
        while at[index] >= (y + 1) * image.shape[1]:
            y += 1
        x = at[index] - y * image.shape[1]
        # Most have a higher one beside them.
        is_top[index] = _is_highest(image, y, x, 1) and _is_highest(image, y, x, reach)


@Compiled
def _is_highest(image: FloatImage, y: int, x: int, reach: int) -> bool:
    for row in range(max(y - reach, 0), min(y + reach + 1, image.shape[0])):
        for column in range(max(x - reach, 0), min(x + reach + 1, image.shape[1])):
            if image[row, column] > image[y, x]:
                return False
    return True
