"""Rings: what walls of DAB enclose, found by walking along the walls and not by filling all around them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def fill_rings(
    brown: FloatImage, levels: Sequence[float], min_area: float, max_area: float, pixel_area: float = 1.0
) -> Bytes:
    """Find what rings enclose, closed ones or those with a gap of up to two pixels.

    At each level walls are what lies above it, and what they enclose are holes: places at the level or
    below, joined at their sides, from which no way leads out of the image. A gap is closed by walls that
    are a pixel thicker to each side.

    Parameters
    ----------
    brown : ndarray of float32, shape (rows, columns)
        DAB.
    levels : sequence of float
        Rising, 0 or higher, at most eight.
    min_area, max_area : float
        Of holes, by a contour that runs through the middle of their walls.
    pixel_area : float, optional
        In the unit of the two.

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
        1 inside a ring of any level, 0 elsewhere.

    Examples
    --------
    >>> fill_rings(np.float32([[0, 2, 0, 0], [2, 0, 2, 0], [0, 2, 0, 0]]), [1.0], 2.0, 2.0)
    array([[0, 0, 0, 0],
           [0, 1, 0, 0],
           [0, 0, 0, 0]], dtype=uint8)
    """
    # In a frame of open ground no step leads out of an array.
    heights, thick, inside = np.zeros((3, brown.shape[0] + 2, brown.shape[1] + 2), np.uint8)
    if brown.size:
        _count_levels(brown, np.array(levels, np.float32), heights)
        thick[1:-1, 1:-1] = cv2.dilate(heights[1:-1, 1:-1], np.ones((3, 3), np.uint8))
        areas = (float(min_area), float(max_area), float(pixel_area))
        for walls, around in ((heights, 0), (thick, 1)):
            seen, crossed = np.zeros((2, walls.size), np.uint8)
            flat = walls.ravel()
            # Every border has a pixel with a wall at its left, at which the walk begins.
            starts = np.flatnonzero(flat[:-1] > flat[1:])
            room = seen, crossed, inside.ravel()
            _fill_holes(flat, heights.ravel(), starts, walls.shape[1], around, areas, *room)
    return np.asarray(inside[1:-1, 1:-1])


@Compiled
def _count_levels(brown: FloatImage, levels: FloatImage, heights: Bytes) -> None:
    """Count the levels that each pixel is above."""
    for y in range(brown.shape[0]):
        for level in levels:
            for x in range(brown.shape[1]):
                if brown[y, x] > level:
                    heights[y + 1, x + 1] += np.uint8(1)


@Compiled
def _fill_holes(
    walls: Bytes,
    heights: Bytes,
    starts: npt.NDArray[np.int64],
    width: int,
    around: int,
    areas: tuple[float, float, float],
    seen: Bytes,
    crossed: Bytes,
    inside: Bytes,
) -> None:
    """Fill the holes of fitting area at every level, and so far around them as heights allow."""
    for wall in starts:
        for level in range(walls[wall + 1], walls[wall]):
            if seen[wall] >> level & 1:
                continue
            area = _walk_border(walls, width, level, wall + 1, seen) * areas[2]
            if areas[0] <= area <= areas[1]:
                box = _cross_border(walls, width, level, wall + 1, crossed)
                _fill_box(walls, heights, width, level, box, around, crossed, inside)


@Compiled
def _walk_border(walls: Bytes, width: int, level: int, start: int, seen: Bytes) -> float:
    """Area within the middle of the walls of a hole; -1 around walls that stand in the open.

    The area of a polygon through pixels is that of the pixels inside and half a pixel for every side
    between the two, a quarter at a corner of the border.
    """
    place, ahead, left = start, -width, -1
    pixels, quarters = 0, 0
    while True:
        if left == -1:
            seen[place - 1] |= np.uint8(1 << level)
            pixels -= place
        elif left == 1:
            pixels += place + 1
        place, ahead, turned = _go_on(walls, level, place, ahead, left)
        quarters += 1 if turned else 2
        left = _find_left(ahead, width)
        if place == start and left == -1:
            return pixels + quarters / 4 if pixels > 0 else -1.0


@Compiled
def _find_left(ahead: int, width: int) -> int:
    """The step to the left of a step."""
    if abs(ahead) == 1:
        return -width * ahead
    return -1 if ahead < 0 else 1


@Compiled
def _go_on(walls: Bytes, level: int, place: int, ahead: int, left: int) -> tuple[int, int, bool]:
    """Next place and heading with the wall at the left hand, and whether that took a turn."""
    if walls[place + ahead] > level:
        return place, -left, True
    if walls[place + ahead + left] > level:
        return place + ahead, ahead, False
    return place + ahead + left, left, True


@Compiled
def _cross_border(
    walls: Bytes, width: int, level: int, start: int, crossed: Bytes
) -> tuple[int, int, int, int]:
    """Note where rows go in and out of a hole; first and last row and column."""
    place, ahead, left = start, -width, -1
    top = bottom = start // width
    first = last = start % width
    while True:
        if abs(left) == 1:
            crossed[place if left == -1 else place + 1] ^= 1
        y, x = divmod(place, width)
        top, bottom, first, last = min(top, y), max(bottom, y), min(first, x), max(last, x)
        place, ahead, _ = _go_on(walls, level, place, ahead, left)
        left = _find_left(ahead, width)
        if place == start and left == -1:
            return top, bottom, first, last


@Compiled
def _fill_box(
    walls: Bytes,
    heights: Bytes,
    width: int,
    level: int,
    box: tuple[int, int, int, int],
    around: int,
    crossed: Bytes,
    inside: Bytes,
) -> None:
    """Fill what is between an odd and an even crossing and no wall, and forget the crossings."""
    top, bottom, first, last = box
    for y in range(top, bottom + 1):
        odd = 0
        for place in range(y * width + first, y * width + last + 2):
            odd ^= crossed[place]
            crossed[place] = 0
            if odd and walls[place] <= level:
                for row in range(place - around * width, place + around * width + 1, width):
                    for at in range(row - around, row + around + 1):
                        if heights[at] <= level:
                            inside[at] = 1
