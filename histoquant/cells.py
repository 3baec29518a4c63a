"""Cells: nuclei grown by a cell body, and DAB rings of cell size whose nucleus lies out of the plane."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.clumps import part_clumps
from histoquant.compiled import Compiled
from histoquant.discs import open_by_disc
from histoquant.geometry import frame_mask
from histoquant.protocol import CellSettings
from histoquant.qupath import find_nuclei_by_laplacian
from histoquant.ranks import find_quantile
from histoquant.rings import fill_rings
from histoquant.stains import Stains, crop_stains

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Compartment = Literal["nucleus", "membrane", "cytoplasm", "cell"]

_AROUND_FIELD_UM = 30.0
_GRID_PX = 8
_NOISE_UM = 0.3
_SEED_UM = 0.4
_NEAR_UM = 1.75
_REACH_UM = 4.0
_MIN_CORE_UM2 = 2.0
# By a contour that runs through the ring: 2 x 2 pixels of 0.5 um.
_MIN_HOLE_UM2 = 1.7
# A strong ring leaks into haematoxylin; a quarter of it taken off opens the walls between cells.
_LEAK = 0.25
# Within reach of a darker one, a nucleus ends where its stain falls below this share.
_PEAK_SHARE = 0.4
# A ring encloses most of its cell at the highest level at which it is still closed.
_RING_STEPS = (0.7, 1.0, 1.5, 2.2, 3.5, 6.0)
_BODY_STEP = 2.5
# Steps to a neighbour by 16 bits: 1, 1.4 and, a knight's move, 2.1969; and what no path costs.
_HEAD_ON, _DIAGONAL, _KNIGHT = 65536, 91750, 143976
_FAR = 2**30


def find_cells(stains: Stains, settings: CellSettings, compartment: Compartment = "membrane") -> Labels:
    """Find nuclei and cells.

    A nucleus is haematoxylin above its local background; touching nuclei are parted by a watershed
    of the distance to their outline. Whatever a DAB ring encloses is one cell, with or without a
    visible nucleus; so is a brown body of cell size. Cores grow by the cell body without overlap.
    Precipitate is too small to hold a core, brown fibers and folds are wider than the background.

    Parameters
    ----------
    stains : Stains
        Densities at the working resolution.
    settings : CellSettings
        Sizes in um, densities in OD; with the method `qupath` nuclei are found as
        `find_nuclei_by_laplacian` does.
    compartment : str, optional
        Where the marker's DAB lies. With `nucleus`, DAB makes a nucleus as haematoxylin does.

    Returns
    -------
    ndarray of int32, shape of `stains.dab`
        Labels 1 to n of cells, 0 elsewhere.
    """
    mpp = stains.mpp
    if settings.method == "qupath":
        return grow_labels(find_nuclei_by_laplacian(stains, settings.qupath), settings.growth_um / mpp)
    blue = subtract_background(stains.haematoxylin, settings.background_um, mpp)
    # Nuclei can have negative DAB where the vectors do not quite fit; that is no background.
    floor = find_quantile(stains.dab[::4, ::4], 0.25) if stains.dab.size else 0.0
    brown = subtract_background(stains.dab, settings.background_um, mpp, floor)
    if compartment == "nucleus":
        nuclei = _find_nuclei(blue + np.maximum(brown, 0), settings, mpp)
        return grow_labels(nuclei, settings.growth_um / mpp)
    # DAB that fills the cell has incidental holes; only where it spares the nucleus is a hole one.
    filled = compartment == "cell"
    rings = np.zeros(blue.shape, np.int32) if filled else _find_rings(brown, settings, mpp)
    inside = (rings > 0).view(np.uint8)
    around, close = (
        np.asarray(cv2.dilate(inside, _disc(reach)), np.uint8) for reach in (settings.growth_um / mpp, 1)
    )
    signal = _take_walls(blue, brown, around, close, np.float32(settings.ring_od), np.float32(_LEAK))
    nuclei = _find_nuclei(signal, settings, mpp)
    cores = _add_labels(rings, nuclei)
    bodies = _find_bodies(stains.dab - floor, brown, cores > 0, settings, mpp)
    return grow_labels(_add_labels(cores, bodies), settings.growth_um / mpp)


@Compiled
def _take_walls(
    blue: FloatImage, brown: FloatImage, around: Bytes, close: Bytes, ring_od: np.float32, leak: np.float32
) -> FloatImage:
    """Haematoxylin without what DAB leaks into it; nothing close to rings, and in their walls around."""
    signal = np.zeros_like(blue)
    for y in range(blue.shape[0]):
        for x in range(blue.shape[1]):
            tint = brown[y, x]
            left = blue[y, x] - leak * (tint if tint > 0 else np.float32(0))
            wall = (close[y, x] != 0) | ((around[y, x] != 0) & (tint > ring_od))
            signal[y, x] = np.float32(0) if wall else left
    return signal


def find_cells_of_field(
    stains: Stains, inside: Mask, settings: CellSettings, compartment: Compartment = "membrane"
) -> Labels:
    """Find the cells of a field and those up to 30 um from its box, as far as they are seen whole.

    The margin is as wide as the largest fiber; no cell that lies farther away can count.

    Parameters
    ----------
    stains : Stains
        The field and its margin.
    inside : ndarray of bool, shape of `stains.dab`
        The field.
    settings, compartment
        As for `find_cells`.

    Returns
    -------
    ndarray of int32, shape of `stains.dab`
        Labels 1 to n of cells, 0 elsewhere.
    """
    box = frame_mask(inside, _AROUND_FIELD_UM / stains.mpp, _GRID_PX)
    found = find_cells(crop_stains(stains, box), settings, compartment)
    labels = np.zeros(stains.dab.shape, np.int32)
    labels[box] = _drop_cut(found, box, stains.dab.shape)
    return labels


def _drop_cut(labels: Labels, box: tuple[slice, slice], shape: tuple[int, ...]) -> Labels:
    """Labels that the sides of a box do not cut, numbered anew; what the image itself cuts stays."""
    keep = np.ones(int(labels.max(initial=0)) + 1, bool)
    for part, rows, size in zip(box, (labels, labels.T), shape, strict=True):
        if part.start > 0:
            keep[rows[:1]] = False
        if part.stop < size:
            keep[rows[-1:]] = False
    keep[0] = False
    return _keep_labels(labels, np.flatnonzero(labels != 0), keep)


def subtract_background(
    image: FloatImage, radius_um: float, mpp: float, floor: float = -np.inf
) -> FloatImage:
    """Stain above its local background (white top-hat), lightly smoothed.

    The background is the morphological opening by a disc, computed at about 1 um/px: what the disc
    does not fit into, a nucleus or a ring, stands out; what it fits into, a tinted or brown fiber,
    does not, up to its very edge.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Optical density.
    radius_um : float
        Radius of the disc.
    mpp : float
        Pixel size, um/px.
    floor : float, optional
        The background is nowhere taken to be lower.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        May be slightly negative.

    References
    ----------
    Soille P. Morphological Image Analysis. Springer 2004, section 4.5.

    Examples
    --------
    >>> image = np.full((60, 60), 0.2, np.float32)
    >>> image[28:32, 28:32] = 0.9
    >>> lifted = subtract_background(image, 8.0, 0.5)
    >>> round(float(lifted[0, 0]), 3), bool(lifted[30, 30] > 0.6)
    (0.0, True)
    """
    smooth = cv2.GaussianBlur(image, (0, 0), _NOISE_UM / mpp)
    step = max(1, round(1.0 / mpp))
    size = (-(-image.shape[1] // step), -(-image.shape[0] // step))
    small = cv2.resize(cv2.GaussianBlur(smooth, (0, 0), 0.4 / mpp), size, interpolation=cv2.INTER_AREA)
    small = open_by_disc(np.asarray(small, np.float32), 2 * max(1, round(radius_um / (mpp * step))) + 1)
    small = np.maximum(small, np.float32(floor))
    background = cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth - background, np.float32)


def grow_labels(labels: Labels, radius_px: float) -> Labels:
    """Grow every label by a distance, without overlap; each new pixel goes to the nearest label.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        0 is background.
    radius_px : float
        Distance, px.

    Returns
    -------
    ndarray of int32, shape (rows, columns)

    Examples
    --------
    >>> grow_labels(np.array([[0, 0, 3, 0, 0, 0, 7]], np.int32), 1.0)
    array([[0, 3, 3, 3, 0, 7, 7]], dtype=int32)
    """
    known = (labels != 0).view(np.uint8)
    # No step of a path is longer than its cost: what lies outside the square is out of reach.
    side = 2 * int(radius_px) + 1
    around = cv2.dilate(known, np.ones((side, side), np.uint8)) if labels.size else known
    near = np.flatnonzero((around != known).ravel())
    # Two pixels of frame are out of reach.
    size = (labels.shape[0] + 4, labels.shape[1] + 4)
    grown, owner, cost = labels.copy(), np.zeros(size, np.int32), np.full(size, _FAR, np.int32)
    owner[2:-2, 2:-2] = labels
    cost[2:-2, 2:-2][known.view(bool)] = 0
    limit = int(np.float32(radius_px) * _HEAD_ON)
    _spread(cost.ravel(), owner.ravel(), near, size[1], limit, grown.ravel())
    return grown


@Compiled
def _spread(
    cost: Labels, owner: Labels, near: npt.NDArray[np.int64], width: int, limit: int, grown: Labels
) -> None:
    """Give places, in order, the label to which a path costs least, if no more than the limit.

    Costs and their order are those of `cv2.distanceTransformWithLabels` by 5 x 5 neighbours, forward then
    backward (Borgefors 1986), which goes over the whole image.
    """
    columns = width - 4
    for at in near:
        _ask_neighbours(cost, owner, at + 4 * (at // columns) + 2 * width + 2, width, 1)
    for at in near[::-1]:
        _ask_neighbours(cost, owner, at + 4 * (at // columns) + 2 * width + 2, -width, -1)
    for at in near:
        place = at + 4 * (at // columns) + 2 * width + 2
        if cost[place] <= limit:
            grown[at] = owner[place]


@Compiled
def _ask_neighbours(cost: Labels, owner: Labels, place: int, row: int, step: int) -> None:
    """Go by way of the neighbour, of those already passed, by which it costs least."""
    best = cost[place], place
    best = _choose_cheaper(best, cost, place - 2 * row - step, _KNIGHT)
    best = _choose_cheaper(best, cost, place - 2 * row + step, _KNIGHT)
    best = _choose_cheaper(best, cost, place - row - 2 * step, _KNIGHT)
    best = _choose_cheaper(best, cost, place - row - step, _DIAGONAL)
    best = _choose_cheaper(best, cost, place - row, _HEAD_ON)
    best = _choose_cheaper(best, cost, place - row + step, _DIAGONAL)
    best = _choose_cheaper(best, cost, place - row + 2 * step, _KNIGHT)
    best = _choose_cheaper(best, cost, place - step, _HEAD_ON)
    cost[place], owner[place] = best[0], owner[best[1]]


@Compiled
def _choose_cheaper(best: tuple[int, int], cost: Labels, place: int, more: int) -> tuple[int, int]:
    now = cost[np.uint64(place)] + np.int32(more)
    return (now, place) if now < best[0] else best


def _find_nuclei(signal: FloatImage, settings: CellSettings, mpp: float) -> Labels:
    smooth = cv2.GaussianBlur(signal, (0, 0), _SEED_UM / mpp)
    peak = cv2.dilate(smooth, _square(_REACH_UM / mpp))
    mask = smooth > np.maximum(settings.nucleus_od, _PEAK_SHARE * peak)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    distance = cv2.GaussianBlur(distance, (0, 0), _SEED_UM / mpp)
    top = mask & (distance >= cv2.dilate(distance, _square(_NEAR_UM / mpp)))
    seeds = cv2.connectedComponents(top.astype(np.uint8))[1]
    parts = part_clumps(-distance, np.asarray(seeds, np.int32), mask)
    return _keep_sizes(parts, settings.min_nucleus_um2, settings.max_nucleus_um2, mpp)


def _find_rings(brown: FloatImage, settings: CellSettings, mpp: float) -> Labels:
    """Insides of rings, closed or with a gap of up to two pixels."""
    levels = [step * settings.ring_od for step in _RING_STEPS]
    inside = fill_rings(brown, levels, _MIN_HOLE_UM2, settings.max_nucleus_um2, mpp**2)
    return _keep_sizes(_label(inside), _MIN_CORE_UM2, settings.max_nucleus_um2, mpp)


def _find_bodies(
    dab: FloatImage, brown: FloatImage, known: Mask, settings: CellSettings, mpp: float
) -> Labels:
    """Cores of brown bodies that hold no other core: what growing will bring back is taken off.

    The body is cut out of DAB itself, so that it includes the whole of a brown fiber, which is then
    too large or, on the mean, not above its background.
    """
    solid = (cv2.GaussianBlur(dab, (0, 0), _NOISE_UM / mpp) > settings.ring_od).astype(np.uint8)
    cores = _label(np.asarray(cv2.erode(solid, _disc(settings.growth_um / mpp)), np.uint8))
    grown = cv2.dilate(known.astype(np.uint8), _disc(settings.growth_um / mpp))
    at = np.flatnonzero(cores != 0)
    owner = cores.ravel()[at]
    keep = np.bincount(owner, brown.ravel()[at]) > _BODY_STEP * settings.ring_od * np.bincount(owner)
    keep &= np.bincount(owner, grown.ravel()[at]) == 0
    # A body must have room for a nucleus: precipitate has not.
    return _keep_sizes(cores, settings.min_nucleus_um2, settings.max_nucleus_um2, mpp, keep)


def _label(mask: Bytes) -> Labels:
    return np.asarray(cv2.connectedComponents(mask, connectivity=4)[1], np.int32)


def _add_labels(first: Labels, second: Labels) -> Labels:
    """Both, the first on top, the second numbered on."""
    both, at = first.copy(), np.flatnonzero(second != 0)
    at = at[first.ravel()[at] == 0]
    both.ravel()[at] = second.ravel()[at] + int(first.max(initial=0))
    return both


def _keep_sizes(
    labels: Labels, low_um2: float, high_um2: float, mpp: float, keep: Mask | bool = True
) -> Labels:
    """Labels of fitting area, numbered anew."""
    at = np.flatnonzero(labels != 0)
    owner = labels.ravel()[at]
    area_um2 = np.bincount(owner) * mpp**2
    keep = keep & (area_um2 >= low_um2) & (area_um2 <= high_um2)
    return _keep_labels(labels, at, keep)


def _keep_labels(labels: Labels, at: npt.NDArray[np.int64], keep: Mask) -> Labels:
    """Labels that are kept, numbered anew; `at` is where there are any."""
    names = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    kept = np.zeros_like(labels)
    kept.ravel()[at] = names[labels.ravel()[at]]
    return kept


def _disc(radius_px: float) -> Bytes:
    side = 2 * max(1, round(radius_px)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _square(radius_px: float) -> Bytes:
    side = 2 * max(1, round(radius_px)) + 1
    return np.ones((side, side), np.uint8)
