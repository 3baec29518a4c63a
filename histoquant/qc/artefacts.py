"""Artefacts on the overview of a slide: where no field should lie, since nothing counts there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.geometry import Patch
from histoquant.protocol import ArtefactSettings
from histoquant.stains import DEFAULT_VECTORS
from histoquant.tissue import estimate_glass

Mask = npt.NDArray[np.bool_]
FloatImage = npt.NDArray[np.float32]

OVERVIEW_MPP = 5.0
"""Pixel size of the overview on which artefacts are looked for, um/px: nuclei are still single dots."""
_GLASS_UM2 = 10_000.0

_PEN_WIDTH_UM = 60.0
_PEN_LEAST_UM2 = 20_000.0
_FOLD_WIDTH_UM = 30.0
_FOLD_LENGTH_UM = 250.0
_ALIKE_DEG = 10.0
_EDGE_DEPTH_UM = 300.0
_EDGE_WIDTH_UM = 30.0
_EDGE_LEAST_UM2 = 20_000.0
_RIM_UM = 60.0
# A dark rim is taken by a higher limit too, at which the dark cells beside it do not hang on it.
_RIM_FACTORS = (1.0, 2.5)
_BUBBLE_UM = (150.0, 4000.0)
_BUBBLE_ROUND = 0.06
_BUBBLE_CLOSED = 0.75
_MARGIN_UM = 15.0
_MOST_PROBES = 100
_LEAST_SPACING_UM = 300.0


class Artefact(NamedTuple):
    """Artefacts of one kind.

    Attributes
    ----------
    kind : {"pen", "fold", "bubble", "edge", "blur"}
        What they are.
    mask : ndarray of bool, shape (rows, columns)
        Where they are.
    """

    kind: str
    mask: Mask


class _View(NamedTuple):
    """The overview, its densities, and the table that made them of its intensities."""

    pixels: npt.NDArray[np.uint8]
    table: FloatImage
    od: FloatImage
    mean: FloatImage
    tissue: Mask
    mpp: float


def find_artefacts(overview: Patch, tissue: Mask, settings: ArtefactSettings) -> tuple[Artefact, ...]:
    """Find folds, pen marks, bubbles and dark edges.

    Parameters
    ----------
    overview : Patch
        The whole slide at about `OVERVIEW_MPP`.
    tissue : ndarray of bool, shape (rows, columns)
        Tissue, at any pixel size: it is brought to the overview's.
    settings : ArtefactSettings
        Limits.

    Returns
    -------
    tuple of Artefact
        One of each kind, its mask in pixels of `overview`; none of it may be set.
    """
    shape = overview.pixels.shape[:2]
    view = _make_view(overview, fit_mask(tissue, shape))
    if not view.tissue.any():
        return ()
    pen = _find_pen(view, settings.min_pen_od)
    clean = view._replace(tissue=view.tissue & ~pen)
    edge = _find_edge(clean, settings.max_edge_od)
    return (
        Artefact("pen", pen),
        Artefact("fold", _find_folds(clean, settings.max_fold_ratio) & ~edge),
        Artefact("bubble", _find_bubbles(clean, settings.min_rim_od)),
        Artefact("edge", edge),
    )


def fit_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Bring a mask to another pixel size; a pixel is set if any part of it was.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns)
        Of the whole slide.
    shape : tuple of int
        Rows and columns wanted, of the whole slide too.

    Examples
    --------
    >>> fit_mask(np.array([[True, False], [False, False]]), (1, 1))
    array([[ True]])
    """
    if mask.shape == tuple(shape[:2]):
        return mask
    size = (shape[1], shape[0])
    grown = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(grown > 1e-3, bool)


