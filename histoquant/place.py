"""Where cells sit: between fibers, between fascicles, around a vessel, or in a fiber, its own or invading."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled
from histoquant.distances import look_around
from histoquant.feret import measure_feret, measure_spans
from histoquant.geometry import frame_mask
from histoquant.pixels import Pixels
from histoquant.protocol import CellSettings
from histoquant.ranks import find_median
from histoquant.spans import Spans, list_spans
from histoquant.stains import Stains

Labels = npt.NDArray[np.int32]
FloatImage = npt.NDArray[np.float32]
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
    """Cells, one value each.

    Distance of the center to a fiber (px), the nearest fiber, the part of the nucleus in it, and short by
    long axis of the nucleus.
    """

    gap: FloatImage
    fiber: Ints
    share: Floats
    flatness: Floats


def place_cells(
    pixels: Pixels,
    nuclei: Mask,
    marked: Mask,
    fibers: Labels,
    perimysial: Mask,
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
    pixels : Pixels
        Of the cells.
    nuclei : ndarray of bool, shape (pixels,)
        Which of them are of nuclei; of a cell without a nucleus, all.
    marked : ndarray of bool, shape (n,)
        By label, ascending: cells that hold a marker which nuclei of fibers do not.
    fibers : ndarray of int32, shape (rows, columns)
        Fibers; 0 is background.
    perimysial : ndarray of bool, shape (n,)
        By label: cells in the perimysium, see `find_perimysial`.
    lumens : ndarray of bool, shape (rows, columns)
        See `find_lumens`.
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
    free = fibers == 0
    if free.all() or not number:
        return np.full(number, "endomysial", object), np.zeros(number, np.int64)
    at = pixels.centers
    spots = _describe_cells(pixels, nuclei, fibers, free)
    inside = spots.share > settings.inside_share
    deep = inside.copy()
    inner = _find_inner(np.ascontiguousarray(fibers))
    depth, _ = look_around(inner, at.compress(inside, axis=1), settings.invading_depth_um / mpp)
    deep[inside] = (1 + depth) * mpp > settings.invading_depth_um
    crowd = np.bincount(spots.fiber[deep], minlength=int(spots.fiber.max()) + 1)[spots.fiber]
    round_ = spots.flatness > _ROUND
    invading = inside & ((marked & round_) | ((crowd >= settings.invading_nuclei) & (deep | round_)))
    wide = (spots.gap * mpp > settings.touching_um) & perimysial
    vessel = wide & lumens.any()
    away, _ = look_around(~lumens, at.compress(vessel, axis=1), settings.perivascular_um / mpp)
    vessel[vessel] = away * mpp < settings.perivascular_um
    place = np.select(
        [invading, inside, vessel, wide], ["invading", "internal", "perivascular", "perimysial"], "endomysial"
    )
    return place.astype(object), spots.fiber


@Compiled
def _find_inner(labels: Labels) -> Mask:
    """Pixels of an object with nothing else beside them; the image's border is nothing."""
    rows, columns = labels.shape
    inner = np.empty((rows, columns), np.bool_)
    for row in range(rows):
        # One loop for each side, without a test for the border, is done by vectors.
        own, found = labels[row], inner[row]
        above, below = labels[max(row - 1, 0)], labels[min(row + 1, rows - 1)]
        for column in range(columns):
            alone = (own[column] == above[column]) & (own[column] == below[column])
            found[column] = alone & (own[column] > 0)
        for column in range(columns - 1):
            found[column] &= own[column] == own[column + 1]
        for column in range(1, columns):
            found[column] &= own[column] == own[column - 1]
    return inner


