"""Distances in images, measured only where they are asked for: those of `cv2.DIST_L2` by 5 x 5 pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

# Steps to a neighbour, across a corner, and like a knight's in chess; and what is as good as out of reach.
_HEAD_ON, _DIAGONAL, _KNIGHT, _FAR = (np.float32(step) for step in (1, 1.4, 2.1969, 2**30))


def draw_disc(radius_px: float) -> Bytes:
    """Draw all places no farther away than a radius: to dilate by it is to compare distances with it.

    Parameters
    ----------
    radius_px : float
        Of the disc, px.

    Returns
    -------
    ndarray of uint8, shape (side, side)
        1 in the disc, 0 elsewhere.

    Examples
    --------
    >>> draw_disc(2.0)
    array([[0, 0, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [1, 1, 1, 1, 1],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 0, 0]], dtype=uint8)
    """
    reach = int(radius_px)
    free = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    free[reach, reach] = 0
    return (cv2.distanceTransform(free, cv2.DIST_L2, 5) <= radius_px).view(np.uint8)


def measure_depth(inner: Mask, rows: Ints, columns: Ints) -> FloatImage:
    """Measure the distance of pixels of labels to the outside of their label.

    Parameters
    ----------
    inner : ndarray of bool, shape (pixels,)
        Whether a pixel has nothing but its own label beside it.
    rows, columns : ndarray of int64, shape (pixels,)
        All pixels of all labels, row by row.

    Returns
    -------
    ndarray of float32, shape (pixels,)
        px; 1 for a pixel at the rim. The image's border is no outside.

    Examples
    --------
    >>> rows, columns = np.repeat([1, 2], 3), np.tile([0, 1, 2], 2)
    >>> measure_depth(rows == 2, rows, columns)
    array([1., 1., 1., 2., 2., 2.], dtype=float32)
    """
    if not len(rows):
        return np.zeros(0, np.float32)
    top, left = rows.min() - 2, columns.min() - 2
    cost = np.zeros((rows.max() - top + 3, columns.max() - left + 3), np.float32)
    # Beside the box of all labels, either pixels at its sides are at the rim or the image ends.
    cost[:2], cost[-2:], cost[:, :2], cost[:, -2:] = _FAR, _FAR, _FAR, _FAR
    places, depth = (rows - top) * cost.shape[1] + columns - left, np.empty(len(rows), np.float32)
    _deepen(cost.ravel(), places, inner, cost.shape[1], depth)
    return depth


@Compiled
def _deepen(cost: FloatImage, places: Ints, inner: Mask, width: int, depth: FloatImage) -> None:
    """Find what it costs to come to places, in order, from those at the rim, and add 1."""
    for at in range(len(places)):
        cost[places[at]] = _FAR if inner[at] else 0
    for at in range(len(places)):
        if inner[at]:
            _step(cost, places[at], width, 1)
    for at in range(len(places) - 1, -1, -1):
        if inner[at]:
            _step(cost, places[at], -width, -1)
        depth[at] = cost[places[at]] + np.float32(1)


@Compiled
def _step(cost: FloatImage, place: int, row: int, step: int) -> None:
    """Come to a place by way of that of the neighbours already passed by which it costs least."""
    above, left = place - row, place - step
    knight = min(cost[above - row - step], cost[above - row + step])
    knight = min(knight, cost[above - 2 * step], cost[above + 2 * step]) + _KNIGHT
    diagonal = min(cost[above - step], cost[above + step]) + _DIAGONAL
    cost[place] = min(cost[place], knight, diagonal, min(cost[above], cost[left]) + _HEAD_ON)


@Compiled
def look_around(free: Mask, at: Ints, most: float) -> tuple[FloatImage, Ints]:
    """Nearest pixel that is not free: its distance, and its place in the flat image (-1 for none).

    Distances are in px, infinite beyond `most`. Of pixels equally near by the straight distance the upper,
    then the left one is taken. `at` are rows and columns.
    """
    rows, columns = free.shape
    distance, nearest = np.empty(at.shape[1], np.float32), np.empty(at.shape[1], np.int64)
    for spot in range(at.shape[1]):
        row, column, square, ring = at[0, spot], at[1, spot], rows * rows + columns * columns, 0
        distance[spot], nearest[spot] = np.inf, -1
        # Square rings about the spot, until none that is farther out can hold a nearer pixel.
        while ring <= most and (ring < distance[spot] or ring**2 <= square) and ring < max(rows, columns):
            for y in range(max(row - ring, 0), min(row + ring + 1, rows)):
                side = 1 if abs(y - row) == ring else 2 * ring
                for x in range(column - ring, column + ring + 1, side):
                    if 0 <= x < columns and not free[y, x]:
                        distance[spot] = min(distance[spot], _measure_way(abs(y - row), abs(x - column)))
                        away = (y - row) ** 2 + (x - column) ** 2
                        if away < square or (away == square and y * columns + x < nearest[spot]):
                            square, nearest[spot] = away, y * columns + x
            ring += 1
    return distance, nearest


@Compiled
def _measure_way(down: int, right: int) -> np.float32:
    long, short = max(down, right), min(down, right)
    if 2 * short <= long:
        return np.float32(long - 2 * short) + _KNIGHT * np.float32(short)
    return _KNIGHT * np.float32(long - short) + _DIAGONAL * np.float32(2 * short - long)