def lay_probes(tissue: Mask, mpp: float) -> tuple[list[tuple[float, float]], float]:
    """Lay an even grid of places over the tissue, at which focus is measured.

    Parameters
    ----------
    tissue : ndarray of bool, shape (rows, columns)
        Of the whole slide.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    places : list of (x_um, y_um)
        About 100 at most.
    spacing_um : float
        Between them; 300 at least.

    Examples
    --------
    >>> lay_probes(np.ones((75, 75), bool), 8.0)
    ([(150.0, 150.0), (450.0, 150.0), (150.0, 450.0), (450.0, 450.0)], 300.0)
    """
    area_um2 = float(tissue.sum()) * mpp**2
    spacing = max(_LEAST_SPACING_UM, float(np.sqrt(area_um2 / _MOST_PROBES)))
    rows, columns = (np.arange(spacing / 2, side * mpp, spacing) for side in tissue.shape)
    return [
        (float(x), float(y)) for y in rows for x in columns if tissue[int(y / mpp), int(x / mpp)]
    ], spacing


def spread_blur(
    tissue: Mask,
    mpp: float,
    places: Sequence[tuple[float, float]],
    blurs: Sequence[float],
    spacing_um: float,
    limit_um: float,
) -> Mask:
    """Give each place's blur to the square around it.

    Parameters
    ----------
    tissue, mpp
        As for `lay_probes`.
    places, spacing_um
        As `lay_probes` gave them.
    blurs : sequence of float
        Blur at each place, um; NaN is not known.
    limit_um : float
        Beyond it, the square is out of focus.

    Returns
    -------
    ndarray of bool, shape of `tissue`
    """
    mask = np.zeros_like(tissue)
    for (x, y), blur in zip(places, blurs, strict=True):
        if blur > limit_um:
            left, top = (max(0, int((at - spacing_um / 2) / mpp)) for at in (x, y))
            right, bottom = (int(np.ceil((at + spacing_um / 2) / mpp)) for at in (x, y))
            mask[top:bottom, left:right] = True
    return np.asarray(mask & tissue, bool)


def _make_view(overview: Patch, tissue: Mask) -> _View:
    glass = estimate_glass(overview, _GLASS_UM2)
    white = np.full(3, 255.0) if glass is None else glass
    table = (np.log10(white) - np.log10(np.arange(256).clip(1))[:, None]).astype(np.float32)
    od = np.asarray(cv2.LUT(overview.pixels, table[None]), np.float32)
    return _View(overview.pixels, table, od, _average(od), tissue, overview.mpp)


def _average(od: FloatImage) -> FloatImage:
    """Mean of the channels, five times faster than over an axis."""
    return np.asarray((od[..., 0] + od[..., 1] + od[..., 2]) / np.float32(3), np.float32)


def _open(image: FloatImage, width_um: float, mpp: float) -> FloatImage:
    """What remains of dark structures wider than a disc."""
    return np.asarray(cv2.morphologyEx(image, cv2.MORPH_OPEN, _make_disc(width_um, mpp)), np.float32)


def _open_mask(mask: Mask, width_um: float, mpp: float) -> Mask:
    disc = _make_disc(width_um, mpp)
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0, bool)


def _make_disc(width_um: float, mpp: float) -> npt.NDArray[np.uint8]:
    size = max(3, round(width_um / mpp) | 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _grow(mask: Mask, reach_um: float, mpp: float) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _make_disc(2 * reach_um, mpp)) > 0, bool)


