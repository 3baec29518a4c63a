"""Measures of fibers and cells, from label maps and stains alone: an edited map goes back in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.cells import subtract_background
from histoquant.protocol import CellSettings, MarkerSettings
from histoquant.stains import FloatImage, Stains

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SECTORS = 12
# Half a micrometre inside the nucleus' border still belongs to the membrane band.
_BAND_INSIDE_UM = 0.75
# Part of the rim that must be free of neighbours to speak for the cell.
_MIN_FREE_SECTORS = 3
_NUCLEUS_SHARE = 0.5
_NOISE_UM = 0.3
# A ring's outer slope has ended this far from the cell.
_AWAY_UM = 1.5
_AROUND_UM = 2.0
_CUT = "cut by the border of the image"


@dataclass(frozen=True)
class _Pixels:
    """Labelled pixels, flat: `index` is the place of a pixel's label in `labels`, which is sorted."""

    labels: Ints
    index: Ints
    rows: Ints
    columns: Ints
    area: Ints

    def mean(self, values: npt.NDArray[np.generic], where: Mask | None = None) -> Floats:
        """Mean per label; NaN where nothing is left."""
        index = self.index if where is None else self.index[where]
        chosen = np.asarray(values if where is None else values[where], float)
        total = np.bincount(index, chosen, len(self.labels))
        count = np.bincount(index, minlength=len(self.labels))
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def quantile(self, values: FloatImage, share: float, where: Mask) -> Floats:
        """Quantile per label; NaN where nothing is left."""
        groups = pd.Series(values[where]).groupby(self.index[where])
        return np.asarray(groups.quantile(share).reindex(range(len(self.labels))), float)


def measure_fibers(labels: Labels, cells: Labels, stains: Stains, marker: MarkerSettings) -> pd.DataFrame:
    """Measure fibers.

    Parameters
    ----------
    labels, cells : ndarray of int32, shape of `stains.dab`
        Fibers, and the cells left out of their stain; 0 is background.
    stains : Stains
        Densities at the working resolution.
    marker : MarkerSettings
        For `threshold_od`.

    Returns
    -------
    DataFrame
        One row per label, sorted: kind ("fiber"), label, x_um, y_um (centroid), area_um2, dab_od
        (median DAB outside cells), positive (dab_od more than the threshold above the median fiber
        of the region, so that an even brown background makes none), reason.
    """
    pixels = _list_pixels(labels)
    free = cells[pixels.rows, pixels.columns] == 0
    dab = pixels.quantile(stains.dab[pixels.rows, pixels.columns], 0.5, free)
    typical = float(np.nanmedian(dab)) if np.isfinite(dab).any() else 0.0
    table = _describe(pixels, stains, "fiber")
    table["dab_od"] = dab
    table["positive"] = dab - max(typical, 0.0) > marker.threshold_od
    table["reason"] = _join_reasons({_CUT: _touches_border(pixels, labels.shape)})
    return table


