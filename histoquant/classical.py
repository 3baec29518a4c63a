"""Fibers without training: learned tone, traced gaps, merged regions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import local_minima

from histoquant.clumps import list_wholes
from histoquant.compiled import Compiled
from histoquant.discs import open_by_disc
from histoquant.ranks import find_median, find_quantile
from histoquant.regions import merge_regions, wrap_points
from histoquant.stains import Stains

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Places = npt.NDArray[np.intp]
"""Pixels by their place in the flat image: gathered from several images, they cost less than a mask."""

MPP = 1.0

# Tone. Contrasts are relative, so that weak stains work; only the least one is absolute: two gray levels.
MIN_CONTRAST_OD = 0.006
NUCLEUS_UM = 17
NUCLEUS_CONTRAST = 1.5
MIN_CLEAR = 0.85
GAP_SHARE = 0.895
DEPTH_SHARE = 0.5
PALEST_FIBERS = 0.08
THRESHOLD_SHARE = 0.45
DRIFT_UM = 60.0
DRIFT_STEP = 8
DRIFT_PRIOR = 0.3
CLIP = 4.0

# Evidence of borders, in units of the contrast.
RIDGE = 0.45
RIDGE_LENGTH_UM = 10.5
RIDGE_WIDTH_UM = 1.2
RIDGE_ANGLES = 16
RIDGE_REACH = int(2.2 * RIDGE_LENGTH_UM / MPP)
BACKGROUND = -0.35
STEEPNESS = 8.0

# Over-segmentation.
GLASS_SHARE = 0.35
CORE = 0.19
DISTANCE_SIGMA = 1.9
EVIDENCE_WEIGHT = 4.0
STEP = 0.075

# What a profile of this size must look like to be a fiber.
SMALL_FIBER_UM2 = 400.0
SMALL_SOLIDITY = 0.915
SMALL_HIDDEN = 0.45


def segment_classically(stains: Stains, min_area_um2: float = 100.0) -> Labels:
    """Segment muscle fibers without training.

    Nuclei and rings are painted over; one tone is learned from the image itself, the mixture of
    haematoxylin and DAB that best tells gaps from what lies beside them; gaps are traced by elongated
    ridge filters; an over-segmentation is merged into the most fiber-like regions.

    Parameters
    ----------
    stains : Stains
        Stain densities; about 0.5 um/px is enough.
    min_area_um2 : float
        Smaller profiles are left out.

    Returns
    -------
    ndarray of int32, shape of `stains.dab`
        Sequential labels, each one 4-connected piece without holes; fibers cut by the border stay.
    """
    shape = stains.dab.shape
    if min(shape) == 0:
        return np.zeros(shape, np.int32)
    scale = min(stains.mpp / MPP, 1.0)
    size = tuple(max(round(side * scale), 1) for side in reversed(shape))
    layers = (stains.haematoxylin, stains.dab)
    h, d = (np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), np.float32) for layer in layers)
    area_px = min_area_um2 * (size[0] * size[1]) / (shape[0] * shape[1] * stains.mpp**2)
    # Where gaps differ in hue alone, the sum of both stains hides them.
    tones = [_learn_tone(h, d, start) for start in (h + d, h)]
    tone = max(tones, key=lambda found: found.separation if found else -1.0)
    if tone is None:
        return np.zeros(shape, np.int32)
    evidence = _trace_gaps(tone)
    inside = _find_inside(tone, _smooth(h + d))
    pieces = _oversegment(inside, evidence, tone.nuclei)
    regions = merge_regions(pieces, evidence, tone.nuclei, area_px, stains.mpp / scale)
    labels = _tidy(regions, tone.nuclei, area_px, stains.mpp / scale)
    return _enlarge(labels, shape)


@dataclass(frozen=True)
class _Tone:
    """`level`: nuclei painted over, 0 at the threshold, 1 = contrast between fibers and gaps.

    `separation` is that contrast in units of the spread within both.
    """

    level: FloatImage
    nuclei: Mask
    separation: float


def _blur(image: FloatImage, sigma: float) -> FloatImage:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))


def _smooth(image: FloatImage) -> FloatImage:
    """Less noise, edges kept."""
    return np.asarray(cv2.medianBlur(_blur(image, 0.7), 5), np.float32)


def _disc(width: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)), np.uint8)


def _dilate(mask: Mask, width: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(width)) > 0)


def _open(image: FloatImage) -> FloatImage:
    """Without dark spots of the size of nuclei."""
    return open_by_disc(_blur(image, 1), NUCLEUS_UM)


def _find_nuclei(image: FloatImage, opened: FloatImage, contrast: float) -> Mask:
    """Small dark spots; never more than a seventh of the image, should the contrast be underrated."""
    excess = _blur(image, 0.8) - opened
    return np.asarray(excess > max(NUCLEUS_CONTRAST * contrast, find_quantile(excess, MIN_CLEAR)))


def _paint_over(image: FloatImage, mask: Mask, base: FloatImage) -> FloatImage:
    """Masked pixels take the mean of unmasked ones around, far from any those of `base`."""
    keep = 1 - mask.astype(np.float32)
    mean = (_blur(image * keep, 3) + 1e-3 * _blur(base, 3)) / (_blur(keep, 3) + 1e-3)
    return np.where(mask, mean, image).astype(np.float32)


def _first_contrast(opened: FloatImage) -> float:
    """Contrast along edges towards what is paler than most tissue."""
    size = tuple(-(-side // 4) for side in reversed(opened.shape))
    small = np.asarray(cv2.resize(opened, size, interpolation=cv2.INTER_AREA), np.float32)
    small = np.minimum(small, np.float32(find_quantile(small, 0.95)))
    if np.ptp(small) == 0:
        return 0.0
    ceiling = np.median(small[small > threshold_otsu(small)])
    image = np.minimum(opened, ceiling)
    slope = np.hypot(*(cv2.Sobel(image, cv2.CV_32F, *way, ksize=3) for way in ((1, 0), (0, 1))))
    total = float(slope.sum()) + 1e-9
    middle = float((slope * image).sum()) / total
    return 2 * float(np.sqrt((slope * (image - middle) ** 2).sum() / total))


def _valleys(image: FloatImage, sigma: float) -> FloatImage:
    """Larger eigenvalue of the Hessian, scale-normalised."""
    smooth = _blur(image, sigma)
    xx, yy, xy = (
        cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3, borderType=cv2.BORDER_REFLECT) / 4
        for order in ((2, 0), (0, 2), (1, 1))
    )
    return np.asarray(((xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)) * sigma**2, np.float32)


def _sample_gaps(image: FloatImage, nuclei: Mask) -> tuple[Places, Places]:
    """Pixels in gaps, and pixels a few um beside them."""
    clear = ~_dilate(nuclei, 7)
    curve = _valleys(image, 2)
    free = curve.take(np.flatnonzero(clear))
    if free.size == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    gaps = curve > find_quantile(free, GAP_SHARE)
    beside = _dilate(gaps, 25) & ~_dilate(gaps, 7) & (curve < find_quantile(free, 0.6))
    return np.flatnonzero(gaps & clear), np.flatnonzero(beside & clear)


def _mix(h: FloatImage, d: FloatImage, beside: Places, gaps: Places) -> FloatImage:
    """Tone along Fisher's linear discriminant, so that drifting background weighs little."""
    samples = []
    for places in (beside, gaps):
        values = np.stack([h.take(places), d.take(places)]).astype(np.float64)
        ends = np.array([[find_quantile(row, share) for share in (0.01, 0.99)] for row in values])
        samples.append(np.clip(values, ends[:, :1], ends[:, 1:]))
    spread = (np.cov(samples[0]) + np.cov(samples[1])) / 2
    spread += 0.05 * np.diag(np.diag(spread)) + 1e-6 * np.eye(2)
    weights = np.linalg.solve(spread, samples[0].mean(axis=1) - samples[1].mean(axis=1))
    weights *= 2 / max(float(np.abs(weights).sum()), 1e-12)
    return np.asarray(weights[0] * h + weights[1] * d, np.float32)


