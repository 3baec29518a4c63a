"""Where cells sit: between fibers, between fascicles, around a vessel, or in a fiber, its own or invading."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.feret import measure_feret
from histoquant.protocol import CellSettings
from histoquant.ranks import find_median
from histoquant.spans import Spans, index_labels, list_spans
from histoquant.stains import FloatImage, Stains

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]

PLACES = ("endomysial", "perimysial", "perivascular", "invading", "internal")
"""What may be said of a cell; `internal` is a nucleus of the fiber itself."""

_NOISE_UM = 0.7
_COARSE_UM = 1.0
# Of what a typical fiber takes up; white points are a few hundredths off, endomysium is half as dense.
_CLEAR = 0.3
# A crack is slim or jagged.
_LEAST_SLIMNESS = 0.4
_LEAST_SOLIDITY = 0.8
_WALL_UM = (1.0, 4.0)
_WALL_FIBERS = 0.3
_WALL_DENSITY = 1.15
# Nuclei along a fiber's rim are flat, cells that press into it are round.
_ROUND = 0.6


class _Spots(NamedTuple):
    """Cells, one value each: pixel of the center; part of the nucleus in its fiber; short by long axis."""

    row: Ints
    column: Ints
    fiber: Ints
    share: Floats
    flatness: Floats


def place_cells(
    labels: Labels,
    nuclei: Mask,
    marked: Mask,
    fibers: Labels,
    perimysium: Mask,
    lumens: Mask,
    mpp: float,
    settings: CellSettings,
) -> tuple[Names, Ints]:
    """Say where cells sit.

    In this order:

    - in a fiber, if more than `inside_share` of the nucleus is: `invading` if the cell is marked and
      round, or if `invading_nuclei` or more nuclei lie deeper than `invading_depth_um` in that fiber and
      this one is deep or round; else `internal`, a nucleus of the fiber itself;
    - `endomysial`, if the center is nearer than `touching_um` to a fiber, or not in the perimysium;
    - `perivascular`, if a lumen is nearer than `perivascular_um`;
    - else `perimysial`.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        Cells; 0 is background.
    nuclei : ndarray of bool, same shape
        Pixels of the cells' nuclei.
    marked : ndarray of bool, shape (n,)
        By label, ascending: cells that hold a marker which nuclei of fibers do not.
    fibers : ndarray of int32, same shape
        Fibers; 0 is background.
    perimysium, lumens : ndarray of bool, same shape
        See `find_perimysium` and `find_lumens`.
    mpp : float
        Pixel size, um/px.
    settings : CellSettings
        Distances in um.

    Returns
    -------
    place : ndarray of object, shape (n,)
        One of `PLACES` by label, ascending.
    fiber : ndarray of int64, shape (n,)
        The fiber that holds the center, or the nearest; 0 if there is none.
    """
    number = len(marked)
    if not fibers.any() or not number:
        return np.full(number, "endomysial", object), np.zeros(number, np.int64)
    gap = _measure_distance(fibers > 0)
    spots = _describe_cells(labels, nuclei, fibers, gap)
    at = spots.row, spots.column
    inside = spots.share > settings.inside_share
    deep = inside & (measure_depth(fibers)[at] * mpp > settings.invading_depth_um)
    crowd = np.bincount(spots.fiber[deep], minlength=int(fibers.max()) + 1)[spots.fiber]
    round_ = spots.flatness > _ROUND
    invading = inside & ((marked & round_) | ((crowd >= settings.invading_nuclei) & (deep | round_)))
    wide = (gap[at] * mpp > settings.touching_um) & perimysium[at]
    vessel = wide & (_measure_distance(lumens)[at] * mpp < settings.perivascular_um)
    place = np.select(
        [invading, inside, vessel, wide], ["invading", "internal", "perivascular", "perimysial"], "endomysial"
    )
    return place.astype(object), spots.fiber


def measure_depth(labels: Labels) -> FloatImage:
    """Measure the distance of each pixel to the outside of its label; the image's border is no outside.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        0 is background.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        px; 1 for a pixel at the rim, 0 for background.

    Examples
    --------
    >>> measure_depth(np.array([[0, 0, 0], [4, 4, 4], [4, 4, 4]], np.int32)).round(0)[:, 1]
    array([0., 1., 2.], dtype=float32)
    """
    inner = labels > 0
    across = labels[:, 1:] == labels[:, :-1]
    down = labels[1:] == labels[:-1]
    inner[:, 1:] &= across
    inner[:, :-1] &= across
    inner[1:] &= down
    inner[:-1] &= down
    depth = cv2.distanceTransform(inner.view(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.add(depth, 1, out=depth, where=labels > 0), np.float32)


def find_perimysium(fibers: Labels, mpp: float, settings: CellSettings) -> Mask:
    """Find spaces between fascicles: wide and long, where a hole among the fibers of one is short.

    A disc of `perimysium_um` fits into such a space, which is longer than `perimysium_length_um` or reaches
    the image's border. Looked for at about 1 um/px.

    Parameters
    ----------
    fibers : ndarray of int32, shape (rows, columns)
        Fibers; 0 is background.
    mpp : float
        Pixel size, um/px.
    settings : CellSettings
        `perimysium_um` and `perimysium_length_um`.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
    """
    step = max(1, round(_COARSE_UM / mpp))
    free = (fibers[::step, ::step] == 0).astype(np.uint8)
    half = settings.perimysium_um / 2 / (mpp * step)
    core = cv2.distanceTransform(free, cv2.DIST_L2, 5) > half
    parts = np.asarray(cv2.connectedComponents(core.astype(np.uint8))[1], np.int32)
    lengths = measure_feret(parts)["max_feret_px"] * mpp * step
    long = np.zeros(int(parts.max()) + 1, bool)
    long[lengths.index] = lengths > settings.perimysium_length_um
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        long[side] = True
    long[0] = False
    wide = (_measure_distance(long[parts]) <= half).repeat(step, axis=0).repeat(step, axis=1)
    return np.asarray(wide[: fibers.shape[0], : fibers.shape[1]])


def find_lumens(fibers: Labels, cells: Labels, stains: Stains, settings: CellSettings) -> Mask:
    """Find lumens of vessels: clear, compact, between fibers, within a wall.

    Clear means that haematoxylin and DAB together are less than 0.3 of a typical fiber's. The wall, 1 to
    4 um from the lumen, is denser than the median of what lies between fibers, and hardly any fiber: a
    crack has fibers for a wall. A lumen that is collapsed or full of blood is not seen.

    Parameters
    ----------
    fibers, cells : ndarray of int32, shape (rows, columns)
        Labels; 0 is background.
    stains : Stains
        Densities on the same grid.
    settings : CellSettings
        `min_lumen_um` and `max_lumen_um`.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
    """
    found = np.zeros(fibers.shape, bool)
    density = np.asarray(
        cv2.GaussianBlur(stains.haematoxylin + stains.dab, (0, 0), _NOISE_UM / stains.mpp), np.float32
    )
    some = np.s_[::2, ::2]
    in_fibers = density[some][fibers[some] > 0]
    if not in_fibers.size:
        return found
    clear = density < np.float32(_CLEAR) * np.float32(find_median(in_fibers))
    ground = (fibers == 0) & (cells == 0) & ~clear
    if not ground[some].any():
        return found
    between = find_median(density[some][ground[some]])
    parts = cv2.connectedComponents((clear & (fibers == 0)).view(np.uint8), connectivity=4)[1]
    spans = list_spans(parts)
    boxes = spans.frame()
    for at in _choose_sizes(spans, fibers.shape, stains.mpp, settings):
        box = _widen(boxes[at], _WALL_UM[1] / stains.mpp)
        lumen = parts[box] == spans.labels[at]
        if _is_compact(lumen) and _has_wall(
            lumen, density[box], ground[box], fibers[box], between, stains.mpp
        ):
            found[box] |= lumen
    return found


def _choose_sizes(spans: Spans, shape: tuple[int, ...], mpp: float, settings: CellSettings) -> Ints:
    """Places of parts of fitting area that the image's border does not cut."""
    diameter_um = 2 * np.sqrt(spans.count() / np.pi) * mpp
    fits = (diameter_um >= settings.min_lumen_um) & (diameter_um <= settings.max_lumen_um)
    return np.flatnonzero(fits & ~spans.touch_border(shape))


