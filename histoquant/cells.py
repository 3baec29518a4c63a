"""Cells: nuclei grown by a cell body, and DAB rings of cell size whose nucleus lies out of the plane."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.clumps import name_pieces, part_places
from histoquant.compiled import Compiled
from histoquant.discs import open_by_disc
from histoquant.geometry import frame_mask
from histoquant.peaks import find_tops, mark_high
from histoquant.protocol import CellSettings
from histoquant.qupath import find_nuclei_by_laplacian
from histoquant.ranks import find_quantile
from histoquant.rings import fill_rings
from histoquant.stains import Stains, crop_stains

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
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
# Lengths of the steps of `_list_steps`: none, a knight's move, a diagonal one, one head on; and by 16 bits.
_LENGTHS = np.array([0, 2.1969, 2.1969, 2.1969, 1.4, 1, 1.4, 2.1969, 1], np.float32)
_COSTS = np.array([0, 143976, 143976, 143976, 91750, 65536, 91750, 143976, 65536])
_HEAD_ON, _FAR = 65536, 2**30


class Pieces(NamedTuple):
    """Objects: places of the flattened image, and the number of the object at each."""

    at: Places
    owner: Labels


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
    return _paint(_find_pieces(stains, settings, compartment), stains.dab.shape)


def _find_pieces(stains: Stains, settings: CellSettings, compartment: Compartment) -> Pieces:
    mpp, shape = stains.mpp, stains.dab.shape
    growth_px = settings.growth_um / mpp
    if settings.method == "qupath":
        return _grow(_list_places(find_nuclei_by_laplacian(stains, settings.qupath)), shape, growth_px)
    blue = subtract_background(stains.haematoxylin, settings.background_um, mpp)
    # Nuclei can have negative DAB where the vectors do not quite fit; that is no background.
    floor = find_quantile(stains.dab[::4, ::4], 0.25) if stains.dab.size else 0.0
    brown = subtract_background(stains.dab, settings.background_um, mpp, floor)
    if compartment == "nucleus":
        return _grow(_find_nuclei(blue + np.maximum(brown, 0), settings, mpp), shape, growth_px)
    # DAB that fills the cell has incidental holes; only where it spares the nucleus is a hole one.
    rings = _find_rings(brown, settings, mpp) if compartment != "cell" else _name(np.zeros(shape, bool))
    inside, signal = _mark(rings, shape), np.empty_like(blue)
    around, close = (np.asarray(cv2.dilate(inside, _disc(reach)), np.uint8) for reach in (growth_px, 1))
    _take_walls(blue, brown, around, close, np.float32(settings.ring_od), np.float32(_LEAK), signal)
    cores = _add(rings, _find_nuclei(signal, settings, mpp), inside)
    known = _mark(cores, shape)
    bodies = _find_bodies(stains.dab - floor, brown, known, settings, mpp)
    return _grow(_add(cores, bodies, known), shape, growth_px)


@Compiled
def _take_walls(
    blue: FloatImage,
    brown: FloatImage,
    around: Bytes,
    close: Bytes,
    ring_od: np.float32,
    leak: np.float32,
    signal: FloatImage,
) -> None:
    """Haematoxylin without what DAB leaks into it; nothing close to rings, and in their walls around."""
    for y in range(blue.shape[0]):
        for x in range(blue.shape[1]):
            tint = brown[y, x]
            left = blue[y, x] - leak * (tint if tint > 0 else np.float32(0))
            wall = (close[y, x] != 0) | ((around[y, x] != 0) & (tint > ring_od))
            signal[y, x] = np.float32(0) if wall else left


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
    shape, box = stains.dab.shape, frame_mask(inside, _AROUND_FIELD_UM / stains.mpp, _GRID_PX)
    part = crop_stains(stains, box)
    at, owner = _drop_cut(_find_pieces(part, settings, compartment), part.dab.shape, box, shape)
    place = box[0].start * shape[1] + box[1].start
    return _paint(Pieces(_widen(at, part.dab.shape[1], shape[1]) + place, owner), shape)


def _drop_cut(
    pieces: Pieces, size: tuple[int, ...], box: tuple[slice, slice], shape: tuple[int, ...]
) -> Pieces:
    """Pieces that the sides of a box do not cut, numbered anew; what the image itself cuts stays."""
    keep = np.ones(int(pieces.owner.max(initial=0)) + 1, bool)
    for part, along, end, whole in zip(box, divmod(pieces.at, size[1]), size, shape, strict=True):
        if part.start > 0:
            keep[pieces.owner[along == 0]] = False
        if part.stop < whole:
            keep[pieces.owner[along == end - 1]] = False
    return _keep(pieces, keep)


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
    return np.asarray(np.subtract(smooth, background, out=background), np.float32)


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
    return _paint(_grow(_list_places(labels), labels.shape, radius_px), labels.shape)


def _grow(pieces: Pieces, shape: tuple[int, ...], radius_px: float) -> Pieces:
    known, width = _mark(pieces, shape), shape[1] + 4
    # No step of a path is longer than its cost: what lies outside the square is out of reach.
    around = cv2.dilate(known, _square(int(radius_px))) if known.size else known
    near = np.flatnonzero(around > known)
    count, at = len(pieces.at), np.concatenate([pieces.at, near])
    # Costs and owners are in slots, the first of which is for all that is out of reach, as is the frame.
    places = _widen(at, shape[1], width) + 2 * width + 2
    slots = np.zeros((shape[0] + 4) * width, np.int32)
    slots[places] = np.arange(1, len(at) + 1)
    cost, owner = np.full(len(at) + 1, _FAR, np.int32), np.zeros(len(at) + 1, np.int32)
    cost[1 : count + 1], owner[1 : count + 1] = 0, pieces.owner
    _spread(cost, owner, slots, places[count:], _list_steps(width))
    reached = cost[1:] <= int(np.float32(radius_px) * _HEAD_ON)
    return Pieces(at[reached], owner[1:][reached])


def _widen(at: Places, columns: int, width: int) -> Places:
    """Places of an image in one that has more columns."""
    return at + at // columns * (width - columns)


def _list_steps(width: int) -> Places:
    """Steps to neighbours that were passed before, going row by row."""
    double = 2 * width
    return -np.array([0, double + 1, double - 1, width + 2, width + 1, width, width - 1, width - 2, 1])


@Compiled
def _spread(cost: Labels, owner: Labels, slots: Labels, places: Places, steps: Places) -> None:
    """Give places, in order, the owner to which a path costs least, and its cost.

    Costs and their order are those of `cv2.distanceTransformWithLabels` by 5 x 5 neighbours, forward then
    backward (Borgefors 1986), which goes over the whole image.
    """
    for place in places:
        _ask_neighbours(cost, owner, slots, place, steps, 1)
    for place in places[::-1]:
        _ask_neighbours(cost, owner, slots, place, steps, -1)


@Compiled
def _ask_neighbours(cost: Labels, owner: Labels, slots: Labels, place: int, steps: Places, side: int) -> None:
    """Go by way of the neighbour, of those already passed, by which it costs least, the first if alike."""
    own = slots[place]
    best = np.int64(cost[own]) << 4
    for way in range(1, 9):
        passed = slots[np.uint64(place + side * steps[way])]
        best = min(best, (cost[np.uint64(passed)] + _COSTS[way]) << 4 | way)
    cost[own], owner[own] = best >> 4, owner[slots[place + side * steps[best & 15]]]


def _find_nuclei(signal: FloatImage, settings: CellSettings, mpp: float) -> Pieces:
    smooth = np.asarray(cv2.GaussianBlur(signal, (0, 0), _SEED_UM / mpp), np.float32)
    at = np.flatnonzero(mark_high(smooth, _reach(_REACH_UM / mpp), _PEAK_SHARE, settings.nucleus_od))
    depth = cv2.GaussianBlur(_measure_depth(at, signal.shape), (0, 0), _SEED_UM / mpp)
    is_top = find_tops(np.asarray(depth, np.float32), at, _reach(_NEAR_UM / mpp))
    seeds = np.zeros(len(at), np.int32)
    seeds[is_top] = name_pieces(at[is_top], signal.shape[1], sides=8)
    heights = np.asarray(-depth.ravel()[at], np.float32)
    parts = Pieces(at, part_places(at, signal.shape, heights, seeds))
    return _keep_sizes(parts, settings.min_nucleus_um2, settings.max_nucleus_um2, mpp)


def _measure_depth(at: Places, shape: tuple[int, ...]) -> FloatImage:
    """How far it is out of a mask, given where it is true, as `cv2.distanceTransform` by 5 x 5 neighbours."""
    depth = np.zeros((shape[0] + 4, shape[1] + 4), np.float32)
    for frame in (depth[:2], depth[-2:], depth[:, :2], depth[:, -2:]):
        frame[:] = np.inf
    width = depth.shape[1]
    places = _widen(at, shape[1], width) + 2 * width + 2
    depth.ravel()[places] = _FAR
    _deepen(depth.ravel(), places, _list_steps(width))
    return depth[2:-2, 2:-2]


@Compiled
def _deepen(depth: FloatImage, places: Places, steps: Places) -> None:
    for side in (1, -1):
        for place in places[::side]:
            for way in range(1, 9):
                passed = depth[np.uint64(place + side * steps[way])] + _LENGTHS[way]
                depth[place] = min(depth[place], passed)


def _find_rings(brown: FloatImage, settings: CellSettings, mpp: float) -> Pieces:
    """Insides of rings, closed or with a gap of up to two pixels."""
    levels = [step * settings.ring_od for step in _RING_STEPS]
    inside = fill_rings(brown, levels, _MIN_HOLE_UM2, settings.max_nucleus_um2, mpp**2)
    return _keep_sizes(_name(inside.view(bool)), _MIN_CORE_UM2, settings.max_nucleus_um2, mpp)


def _find_bodies(
    dab: FloatImage, brown: FloatImage, known: Bytes, settings: CellSettings, mpp: float
) -> Pieces:
    """Cores of brown bodies that hold no other core: what growing will bring back is taken off.

    The body is cut out of DAB itself, so that it includes the whole of a brown fiber, which is then
    too large or, on the mean, not above its background.
    """
    solid = cv2.GaussianBlur(dab, (0, 0), _NOISE_UM / mpp) > settings.ring_od
    around = _disc(settings.growth_um / mpp)
    cores = _name(cv2.erode(solid.view(np.uint8), around).view(bool))
    browns, grown = (image.ravel()[cores.at] for image in (brown, cv2.dilate(known, around)))
    keep = np.bincount(cores.owner, browns) > _BODY_STEP * settings.ring_od * np.bincount(cores.owner)
    keep &= np.bincount(cores.owner, grown) == 0
    # A body must have room for a nucleus: precipitate has not.
    return _keep_sizes(cores, settings.min_nucleus_um2, settings.max_nucleus_um2, mpp, keep)


def _name(mask: Mask) -> Pieces:
    at = np.flatnonzero(mask)
    return Pieces(at, name_pieces(at, mask.shape[1]))


def _list_places(labels: Labels) -> Pieces:
    at = np.flatnonzero(labels != 0)
    return Pieces(at, labels.ravel()[at])


def _paint(pieces: Pieces, shape: tuple[int, ...]) -> Labels:
    labels = np.zeros(shape, np.int32)
    labels.ravel()[pieces.at] = pieces.owner
    return labels


def _mark(pieces: Pieces, shape: tuple[int, ...]) -> Bytes:
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[pieces.at] = 1
    return mask


def _add(first: Pieces, second: Pieces, known: Bytes) -> Pieces:
    """Both, the first, which are known, on top, the second numbered on."""
    free = known.ravel()[second.at] == 0
    owner = second.owner[free] + first.owner.max(initial=0)
    return _join(first, Pieces(second.at[free], owner))


def _join(first: Pieces, second: Pieces) -> Pieces:
    return Pieces(np.concatenate([first.at, second.at]), np.concatenate([first.owner, second.owner]))


def _keep_sizes(
    pieces: Pieces, low_um2: float, high_um2: float, mpp: float, keep: Mask | bool = True
) -> Pieces:
    """Pieces of fitting area, numbered anew."""
    area_um2 = np.bincount(pieces.owner) * mpp**2
    return _keep(pieces, keep & (area_um2 >= low_um2) & (area_um2 <= high_um2))


def _keep(pieces: Pieces, keep: Mask) -> Pieces:
    """Pieces that are kept, numbered anew; number 0 is none."""
    keep[:1] = False
    names = np.where(keep, np.cumsum(keep, dtype=np.int32), 0)[pieces.owner]
    kept = names > 0
    return Pieces(pieces.at[kept], names[kept])


def _disc(radius_px: float) -> Bytes:
    side = 2 * _reach(radius_px) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _square(radius_px: float) -> Bytes:
    side = 2 * _reach(radius_px) + 1
    return np.ones((side, side), np.uint8)


def _reach(radius_px: float) -> int:
    return max(1, round(radius_px))