def _list_parts(
    mask: Mask, least_px: float = 0, least_side_px: float = 0
) -> Iterator[tuple[tuple[slice, slice], Mask, int]]:
    """Connected parts of at least an area and a longer side: box, the part in it, pixels."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sides, areas = boxes[:, 2:4].max(axis=1), boxes[:, 4]
    for number in np.flatnonzero((areas >= least_px) & (sides >= least_side_px)).tolist():
        if number == 0:  # all the rest
            continue
        left, top, width, height, area = boxes[number]
        box = np.s_[top : top + height, left : left + width]
        yield box, labels[box] == number, int(area)


def _unmix(od: FloatImage) -> FloatImage:
    """Haematoxylin, DAB and what neither explains, of the default vectors."""
    first, second = (np.asarray(vector) / np.linalg.norm(vector) for vector in DEFAULT_VECTORS)
    third = np.cross(first, second)
    inverse = np.linalg.inv(np.stack([first, second, third / np.linalg.norm(third)]))
    return np.asarray(od @ inverse.astype(np.float32), np.float32)


def _find_pen(view: _View, least_od: float) -> Mask:
    """Broad colour that neither stain has, or black; what is narrower than a pen, as cells are, is left."""
    ground, usual = _open_channels(view, _PEN_WIDTH_UM)
    above = [ground[..., at] - usual[at] * view.tissue for at in range(3)]
    amount = np.sqrt(above[0] * above[0] + above[1] * above[1] + above[2] * above[2])
    some = amount > np.sqrt(3) * least_od
    ink = np.zeros_like(some)
    ink[some] = _is_ink(np.stack([channel[some] for channel in above], axis=1), amount[some], least_od)
    dense = _open_mask(view.mean > 6 * least_od, _PEN_WIDTH_UM, view.mpp)
    ink = _open_mask(ink | dense, _PEN_WIDTH_UM, view.mpp)
    return _grow(_keep_large(ink, _PEN_LEAST_UM2 / view.mpp**2), 2 * _MARGIN_UM, view.mpp)


def _is_ink(above: FloatImage, amount: FloatImage, least_od: float) -> Mask:
    """Of densities (pixels, 3) and their lengths: whether neither stain explains them, or they are grey."""
    h, d, rest = _unmix(above).T
    foreign = np.maximum(np.abs(rest), np.maximum(-h, -d)) > 0.3 * np.maximum(amount, 1e-6)
    # Black is nearer to grey than to any mixture of the stains: by 7 degrees only, so more is asked of it.
    mean = above.mean(axis=1, keepdims=True)
    grey = (np.linalg.norm(above - mean, axis=1) < np.abs(rest)) & (mean[:, 0] > 0)
    return np.asarray(foreign | (grey & (amount > 2 * np.sqrt(3) * least_od)), bool)


def _open_channels(view: _View, width_um: float) -> tuple[FloatImage, FloatImage]:
    """Density of each channel without what is narrower than a width, and its median in tissue.

    Density falls with intensity, so that both are those of intensities, found in bytes.
    """
    closed = cv2.morphologyEx(view.pixels, cv2.MORPH_CLOSE, _make_disc(width_um, view.mpp))
    low = np.asarray(cv2.LUT(closed, view.table[None]), np.float32)
    where, total = view.tissue.astype(np.uint8), int(view.tissue.sum())
    usual = np.zeros(3, np.float32)
    for at in range(3 if total else 0):
        counts = cv2.calcHist([closed], [at], where, [256], [0, 256]).ravel().cumsum(dtype=np.float64)
        middle = np.searchsorted(counts, ((total - 1) // 2, total // 2), side="right")
        usual[at] = view.table[middle, at].mean()
    return low, usual


def _keep_large(mask: Mask, least_px: float) -> Mask:
    kept = np.zeros_like(mask)
    for box, part, _ in _list_parts(mask, least_px):
        kept[box] |= part
    return kept


def _find_folds(view: _View, ratio: float) -> Mask:
    """Long stripes as dense as several layers, in the colour of the tissue."""
    if not view.tissue.any():
        return np.zeros_like(view.tissue)
    low, usual = _open_channels(view, _FOLD_WIDTH_UM)
    dense = (_average(low) > ratio * usual.mean()) & view.tissue
    kept = np.zeros_like(dense)
    for box, part, _ in _list_parts(dense, 0, _FOLD_LENGTH_UM / view.mpp):
        if _is_alike(low[box][part] - usual, usual):
            kept[box] |= part
    return _grow(kept, _MARGIN_UM, view.mpp) & view.tissue


def _is_alike(excess: FloatImage, usual: npt.NDArray[np.floating]) -> bool:
    """Whether the density above the usual has the usual colour: more tissue, not more of one stain."""
    added = np.median(excess, axis=0)
    cosine = float(added @ usual / max(float(np.linalg.norm(added) * np.linalg.norm(usual)), 1e-9))
    return cosine > float(np.cos(np.radians(_ALIKE_DEG)))


def _find_edge(view: _View, limit_od: float) -> Mask:
    """DAB at the tissue's border, above that of the rest."""
    tissue = cv2.copyMakeBorder(view.tissue.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    # Without glass there is no border, and its distance the largest float.
    depth_px = np.minimum(cv2.distanceTransform(tissue, cv2.DIST_L2, 5)[1:-1, 1:-1], sum(tissue.shape))
    depth_um = depth_px * view.mpp
    inner = view.tissue & (depth_um > _EDGE_DEPTH_UM)
    if not inner.any():
        return np.zeros_like(view.tissue)
    dab = _open(np.ascontiguousarray(_unmix(view.od)[..., 1]), _EDGE_WIDTH_UM, view.mpp)
    brown = (dab > np.median(dab[inner]) + limit_od) & view.tissue & (depth_um < _EDGE_DEPTH_UM)
    kept = np.zeros_like(brown)
    for box, part, _ in _list_parts(brown, _EDGE_LEAST_UM2 / view.mpp**2):
        if (depth_um[box][part] < 2 * _EDGE_WIDTH_UM).any():
            kept[box] |= part
    return _grow(kept, _MARGIN_UM, view.mpp) & view.tissue


def _find_bubbles(view: _View, least_od: float) -> Mask:
    """Thin dark lines that close to a circle, with what they enclose."""
    height = cv2.morphologyEx(view.mean, cv2.MORPH_TOPHAT, _make_disc(_RIM_UM, view.mpp))
    found = np.zeros(view.tissue.shape, np.uint8)
    for factor in _RIM_FACTORS:
        line = cv2.morphologyEx(
            (height > factor * least_od).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)
        )
        for row, column, radius in _list_circles(np.asarray(line > 0, bool), view.mpp):
            cv2.circle(found, (round(column), round(row)), round(radius + _MARGIN_UM / view.mpp), 1, -1)
    return np.asarray(found > 0, bool)