def _learn_tone(h: FloatImage, d: FloatImage, image: FloatImage) -> _Tone | None:
    """Learn the tone in three rounds from a first guess; None if nothing stands out from the noise."""
    opened = _open(image)
    contrast = _first_contrast(opened)
    for last in (False, False, True):
        nuclei = _find_nuclei(image, opened, contrast)
        clean = _paint_over(image, _dilate(nuclei, 7), opened)
        gaps, beside = _sample_gaps(clean, nuclei)
        if min(len(gaps), len(beside)) < 50:
            return None
        if not last:
            beside = beside[clean.take(beside) > find_median(clean.take(gaps))]
            if len(beside) < 50:
                return None
            image = _mix(h, d, beside, gaps)
            opened = _open(image)
            clean = np.where(nuclei, opened, image)
        smooth = _smooth(clean)
        levels = _find_levels(smooth, gaps, beside)
        if levels is None:
            return None
        threshold, contrast = levels
    nuclei = _dilate(_find_nuclei(image, opened, contrast), 5)
    clean = _paint_over(image, nuclei, opened)
    spread = np.sqrt((smooth.take(beside).var() + smooth.take(gaps).var()) / 2) + 1e-9
    level = np.minimum((clean - threshold) / contrast, CLIP).astype(np.float32)
    return _Tone(level, nuclei, float(contrast / spread))


