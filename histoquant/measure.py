"""Measures of fibers and cells, from label maps and stains alone: an edited map goes back in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.cells import subtract_background
from histoquant.compiled import Compiled
from histoquant.direction import LONGITUDINAL, find_longitudinal
from histoquant.distances import draw_disc
from histoquant.feret import measure_spans
from histoquant.geometry import frame_places
from histoquant.pixels import Pixels, list_pixels
from histoquant.place import find_lumens, find_perimysial, place_cells
from histoquant.protocol import CellSettings, FiberSettings, MarkerSettings
from histoquant.ranks import find_median, rank_groups
from histoquant.spans import Spans, list_spans
from histoquant.stains import FloatImage, Stains, crop_stains, predict_edge_dab

Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]
Columns = dict[str, npt.NDArray[Any]]
Shades = npt.NDArray[np.float32]

_AROUND_CELLS_UM = 40.0
_GRID_PX = 8
_SECTORS = 12
# Half a micrometre inside the nucleus' border still belongs to the membrane band.
_BAND_INSIDE_UM = 0.75
# Part of the rim that must be free of neighbours to speak for the cell.
_MIN_FREE_SECTORS = 3
_NUCLEUS_SHARE = 0.5
_NOISE_UM = 0.3
_SMALL_PX = 400
# A ring's outer slope has ended this far from the cell.
_AWAY_UM = 1.5
_AROUND_UM = 3.0
CUT = "cut by the border of the image"
"""Reason of an object of which only a part is seen."""


def measure_fibers(
    labels: Labels, cells: Labels, stains: Stains, marker: MarkerSettings, settings: FiberSettings
) -> pd.DataFrame:
    """Measure fibers.

    Parameters
    ----------
    labels, cells : ndarray of int32, shape of `stains.dab`
        Fibers, and the cells left out of their stain; 0 is background.
    stains : Stains
        Densities at the working resolution.
    marker : MarkerSettings
        For `fiber_threshold_od`.
    settings : FiberSettings
        What is longitudinal.

    Returns
    -------
    DataFrame
        One row per label, sorted: kind ("fiber"), label, x_um, y_um (centroid), area_um2, min_feret_um,
        max_feret_um (see `measure_feret`), dab_od (median DAB outside cells), positive (dab_od more than the
        threshold above the median fiber of the region, so that an even brown background makes none), reason.
    """
    return pd.DataFrame(describe_fibers(list_spans(labels), cells, stains, marker, settings))


def describe_fibers(
    spans: Spans, cells: Labels, stains: Stains, marker: MarkerSettings, settings: FiberSettings
) -> Columns:
    """Columns of `measure_fibers`, not yet a table; of spans, which say all that is asked of a label map."""
    dab = _measure_medians(spans, cells, stains.dab)
    typical = float(np.nanmedian(dab)) if np.isfinite(dab).any() else 0.0
    narrow, wide = (width_px * stains.mpp for width_px in measure_spans(spans))
    along = find_longitudinal(narrow, wide, settings)
    columns = _describe(spans, stains, "fiber")
    columns |= {"min_feret_um": narrow, "max_feret_um": wide, "dab_od": dab}
    columns["positive"] = dab - max(typical, 0.0) > marker.fiber_threshold_od
    columns["reason"] = _join_reasons({CUT: spans.touch_border(stains.dab.shape), LONGITUDINAL: along})
    return columns


def measure_cells(
    labels: Labels, fibers: Labels, stains: Stains, marker: MarkerSettings, settings: CellSettings
) -> pd.DataFrame:
    """Measure cells and call them positive or not.

    The nucleus is the label less `growth_um`; the rest is the cell body. DAB is taken above its
    surroundings, so that a brown fiber or an uneven brown background makes no cell positive: above
    mean + 1 SD of what is near but more than 1.5 um away from every cell. Between fibers, the lower of
    two levels holds: of everything near, and of what is near between fibers (a brown fiber
    beside the cell is no background of its ring). A cell that lies in a fiber with more than half of its
    area must stand out from mean + 1 SD of that fiber all round, any other only where it lies in it. `dab_od`
    is the median over 12 sectors round the center of, by the marker's compartment:

    - membrane: the upper quartile in the band from 0.75 um inside the nucleus' border to the cell's;
    - cell: the upper quartile of the whole cell;
    - nucleus, cytoplasm: the median.

    Sectors that touch a neighbour are left out, since a shared wall cannot tell whose it is; where
    fewer than 3 are free, the lower quartile of all stands for the median. Above the threshold thus
    means: at least half of the free circumference is. What the edge of a dark nucleus shows by itself
    (`predict_edge_dab`) is taken off, except from nuclear markers.

    With the method `qupath`, `dab_od` is the plain mean of DAB over nucleus, cell, or (cytoplasm, membrane)
    what lies outside the nucleus; every cell has a nucleus.

    Parameters
    ----------
    labels, fibers : ndarray of int32, shape of `stains.dab`
        Cells and fibers; 0 is background. What is farther than 40 um from the box of all cells is seen only
        where it is asked whether a space between fibers is perimysium.
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
        place and fiber (see `place_cells`; a positive cell counts as marked, unless the marker is nuclear,
        which a fiber's own nuclei may hold), reason.
    """
    return pd.DataFrame(describe_cells(labels, list_spans(labels), fibers, stains, marker, settings))


def describe_cells(
    labels: Labels,
    spans: Spans,
    fibers: Labels,
    stains: Stains,
    marker: MarkerSettings,
    settings: CellSettings,
) -> Columns:
    """Columns of `measure_cells`, not yet a table; `spans` are those of `labels`."""
    columns_seen = np.append(spans.first, spans.last)
    box = frame_places(spans.rows, columns_seen, labels.shape, _AROUND_CELLS_UM / stains.mpp, _GRID_PX)
    pixels, corner = list_pixels(spans, labels, box), [[box[0].start], [box[1].start]]
    perimysial = find_perimysial(fibers, pixels.centers + corner, stains.mpp, settings)
    spans, labels, fibers = spans.move(box), labels[box], np.ascontiguousarray(fibers[box])
    stains = crop_stains(stains, box)
    columns, depth_um = _describe(spans, stains, "cell"), pixels.depth * stains.mpp
    # A label narrower than two cell bodies is all nucleus.
    inner = pixels.fill(depth_um > settings.growth_um)
    smooth = np.asarray(cv2.GaussianBlur(stains.dab, (0, 0), _NOISE_UM / stains.mpp), np.float32)
    if settings.method == "qupath":
        dab = _average_dab(pixels, stains, inner, marker)
        nucleus = np.ones(len(dab), bool)
    else:
        brown = _subtract_surroundings(pixels, smooth, fibers, stains.mpp)
        blue = subtract_background(stains.haematoxylin, settings.background_um, stains.mpp)
        band, share = _choose_band(depth_um, inner, marker, settings)
        dab = _measure_sectors(pixels, brown, pixels.fill(band), share)
        if marker.compartment != "nucleus":
            darkest = pixels.quantile(stains.haematoxylin[pixels.rows, pixels.columns], 0.9)
            dab = dab - predict_edge_dab(darkest)
        haematoxylin = pixels.mean(np.take(blue, pixels.places), inner)
        nucleus = haematoxylin > _NUCLEUS_SHARE * settings.nucleus_od
    positive = dab > marker.threshold_od
    confidence = _rate_calls(dab, marker.threshold_od, _estimate_noise(smooth))
    columns |= {"dab_od": dab, "positive": positive, "confidence": confidence, "nucleus": nucleus}
    marked = positive & (marker.compartment != "nucleus")
    lumens = find_lumens(fibers, labels, stains, settings)
    where = marked, fibers, perimysial, lumens, stains.mpp, settings
    columns["place"], columns["fiber"] = place_cells(pixels, inner, *where)
    cut = spans.touch_border(labels.shape)
    columns["reason"] = _join_reasons({CUT: cut, "no nucleus in the plane": ~nucleus})
    return columns


def locate_cells(labels: Labels, fibers: Labels, mpp: float, settings: CellSettings) -> pd.DataFrame:
    """Say where each cell sits as far as no stain is needed.

    Parameters
    ----------
    labels, fibers : ndarray of int32, shape (rows, columns)
        Cells and fibers; 0 is background.
    mpp : float
        Pixel size, um/px.
    settings : CellSettings
        Sizes in um.

    Returns
    -------
    DataFrame
        `place` and `fiber` of `measure_cells`, one row per label (index `label`, ascending). Vessels are
        not known (`perimysial` instead), nor what is positive (in a fiber, `internal` unless it is crowded).
    """
    spans = list_spans(labels)
    pixels = list_pixels(spans, labels, (slice(0, labels.shape[0]), slice(0, labels.shape[1])))
    nuclei = pixels.fill(pixels.depth * mpp > settings.growth_um)
    marked, lumens = np.zeros(len(spans.labels), bool), np.zeros(labels.shape, bool)
    perimysial = find_perimysial(fibers, pixels.centers, mpp, settings)
    place, fiber = place_cells(pixels, nuclei, marked, fibers, perimysial, lumens, mpp, settings)
    return pd.DataFrame({"place": place, "fiber": fiber}, index=pd.Index(spans.labels, name="label"))


def _average_dab(pixels: Pixels, stains: Stains, inner: Mask, marker: MarkerSettings) -> Floats:
    """Mean DAB of the compartment, nothing taken off."""
    where = {"nucleus": inner, "cell": np.ones(len(inner), bool)}.get(marker.compartment, ~inner)
    return pixels.mean(stains.dab[pixels.rows, pixels.columns], pixels.fill(where))


def _measure_medians(spans: Spans, cells: Labels, dab: FloatImage) -> Floats:
    """Median DAB outside cells; every fourth pixel of a fiber of some size tells it well enough."""
    area = spans.count()
    start = np.cumsum(area) - area
    values, end = np.empty(int(area.sum()), np.float32), start.copy()
    images = np.ascontiguousarray(cells), np.ascontiguousarray(dab)
    _gather_free(*images, spans.index, spans.rows, spans.first, spans.last, area, values, end)
    medians = np.full(len(area), np.nan)
    for at in np.flatnonzero(end > start).tolist():
        medians[at] = _take_median(values[start[at] : end[at]])
    return medians


@Compiled
def _gather_free(
    cells: Labels,
    dab: Shades,
    index: Ints,
    rows: Ints,
    first: Ints,
    last: Ints,
    area: Ints,
    values: Shades,
    end: Ints,
) -> None:
    """Put DAB outside cells of each label behind what it has in `values`, and move its end there."""
    for at in range(len(index)):
        label, row = index[at], rows[at]
        step = 1 if area[label] < _SMALL_PX else 2
        if row % step:
            continue
        free = end[label]
        for column in range(first[at] + first[at] % step, last[at] + 1, step):
            values[free] = dab[row, column]
            free += cells[row, column] == 0
        end[label] = free


def _take_median(values: FloatImage) -> float:
    """As `np.median` of the values in double precision, without a copy; they are put in another order."""
    middle = (len(values) - 1) // 2
    # A selection of one place is vectorised, one of several is not.
    values.partition(middle)
    low = float(values[middle])
    return low if len(values) % 2 else (low + float(values[middle + 1 :].min())) / 2


def _describe(spans: Spans, stains: Stains, kind: str) -> Columns:
    row, column = spans.locate()
    return {
        "kind": np.full(len(spans.labels), kind, object),
        "label": spans.labels,
        "x_um": stains.x_um + (column + 0.5) * stains.mpp,
        "y_um": stains.y_um + (row + 0.5) * stains.mpp,
        "area_um2": spans.count() * stains.mpp**2,
    }


def _choose_band(
    depth_um: FloatImage, inner: Mask, marker: MarkerSettings, settings: CellSettings
) -> tuple[Mask, float]:
    """Pixels in which DAB is measured, and the quantile taken of them."""
    if marker.compartment == "membrane":
        return depth_um <= settings.growth_um + _BAND_INSIDE_UM, 0.75
    if marker.compartment == "cell":
        return np.ones(len(inner), bool), 0.75
    return (inner if marker.compartment == "nucleus" else ~inner), 0.5


def _measure_sectors(pixels: Pixels, values: FloatImage, band: Mask, share: float) -> Floats:
    """Quantile of the band in each sector; of the free sectors, the median."""
    key, shared = _divide(pixels.touching, pixels.rows, pixels.columns, pixels.index, *pixels.middle)
    stain = rank_groups(values[band], key[band], shared.size, share).reshape(shared.shape)
    enclosed = (~shared & np.isfinite(stain)).sum(axis=1) < _MIN_FREE_SECTORS
    free = np.where(shared & ~enclosed[:, None], np.nan, stain)
    return np.where(enclosed, _quantile_rows(free, 0.25), _quantile_rows(free, 0.5))


@Compiled
def _divide(
    touching: Mask, rows: Ints, columns: Ints, index: Ints, middle_row: Floats, middle_column: Floats
) -> tuple[Ints, Mask]:
    """Number of each pixel's sector among all, and which sectors of a label touch another."""
    key, shared = np.empty(len(rows), np.int64), np.zeros((len(middle_row), _SECTORS), np.bool_)
    for at in range(len(rows)):
        owner, row, column = index[at], rows[at], columns[at]
        sector = _find_sector(row - middle_row[owner], column - middle_column[owner])
        key[at] = owner * _SECTORS + sector
        shared[owner, sector] |= touching[at]
    return key, shared


@Compiled
def _find_sector(down: float, right: float) -> int:
    """Sector of a place, from the left clockwise: a quarter, and which third of it."""
    if down < 0:
        quarter, along, across = (0, -right, -down) if right < 0 else (1, -down, right)
    else:
        quarter, along, across = (2, right, down) if right > 0 or down == 0 == right else (3, down, -right)
    # Tangents of 30 and 60 degrees, which no quotient of whole numbers equals.
    return 3 * quarter + (across > along * 3**-0.5) + (across > along * 3**0.5)


def _quantile_rows(values: Floats, share: float) -> Floats:
    """Linear quantile per row, leaving out NaN (which sorts last)."""
    ordered = np.sort(values, axis=1)
    place = share * np.maximum(np.isfinite(values).sum(axis=1) - 1, 0)
    low, rows = np.floor(place).astype(int), np.arange(len(values))
    high = np.ceil(place).astype(int)
    first = ordered[rows, low]
    return np.asarray(first + (place - low) * (ordered[rows, high] - first), float)


def _subtract_surroundings(pixels: Pixels, smooth: FloatImage, fibers: Labels, mpp: float) -> FloatImage:
    """DAB of the pixels above the level (mean + 1 SD) of what surrounds the cells."""
    values, fiber = np.take(smooth, pixels.places), np.take(fibers, pixels.places)
    # Levels are smooth: every second pixel tells them.
    half, coarse = np.ascontiguousarray(smooth[::2, ::2]), np.ascontiguousarray(fibers[::2, ::2])
    at = (pixels.rows >> 1) * half.shape[1] + (pixels.columns >> 1)
    known = np.zeros(half.shape, np.uint8)
    known.ravel()[at[(pixels.rows | pixels.columns) & 1 == 0]] = 1
    outside = np.asarray(cv2.dilate(known, draw_disc(_AWAY_UM / (2 * mpp))) == 0)
    if not outside.any():
        return values
    places, at = _list_once(at, half.size)
    around = _rate_surroundings(half, outside, places, 2 * mpp)[at]
    between = _rate_surroundings(half, outside & (coarse == 0), places, 2 * mpp)[at]
    of_fiber = _rate_fibers(half, outside, coarse, int(max(coarse.max(), fiber.max(initial=0))) + 1)
    level = np.where(fiber > 0, np.maximum(around, of_fiber[fiber]), np.minimum(around, between))
    owner = _find_owners(pixels, fiber)[pixels.index]
    inside = np.maximum(np.maximum(around, level), of_fiber[owner])
    return np.asarray(values - np.where(owner > 0, inside, level), np.float32)


def _list_once(at: Ints, size: int) -> tuple[Ints, Ints]:
    """Places below a size, ascending, each once, and the number of each given one among them."""
    seen, number = np.zeros(size, bool), np.empty(size, np.int64)
    seen[at] = True
    places = np.flatnonzero(seen)
    number[places] = np.arange(len(places))
    return places, number[at]


def _rate_surroundings(image: FloatImage, where: Mask, places: Ints, mpp: float) -> FloatImage:
    """Mean + 1 SD of DAB in `where` round places of the flat image."""
    weight = where.astype(np.float32)
    tint = image * weight
    total, first, second = (_gather_near(part, places, mpp) for part in (weight, tint, image * tint))
    total = np.maximum(total, np.float32(1e-9))
    mean = first / total
    return np.asarray(mean + np.sqrt(np.maximum(second / total - mean * mean, 0)), np.float32)


def _gather_near(image: FloatImage, places: Ints, mpp: float) -> FloatImage:
    """Sum by nearness; where nothing is near, what is farther speaks, at last everything."""
    near = cv2.GaussianBlur(image, (0, 0), _AROUND_UM / mpp)
    coarse = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    far = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), _AROUND_UM / mpp), image.shape[::-1])
    sums = np.take(near, places) + np.float32(3e-3) * np.take(far, places)
    return np.asarray(sums + np.float32(1e-6) * image.mean(), np.float32)