def measure_cells(
    labels: Labels, fibers: Labels, stains: Stains, marker: MarkerSettings, settings: CellSettings
) -> pd.DataFrame:
    """Measure cells and call them positive or not.

    The nucleus is the label less `growth_um`; the rest is the cell body. DAB is taken above its
    surroundings: the mean within some 2 um of the nearest place that is at least 1.5 um away from
    any cell, so that a brown fiber or an uneven brown background makes no cell positive. `dab_od`
    is, by the marker's compartment:

    - membrane: the upper quartile of DAB in the band from 0.75 um inside the nucleus' border to the
      cell's, in each of 12 sectors round the center; of these the median. Sectors that touch a neighbour are
      left out where at least 3 others remain: a shared wall cannot tell whose it is. Above the
      threshold thus means: at least half of the free rim is.
    - nucleus, cytoplasm (label less nucleus): the median.
    - cell: the upper quartile of the whole label.

    Parameters
    ----------
    labels, fibers : ndarray of int32, shape of `stains.dab`
        Cells and fibers; 0 is background.
    stains : Stains
        Densities at the working resolution.
    marker : MarkerSettings
        Compartment and threshold.
    settings : CellSettings
        Sizes in um, densities in OD.

    Returns
    -------
    DataFrame
        One row per label, sorted: kind ("cell"), label, x_um, y_um (centroid), area_um2, dab_od;
        positive (dab_od above the threshold, whether or not there is a nucleus); confidence (0.5 to 1
        that this call is right: logistic in the distance to the threshold over the noise of DAB);
        nucleus (mean haematoxylin above the local background is more than half of `nucleus_od`);
        place: `invading` (most of the cell inside one fiber, its center deeper than
        `invading_depth_um`; internal nuclei of the fiber itself are among these), `perimysial` (in a space between fibers into
        which a disc of `perimysium_um` fits), else `endomysial`; vessels are not looked for. fiber
        (the one holding the center, or the nearest; 0 if there is none) and reason.
    """
    pixels = _list_pixels(labels)
    table = _describe(pixels, stains, "cell")
    brown = _subtract_surroundings(stains.dab, labels, stains.mpp)
    blue = subtract_background(stains.haematoxylin, settings.background_um, stains.mpp)
    depth_um = _measure_depth(labels)[pixels.rows, pixels.columns] * stains.mpp
    inner = depth_um > settings.growth_um
    # A label narrower than two cell bodies is all nucleus.
    inner |= ~(np.bincount(pixels.index[inner], minlength=len(table)) > 0)[pixels.index]
    dab = _measure_compartment(pixels, labels, brown, depth_um, inner, marker, settings)
    hematoxylin = pixels.mean(blue[pixels.rows, pixels.columns], inner)
    nucleus = hematoxylin > _NUCLEUS_SHARE * settings.nucleus_od
    table["dab_od"] = dab
    table["positive"] = dab > marker.threshold_od
    table["confidence"] = _rate_calls(dab, marker.threshold_od, _estimate_noise(brown))
    table["nucleus"] = nucleus
    table["place"], table["fiber"] = _locate_cells(pixels, fibers, stains.mpp, settings)
    cut = _touches_border(pixels, labels.shape)
    table["reason"] = _join_reasons({_CUT: cut, "no nucleus in the plane": ~nucleus})
    return table


def _list_pixels(labels: Labels) -> _Pixels:
    rows, columns = np.nonzero(labels)
    counts = np.bincount(labels[rows, columns])
    present = np.flatnonzero(counts)
    place = np.zeros(len(counts), np.int64)
    place[present] = np.arange(len(present))
    return _Pixels(present, place[labels[rows, columns]], rows, columns, counts[present])


def _describe(pixels: _Pixels, stains: Stains, kind: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": np.full(len(pixels.labels), kind, object),
            "label": pixels.labels,
            "x_um": stains.x_um + (pixels.mean(pixels.columns) + 0.5) * stains.mpp,
            "y_um": stains.y_um + (pixels.mean(pixels.rows) + 0.5) * stains.mpp,
            "area_um2": pixels.area * stains.mpp**2,
        }
    )


def _measure_depth(labels: Labels) -> FloatImage:
    """Distance of each pixel to the outside of its label, px; the image's border is no outside."""
    edge = labels == 0
    across = labels[:, 1:] != labels[:, :-1]
    down = labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    depth = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.where(labels > 0, depth + 1, 0), np.float32)


def _measure_compartment(
    pixels: _Pixels,
    labels: Labels,
    brown: FloatImage,
    depth_um: FloatImage,
    inner: Mask,
    marker: MarkerSettings,
    settings: CellSettings,
) -> Floats:
    values = brown[pixels.rows, pixels.columns]
    if marker.compartment == "membrane":
        band = depth_um <= settings.growth_um + _BAND_INSIDE_UM
        return _measure_rim(pixels, labels, values, band)
    if marker.compartment == "cell":
        return pixels.quantile(values, 0.75, np.ones(len(values), bool))
    body = ~inner | ~(np.bincount(pixels.index[~inner], minlength=len(pixels.labels)) > 0)[pixels.index]
    return pixels.quantile(values, 0.5, inner if marker.compartment == "nucleus" else body)


def _measure_rim(pixels: _Pixels, labels: Labels, values: FloatImage, band: Mask) -> Floats:
    """Median over free sectors of the upper quartile in the band."""
    down = pixels.rows - pixels.mean(pixels.rows)[pixels.index]
    right = pixels.columns - pixels.mean(pixels.columns)[pixels.index]
    turn = np.arctan2(down, right) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * _SECTORS).astype(np.int64), _SECTORS - 1)
    key = pixels.index * _SECTORS + sector
    rim = pd.Series(values[band]).groupby(key[band]).quantile(0.75)
    stain = np.full((len(pixels.labels), _SECTORS), np.nan)
    stain.ravel()[rim.index] = rim
    meets = _find_contacts(labels)[pixels.rows, pixels.columns]
    shared = np.zeros(stain.shape, bool)
    shared[pixels.index[meets], sector[meets]] = True
    free = ~shared & np.isfinite(stain)
    enough = free.sum(axis=1) >= _MIN_FREE_SECTORS
    stain[shared & enough[:, None]] = np.nan
    return np.asarray(np.nanmedian(stain, axis=1), float) if len(stain) else np.zeros(0)