def _find_levels(smooth: FloatImage, gaps: Places, beside: Places) -> tuple[FloatImage, float] | None:
    """Threshold between gaps and the palest fibers, following slow drift, and the contrast."""
    deep, near = smooth.take(gaps), smooth.take(beside)
    gap = find_median(deep)
    above = near[near > gap]
    if above.size < 50:
        return None
    contrast = find_median(above) - gap
    # Where no gap is visible, the deepest valleys lie inside fibers and must not raise the threshold.
    deepest = deep < gap + DEPTH_SHARE * contrast
    excess, weight = np.zeros_like(smooth), np.zeros_like(smooth)
    excess.ravel()[gaps[deepest]] = deep[deepest] - gap
    weight.ravel()[gaps[deepest]] = 1
    # Drift is slow: a coarse grid does.
    size = tuple(-(-side // DRIFT_STEP) for side in reversed(smooth.shape))
    offset, share = (
        _blur(np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA)), DRIFT_UM / MPP / DRIFT_STEP)
        for layer in (excess, weight)
    )
    coarse = offset / (share + DRIFT_PRIOR * float(weight.mean()) + 1e-12)
    drift = np.asarray(cv2.resize(coarse, smooth.shape[::-1], interpolation=cv2.INTER_LINEAR))
    near = near - drift.take(beside)
    above = near[near > gap]
    if above.size < 50:
        return None
    palest, contrast = find_quantile(above, PALEST_FIBERS), find_median(above) - gap
    if contrast < MIN_CONTRAST_OD:
        return None
    return gap + drift + THRESHOLD_SHARE * (palest - gap), contrast


def _ridges(image: FloatImage) -> FloatImage:
    """Strongest response to elongated second derivatives: gaps are long, noise is not."""
    around = cv2.copyMakeBorder(image, *4 * (RIDGE_REACH,), cv2.BORDER_REFLECT)
    shape = tuple(cv2.getOptimalDFTSize(side) for side in around.shape)
    # One transform of the image serves all angles; kernels are symmetric, so that nothing need be turned.
    spectrum = cv2.dft(_pad(np.asarray(around, np.float32), shape))
    rows, columns = (slice(2 * RIDGE_REACH, 2 * RIDGE_REACH + side) for side in image.shape)
    best = np.full(image.shape, -np.inf, np.float32)
    for own in _transform_ridges(shape):
        response = cv2.idft(cv2.mulSpectrums(spectrum, own, 0), flags=cv2.DFT_SCALE)
        np.maximum(best, response[rows, columns], out=best)
    return best


@lru_cache(maxsize=1)
def _transform_ridges(shape: tuple[int, ...]) -> list[FloatImage]:
    """Transforms of the filters of all angles; fields of a study are of one size, and share them."""
    y, x = np.mgrid[-RIDGE_REACH : RIDGE_REACH + 1, -RIDGE_REACH : RIDGE_REACH + 1] * MPP
    spectra = []
    for angle in np.pi * np.arange(RIDGE_ANGLES) / RIDGE_ANGLES:
        along = (x * np.cos(angle) + y * np.sin(angle)) / RIDGE_LENGTH_UM
        across = (y * np.cos(angle) - x * np.sin(angle)) / RIDGE_WIDTH_UM
        kernel = (across**2 - 1) * np.exp(-(across**2 + along**2) / 2)
        kernel -= kernel.mean()
        kernel /= np.abs(kernel).sum() / 2
        spectra.append(np.asarray(cv2.dft(_pad(kernel, shape), nonzeroRows=len(kernel)), np.float32))
    return spectra


def _pad(image: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]) -> FloatImage:
    """In the upper left corner of zeros."""
    padded = np.zeros(shape, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _trace_gaps(tone: _Tone) -> FloatImage:
    """Evidence of a border, 0 to 1: fine or broad valleys above noise, and open background."""
    evidence = np.zeros(tone.level.shape, np.float32)
    for response in (_ridges(tone.level), _valleys(tone.level, 2.5)):
        floor = 1.5 * find_median(np.maximum(response, 0))
        evidence = np.maximum(evidence, (response - floor) / RIDGE)
    background = 1 / (1 + np.exp((_blur(tone.level, 1.5) - BACKGROUND) * STEEPNESS))
    return np.asarray(np.clip(np.maximum(evidence, background), 0, 1), np.float32)


def _find_inside(tone: _Tone, density: FloatImage) -> Mask:
    """Pixels above the threshold that are not glass, smoothed, small holes filled."""
    mask = _smooth(tone.level) > 0
    # Where gaps are known by their brown, glass is as little brown as fibers are.
    fibers = density[mask & (density > MIN_CONTRAST_OD)]
    mask &= density > (GLASS_SHARE * find_median(fibers) if fibers.size else 0.0)
    mask = np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(5)) > 0)
    outside = label(~mask, connectivity=1)
    small = np.bincount(outside.ravel()) < 150
    small[0] = False
    return np.asarray(mask | small[outside])