def find_perimysial(fibers: Labels, at: Ints, mpp: float, settings: CellSettings) -> Mask:
    """Find what lies between fascicles: in wide, long spaces; a hole among the fibers of one is short.

    A disc of `perimysium_um` fits into such a space, which is longer than `perimysium_length_um` or reaches
    the image's border. Looked for at about 1 um/px.

    Parameters
    ----------
    fibers : ndarray of int32, shape (rows, columns)
        Fibers; 0 is background.
    at : ndarray of int64, shape (2, n)
        Rows and columns of what is asked for.
    mpp : float
        Pixel size, um/px.
    settings : CellSettings
        `perimysium_um` and `perimysium_length_um`.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    step = max(1, round(_COARSE_UM / mpp))
    free = (fibers[::step, ::step] == 0).view(np.uint8)
    half = settings.perimysium_um / 2 / (mpp * step)
    core = cv2.distanceTransform(free, cv2.DIST_L2, 5) > half
    parts = np.asarray(cv2.connectedComponents(core.view(np.uint8))[1], np.int32)
    spans = list_spans(parts)
    long = measure_spans(spans)[1] * mpp * step > settings.perimysium_length_um
    long |= spans.touch_border(parts.shape)
    index, rows, columns = spans.list_pixels()
    away = np.ones(parts.shape, bool)
    away[rows, columns] = ~long[index]
    return np.asarray(look_around(away, at // step, half)[0] <= half)


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
    both = cv2.add(stains.haematoxylin, stains.dab)
    density = np.asarray(cv2.GaussianBlur(both, (0, 0), _NOISE_UM / stains.mpp), np.float32)
    some = np.s_[::2, ::2]
    in_fibers = np.ascontiguousarray(density[some])[fibers[some] > 0]
    if not in_fibers.size:
        return found
    clear = np.float32(_CLEAR) * np.float32(find_median(in_fibers))
    hollow = density < clear
    if not hollow.any():
        return found
    # Little is clear: of the rest, only walls around it are looked at.
    near = frame_mask(hollow, _WALL_UM[1] / stains.mpp + 1)
    hollow = hollow[near] & (fibers[near] == 0)
    parts = cv2.connectedComponents(hollow.view(np.uint8), connectivity=4)[1]
    spans = list_spans(parts)
    fitting = _choose_sizes(spans, parts.shape, stains.mpp, settings)
    ground = _find_ground(fibers[some], cells[some], density[some], clear) if fitting.size else hollow[:0]
    if not ground.any():
        return found
    between = find_median(density[some][ground])
    fibers, cells, density = fibers[near], cells[near], density[near]
    boxes = spans.frame()
    for at in fitting:
        box = _widen(boxes[at], _WALL_UM[1] / stains.mpp)
        lumen = parts[box] == spans.labels[at]
        if _is_compact(lumen):
            ground = _find_ground(fibers[box], cells[box], density[box], clear)
            if _has_wall(lumen, density[box], ground, fibers[box], between, stains.mpp):
                found[near][box] |= lumen
    return found


def _find_ground(fibers: Labels, cells: Labels, density: FloatImage, clear: np.float32) -> Mask:
    """What lies between fibers and is no cell and not clear."""
    return np.asarray((fibers == 0) & (cells == 0) & (density >= clear))


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


def _describe_cells(pixels: Pixels, nuclei: Mask, fibers: Labels, free: Mask) -> _Spots:
    gap, nearest = look_around(free, pixels.centers, np.inf)
    fiber = fibers.ravel()[nearest].astype(np.int64)
    shapes = np.zeros((6, len(fiber)))
    _measure_shapes(pixels.index, pixels.rows, pixels.columns, nuclei, shapes)
    within = nuclei & (np.take(fibers, pixels.places) == fiber[pixels.index])
    share = np.bincount(pixels.index[within], minlength=len(fiber)) / shapes[0]
    return _Spots(gap, fiber, share, _measure_flatness(*shapes[3:]))


@Compiled
def _measure_shapes(index: Ints, rows: Ints, columns: Ints, where: Mask, shapes: Floats) -> None:
    """Put in zeros, by index: pixels, mean row and column, squares and product of the distances from both."""
    for at in range(len(index)):
        if where[at]:
            own = index[at]
            shapes[0, own] += 1
            shapes[1, own] += rows[at]
            shapes[2, own] += columns[at]
    for own in range(shapes.shape[1]):
        shapes[1, own] /= shapes[0, own]
        shapes[2, own] /= shapes[0, own]
    for at in range(len(index)):
        if where[at]:
            own = index[at]
            down, right = rows[at] - shapes[1, own], columns[at] - shapes[2, own]
            shapes[3, own] += down * down
            shapes[4, own] += right * right
            shapes[5, own] += down * right
    for own in range(shapes.shape[1]):
        for moment in range(3, 6):
            shapes[moment, own] /= shapes[0, own]


def _measure_flatness(yy: Floats, xx: Floats, xy: Floats) -> Floats:
    """Short by long axis of the ellipse with the same second moments; a pixel has some itself."""
    middle, spread = (xx + yy) / 2 + 1 / 12, np.hypot((xx - yy) / 2, xy)
    return np.asarray(np.sqrt(np.maximum(middle - spread, 0) / (middle + spread)))


def _measure_distance(mask: Mask) -> FloatImage:
    """Distance to the mask, px; infinite without one."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