def _widen(box: tuple[slice, slice], around_px: float) -> tuple[slice, slice]:
    reach = int(np.ceil(around_px)) + 1
    rows, columns = (slice(max(part.start - reach, 0), part.stop + reach) for part in box)
    return rows, columns


def _is_compact(part: Mask) -> bool:
    widths = measure_feret(part.astype(np.int32)).iloc[0]
    hull = cv2.convexHull(np.argwhere(part).astype(np.int32))
    # The hull runs through the middles of pixels.
    filled = float(part.sum()) / (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1)
    return bool(
        widths["min_feret_px"] > _LEAST_SLIMNESS * widths["max_feret_px"] and filled > _LEAST_SOLIDITY
    )


def _has_wall(
    lumen: Mask, density: FloatImage, ground: Mask, fibers: Labels, between: float, mpp: float
) -> bool:
    away_um = _measure_distance(lumen) * mpp
    wall = (away_um > _WALL_UM[0]) & (away_um <= _WALL_UM[1])
    seen = wall & ground
    if not seen.any() or (fibers[wall] > 0).mean() > _WALL_FIBERS:
        return False
    return bool(density[seen].mean() > _WALL_DENSITY * between)


def _describe_cells(labels: Labels, nuclei: Mask, fibers: Labels, gap: FloatImage) -> _Spots:
    rows, columns = np.divmod(np.flatnonzero(labels != 0), labels.shape[1])
    _, index = index_labels(labels[rows, columns])
    row, column = (np.rint(_average(index, values)).astype(np.int64) for values in (rows, columns))
    places = zip(row.tolist(), column.tolist(), gap[row, column].tolist(), strict=True)
    fiber = np.array([_name_nearest(fibers, *place) for place in places], np.int64)
    # A cell without a nucleus is judged by its whole.
    inner = nuclei[rows, columns]
    inner |= (np.bincount(index[inner], minlength=len(row)) == 0)[index]
    rows, columns, index = rows[inner], columns[inner], index[inner]
    share = _average(index, fibers[rows, columns] == fiber[index])
    return _Spots(row, column, fiber, share, _measure_flatness(index, rows, columns))