def _oversegment(inside: Mask, evidence: FloatImage, nuclei: Mask) -> Labels:
    """Watershed on the logarithm of the distance to the nearest border, and on the evidence."""
    core = inside & ((evidence < CORE) | nuclei)
    distance = np.asarray(cv2.distanceTransform(core.astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    height = EVIDENCE_WEIGHT * _blur(evidence, 1) - np.log1p(_blur(distance, DISTANCE_SIGMA))
    # Steps drown minima that are shallower.
    steps = np.round((height - height.min()) / STEP).astype(np.int32)
    return _flood_minima(steps, inside)


def _flood_minima(steps: Labels, inside: Mask) -> Labels:
    """Watershed from all minima, as `skimage.segmentation.watershed` does it, several times faster."""
    seeds = label(local_minima(steps, connectivity=1) & inside, connectivity=1)
    state = np.pad(np.where(inside, seeds, -1).astype(np.int32), 1, constant_values=-1)
    waiting = np.empty((2, np.count_nonzero(inside)), np.int64)
    _flood(np.pad(steps, 1).ravel(), state.ravel(), state.shape[1], waiting[0], waiting[1])
    return np.maximum(state[1:-1, 1:-1], 0)


@Compiled
def _flood(height: Labels, state: Labels, width: int, keys: Places, places: Places) -> None:
    """Flood what is 0 from what is above, lowest first; of places alike, that which water reached first.

    Who waits lies in a binary heap. Seeds are alike in both, so that the order in which they leave it is that
    of its steps: they are kept as they are in scikit-image.
    """
    size, age = 0, 0
    for place in range(len(state)):
        if state[place] > 0:
            _push(keys, places, size, np.int64(height[place]) << 32, place)
            size += 1
    while size > 0:
        place, level = int(places[0]), keys[0] >> 32
        size -= 1
        _sink(keys, places, size)
        for beside in (place - width, place - 1, place + 1, place + width):
            if state[beside] == 0:
                age += 1
                state[beside] = state[place]
                key = max(np.int64(height[beside]), level) << 32 | age
                _push(keys, places, size, key, beside)
                size += 1


@Compiled
def _push(keys: Places, places: Places, size: int, key: np.int64, place: int) -> None:
    """Put one more in the heap."""
    at = size
    while at > 0 and key < keys[(at - 1) // 2]:
        above = (at - 1) // 2
        keys[at], places[at] = keys[above], places[above]
        at = above
    keys[at], places[at] = key, place


@Compiled
def _sink(keys: Places, places: Places, size: int) -> None:
    """Let the last of the heap take the place of the first, and sink to where it belongs."""
    key, place, at, below = keys[size], places[size], 0, 1
    while below < size:
        if below + 1 < size and keys[below + 1] < keys[below]:
            below += 1
        if keys[below] >= key:
            break
        keys[at], places[at] = keys[below], places[below]
        at, below = below, 2 * below + 1
    keys[at], places[at] = key, place


def _tidy(regions: Labels, nuclei: Mask, min_area_px: float, mpp: float) -> Labels:
    """Largest piece of every region, holes filled; remnants left out; numbered in order."""
    labels = np.zeros(regions.shape, np.int32)
    number = 0
    for _, box, whole in list_wholes(regions):
        place = labels[box]
        whole &= place == 0
        area = np.count_nonzero(whole)
        hidden = np.count_nonzero(nuclei[box] & whole) / area if area else 1.0
        # What the image's border cuts is smaller than the fiber it belongs to.
        cut = _is_cut(box, regions.shape)
        if area >= min_area_px and _looks_like_fiber(whole, hidden, mpp * (2 if cut else 1)):
            number += 1
            place[whole] = number
    return labels


def _is_cut(box: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == side for part, side in zip(box, shape, strict=True))


def _looks_like_fiber(mask: Mask, hidden: float, mpp: float) -> bool:
    """Remnants between fibers are small and jagged, infiltrates mostly nuclei: the smaller, the stricter."""
    rows = np.flatnonzero(mask.any(axis=1))
    # The ends of rows have the hull of all.
    first, last = (part[rows].argmax(axis=1) for part in (mask, mask[:, ::-1]))
    ends = np.stack([first, rows, mask.shape[1] - 1 - last, rows], axis=1).astype(np.int32)
    area = np.count_nonzero(mask)
    doublings = np.log2(area * mpp**2 / SMALL_FIBER_UM2)
    return bool(
        area / wrap_points(ends.reshape(-1, 2))[1] >= SMALL_SOLIDITY - 0.03 * doublings
        and hidden <= SMALL_HIDDEN + 0.1 * doublings
    )


def _enlarge(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Nearest neighbour by pixel centers, so that pieces stay pieces."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, labels.shape, strict=True)
    )
    return np.ascontiguousarray(labels[rows[:, None], columns])