def _list_circles(line: Mask, mpp: float) -> Iterator[tuple[float, float, float]]:
    """Row, column and radius of the parts that are circles of a bubble's size, px."""
    low, high = (size / mpp for size in _BUBBLE_UM)
    for box, part, _ in _list_parts(line, 0, low):
        round_enough = min(part.shape) >= 0.5 * max(part.shape)
        circle = _fit_circle(part) if max(part.shape) <= high and round_enough else None
        if circle is not None:
            yield circle[0] + box[0].start, circle[1] + box[1].start, circle[2]


def _fit_circle(part: Mask) -> tuple[float, float, float] | None:
    """Row, column and radius of a circle, if the part is most of one (least squares, Kasa 1976)."""
    places = np.argwhere(part).astype(np.float64)
    near = np.ones(len(places), bool)
    row = column = radius = 0.0
    for _ in range(4):  # without what hangs on it: dark cells beside the rim
        row, column, radius = _solve_circle(places[near])
        away = np.hypot(places[:, 0] - row, places[:, 1] - column) - radius
        near = np.abs(away) < max(_BUBBLE_ROUND * 2 * radius, 3)
        if near.mean() < _BUBBLE_CLOSED:
            return None
    turn = np.arctan2(places[near, 0] - row, places[near, 1] - column)
    closed = (np.histogram(turn, 24, (-np.pi, np.pi))[0] > 0).mean()
    return (row, column, radius) if closed >= _BUBBLE_CLOSED else None


def _solve_circle(places: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    design = np.column_stack([places, np.ones(len(places))])
    row, column, rest = np.linalg.lstsq(design, (places**2).sum(axis=1), rcond=None)[0]
    square = rest + (row**2 + column**2) / 4
    return float(row / 2), float(column / 2), float(np.sqrt(max(square, 0.0)))