def _average(index: Ints, values: npt.NDArray[np.generic]) -> Floats:
    return np.asarray(np.bincount(index, values) / np.bincount(index))


def _measure_flatness(index: Ints, rows: Ints, columns: Ints) -> Floats:
    """Short by long axis of the ellipse with the same second moments; a pixel has some itself."""
    down = rows - _average(index, rows)[index]
    right = columns - _average(index, columns)[index]
    yy, xx, xy = (_average(index, values) for values in (down**2, right**2, down * right))
    middle, spread = (xx + yy) / 2 + 1 / 12, np.hypot((xx - yy) / 2, xy)
    return np.asarray(np.sqrt(np.maximum(middle - spread, 0) / (middle + spread)))


def _name_nearest(fibers: Labels, row: int, column: int, gap: float) -> int:
    """The fiber nearest to a place, `gap` px away; the upper, then the left one of two as near."""
    if gap == 0:
        return int(fibers[row, column])
    # Distances by a mask of 5 x 5 pixels are right to 2 %.
    reach = int(1.02 * gap) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    near = fibers[top : row + reach + 1, left : column + reach + 1]
    rows, columns = np.nonzero(near)
    best = np.argmin((rows + top - row) ** 2 + (columns + left - column) ** 2)
    return int(near[rows[best], columns[best]])


def _measure_distance(mask: Mask) -> FloatImage:
    """Distance to the mask, px; infinite without one."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