def _find_owners(pixels: Pixels, fiber: Labels) -> Ints:
    """Fiber that holds more than half of each label, or 0; `fiber` is that of each pixel."""
    inside = fiber > 0
    base = int(fiber.max(initial=0)) + 1
    pairs, count = np.unique(pixels.index[inside] * base + fiber[inside], return_counts=True)
    most = pairs[2 * count > pixels.area[pairs // base]]
    owner = np.zeros(len(pixels.area), np.int64)
    owner[most // base] = most % base
    return owner


def _rate_fibers(image: FloatImage, where: Mask, fibers: Labels, number: int) -> FloatImage:
    """Mean + 1 SD of DAB in `where` by fiber label; no level for what is no fiber."""
    count, first, second = _add_up_fibers(image, where, fibers, number)
    divisor = np.maximum(count, 1)
    mean = first / divisor
    spread = second / divisor - mean**2
    level = mean + np.sqrt(np.maximum(spread, 0))
    return np.where(count > 0, level, -np.inf).astype(np.float32)


@Compiled
def _add_up_fibers(image: Shades, where: Mask, fibers: Labels, number: int) -> tuple[Ints, Floats, Floats]:
    """Values, their sum and the sum of their squares by fiber."""
    count, first, second = np.zeros(number, np.int64), np.zeros(number), np.zeros(number)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            fiber = fibers[row, column]
            if fiber > 0 and where[row, column]:
                value = np.float64(image[row, column])
                count[fiber] += 1
                first[fiber] += value
                second[fiber] += value * value
    return count, first, second


def _estimate_noise(smooth: FloatImage) -> float:
    """Robust standard deviation of DAB over a sixteenth of the pixels."""
    some = smooth[::4, ::4]
    if not some.size:
        return 0.0
    away = np.abs(some - np.float32(find_median(some)))
    return float(np.float32(1.4826) * np.float32(find_median(away)))


def _rate_calls(dab: Floats, threshold_od: float, noise_od: float) -> Floats:
    # Staining itself varies by some tenths of the threshold, however quiet the image.
    scale = float(np.hypot(noise_od, 0.15 * threshold_od))
    return np.asarray(1 / (1 + np.exp(-np.minimum(np.abs(dab - threshold_od) / scale, 50))), float)


def _join_reasons(reasons: dict[str, Mask]) -> Names:
    joined = np.full(len(next(iter(reasons.values()))), "", object)
    for text, given in reasons.items():
        joined[given] += np.where(joined[given] == "", text, "; " + text)
    return joined