def _subtract_surroundings(dab: FloatImage, labels: Labels, mpp: float) -> FloatImage:
    """DAB, lightly smoothed, above the mean at the nearest place well outside every cell."""
    inside = (labels > 0).astype(np.uint8)
    to_cell = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    outside = (to_cell > _AWAY_UM / mpp) if inside.any() else np.ones(labels.shape, bool)
    smooth = cv2.GaussianBlur(dab, (0, 0), _NOISE_UM / mpp)
    if not outside.any():
        return np.asarray(smooth, np.float32)
    weight = outside.astype(np.float32)
    total = cv2.GaussianBlur(dab * weight, (0, 0), _AROUND_UM / mpp)
    mean = total / np.maximum(cv2.GaussianBlur(weight, (0, 0), _AROUND_UM / mpp), 1e-6)
    nearest = cv2.distanceTransformWithLabels(
        1 - outside.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    value = np.zeros(int(nearest.max()) + 1, np.float32)
    value[nearest[outside]] = mean[outside]
    return np.asarray(smooth - value[nearest], np.float32)


def _find_contacts(labels: Labels) -> Mask:
    """Pixels with another label beside them."""
    contact = np.zeros(labels.shape, bool)
    for first, second in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        a, b = labels[first], labels[second]
        touch = (a != b) & (a > 0) & (b > 0)
        contact[first] |= touch
        contact[second] |= touch
    return contact


def _estimate_noise(brown: FloatImage) -> float:
    """Robust standard deviation of DAB above background, a quarter of the pixels."""
    some = brown[::2, ::2]
    return float(1.4826 * np.median(np.abs(some - np.median(some)))) if some.size else 0.0


def _rate_calls(dab: Floats, threshold_od: float, noise_od: float) -> Floats:
    # Staining itself varies by some tenths of the threshold, however quiet the image.
    scale = float(np.hypot(noise_od, 0.15 * threshold_od))
    return np.asarray(1 / (1 + np.exp(-np.minimum(np.abs(dab - threshold_od) / scale, 50))), float)


def _locate_cells(
    pixels: _Pixels, fibers: Labels, mpp: float, settings: CellSettings
) -> tuple[npt.NDArray[np.object_], Ints]:
    n = len(pixels.labels)
    if not fibers.any():
        return np.full(n, "endomysial", object), np.zeros(n, np.int64)
    row = np.rint(pixels.mean(pixels.rows)).astype(int)
    column = np.rint(pixels.mean(pixels.columns)).astype(int)
    gap, nearest = cv2.distanceTransformWithLabels(
        (fibers == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(nearest.max()) + 1, np.int64)
    owner[nearest[fibers > 0]] = fibers[fibers > 0]
    fiber = owner[nearest[row, column]]
    within = pixels.mean(fibers[pixels.rows, pixels.columns] == fiber[pixels.index]) > 0.5
    deep = _measure_depth(fibers)[row, column] * mpp > settings.invading_depth_um
    half = settings.perimysium_um / 2 / mpp
    core = (gap > half).astype(np.uint8)
    wide = cv2.distanceTransform(1 - core, cv2.DIST_L2, 5)[row, column] <= half
    wide &= bool(core.any())
    place = np.where(within & deep, "invading", np.where(wide, "perimysial", "endomysial"))
    return place.astype(object), fiber


def _touches_border(pixels: _Pixels, shape: tuple[int, ...]) -> Mask:
    at_edge = (pixels.rows == 0) | (pixels.rows == shape[0] - 1)
    at_edge |= (pixels.columns == 0) | (pixels.columns == shape[1] - 1)
    return np.asarray(np.bincount(pixels.index[at_edge], minlength=len(pixels.labels)) > 0)


def _join_reasons(reasons: dict[str, Mask]) -> list[str]:
    columns = [np.where(given, text, "") for text, given in reasons.items()]
    return ["; ".join(filter(None, texts)) for texts in zip(*columns, strict=True)]
