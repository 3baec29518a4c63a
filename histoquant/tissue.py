"""Tissue on the overview of a slide, against glass of any brightness."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from skimage.morphology import remove_small_holes, remove_small_objects

from histoquant.geometry import Patch
from histoquant.protocol import TissueSettings

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Glass is even: without specks, its density varies less than this over 75 um; that of muscle, with its
# fibers, varies more nearly everywhere. Judged at 8 um/px or coarser.
_EVEN_OD = 0.0015
_EVEN_WINDOW_UM = 75.0
_SPECK_UM = 40.0
_FINEST_MPP = 8.0
# Glass is the brightest thing on a slide, within its own shading.
_SHADING_OD = 0.02
_DARKEST_GLASS = 100.0
# Areas that were not scanned are filled with pure white or pure black.
_FILLER = (4, 254)


def find_tissue(overview: Patch, settings: TissueSettings) -> Mask:
    """Pixels of the overview that are tissue.

    Glass is found first: even, bright, and larger than the holes that are filled. Tissue is what is denser
    than it, averaged over the gaps between fibers, so that gaps belong to it and scattered dust does not.
    Where no glass is seen (a section that fills the image) density is taken against full white.

    Parameters
    ----------
    overview : Patch
        The whole slide, at about `settings.mpp`.
    settings : TissueSettings
        Least density, sizes of gaps, holes and debris.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
        All False on glass alone.

    Examples
    --------
    >>> pixels = np.full((60, 60, 3), 230, np.uint8)
    >>> pixels[20:50, 10:40] = (200, 190, 205)
    >>> mask = find_tissue(Patch(pixels, 0.0, 0.0, 8.0), TissueSettings())
    >>> bool(mask[35, 25]), bool(mask[5, 5])
    (True, False)
    """
    pixels, mpp = overview.pixels, overview.mpp
    scanned = (pixels.min(axis=2) < _FILLER[1]) & (pixels.max(axis=2) > _FILLER[0])
    white = estimate_glass(overview, settings.max_hole_um2)
    density = _mean_od(pixels, np.full(3, 255.0) if white is None else white) * scanned
    # Capped at three times the limit, a straight edge moves out by 0.4 sigma however dark the tissue is,
    # and a gap of 2 sigma closes.
    capped = np.minimum(density, 3 * settings.min_od)
    mask = (_blur(capped, settings.gap_um / 2 / mpp) > settings.min_od) & scanned
    hole_px, piece_px = (area / mpp**2 for area in (settings.max_hole_um2, settings.min_area_um2))
    mask = remove_small_objects(mask, max_size=max(0, round(piece_px) - 1))
    return np.asarray(remove_small_holes(mask, max_size=round(hole_px)), bool)


def estimate_glass(overview: Patch, min_area_um2: float) -> npt.NDArray[np.float64] | None:
    """Colour of empty glass.

    Parameters
    ----------
    overview : Patch
        The whole slide.
    min_area_um2 : float
        Smaller even areas are not taken for glass.

    Returns
    -------
    ndarray of float, shape (3,) or None
        Red, green, blue; None if no glass is seen.

    Examples
    --------
    >>> estimate_glass(Patch(np.full((40, 40, 3), 215, np.uint8), 0.0, 0.0, 8.0), 10_000.0)
    array([215., 215., 215.])
    """
    pixels, mpp = _coarsen(overview)
    scanned = (pixels.min(axis=2) < _FILLER[1]) & (pixels.max(axis=2) > _FILLER[0])
    raw = _mean_od(pixels, np.full(3, 255.0))
    density = np.asarray(cv2.medianBlur(raw, round(_SPECK_UM / mpp) | 1), np.float32)
    window = max(5, round(_EVEN_WINDOW_UM / mpp) | 1)
    centers = _spread(density, window) < _EVEN_OD
    even = cv2.dilate(centers.astype(np.uint8), np.ones((window, window), np.uint8)) > 0
    even &= scanned & (density < -np.log10(_DARKEST_GLASS / 255))
    even = remove_small_objects(even, max_size=round(min_area_um2 / mpp**2))
    if not even.any():
        return None
    brightest = float(np.percentile(density[even], 1))
    if np.mean(raw[scanned] < brightest - _SHADING_OD) > 0.01:
        return None  # gaps are brighter than any even area: those were even fibers
    glass = pixels[even & (density < brightest + _SHADING_OD)]
    return np.asarray(np.median(glass, axis=0), np.float64)


def _coarsen(overview: Patch) -> tuple[npt.NDArray[np.uint8], float]:
    """Pixels at 8 um or coarser, and their size, um."""
    factor = _FINEST_MPP / overview.mpp
    if factor <= 1 or min(overview.pixels.shape[:2]) < factor:
        return overview.pixels, overview.mpp
    small = cv2.resize(overview.pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), _FINEST_MPP


def _mean_od(pixels: npt.NDArray[np.uint8], white: npt.NDArray[np.float64]) -> FloatImage:
    """Mean optical density of the three channels."""
    table = (np.log10(white) - np.log10(np.arange(256).clip(1))[:, None]) / 3
    parts = cv2.LUT(pixels, table[None].astype(np.float32))
    return np.asarray(parts[..., 0] + parts[..., 1] + parts[..., 2], np.float32)


def _blur(image: FloatImage, sigma_px: float) -> FloatImage:
    if sigma_px < 0.3:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE), np.float32)


def _spread(image: FloatImage, window_px: int) -> FloatImage:
    """Standard deviation in a square window."""
    size = (window_px, window_px)
    mean = cv2.blur(image, size, borderType=cv2.BORDER_REFLECT)
    square = cv2.blur(image * image, size, borderType=cv2.BORDER_REFLECT)
    return np.asarray(np.sqrt(np.clip(square - mean * mean, 0, None)), np.float32)
