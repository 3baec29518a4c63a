"""Nuclei as QuPath's watershed cell detection finds them, for comparison with studies that used it.

Written from what is published of the method, its parameters and its order of steps; no line of its code
is here, and counts are near QuPath's, not equal (docs/qupath.md).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from histoquant.protocol import QupathSettings
from histoquant.stains import FloatImage, Stains, sum_density

Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_ALL_SIDES = np.ones((3, 3), int)
# As ImageJ's binary watershed: maxima of the distance map that rise less than this are one.
_SHAPE_TOLERANCE_PX = 0.5


def find_nuclei_by_laplacian(stains: Stains, settings: QupathSettings) -> Labels:
    """Find nuclei: Laplacian of Gaussian of the density sum, watershed, threshold, split by shape.

    The background, if it has a radius, is the opening by reconstruction. Where the Laplacian of the smoothed
    density says "darker than around", its watershed makes parts; parts whose mean density is above the
    threshold are merged where they touch, their holes filled, the line of the zero crossing taken off, and
    the rest split again at its waists.

    Parameters
    ----------
    stains : Stains
        Densities at the working resolution.
    settings : QupathSettings
        With QuPath's names and units.

    Returns
    -------
    ndarray of int32, shape of `stains.dab`
        Labels 1 to n of nuclei, 0 elsewhere.

    References
    ----------
    Bankhead P et al. QuPath: open source software for digital pathology image analysis. Sci Rep 2017;7:16878.
    """
    mpp = stains.mpp
    density, allowed = _remove_background(
        _filter_median(sum_density(stains), settings.median_um / mpp), settings, mpp
    )
    smooth = cv2.GaussianBlur(density, (0, 0), settings.sigma_um / mpp)
    peak = np.asarray(-cv2.Laplacian(smooth, cv2.CV_32F, ksize=1), np.float32)
    mask = (peak > 0) & allowed
    seeds = ndimage.label(local_maxima(peak) & mask, _ALL_SIDES)[0]
    parts = np.asarray(watershed(-peak, seeds, mask=mask), np.int32)
    count = np.bincount(parts.ravel())
    keep = np.bincount(parts.ravel(), density.ravel()) > settings.threshold_od * count
    keep[0] = False
    nuclei = ndimage.binary_fill_holes(keep[parts]).astype(np.uint8)
    nuclei = cv2.erode(nuclei, _CROSS) > 0
    labels = _split_by_shape(nuclei) if settings.split_by_shape else ndimage.label(nuclei, _ALL_SIDES)[0]
    return _keep_areas(np.asarray(labels, np.int32), settings, mpp)


def _filter_median(image: FloatImage, radius_px: float) -> FloatImage:
    if round(radius_px) < 1:
        return image
    side = 2 * round(radius_px) + 1
    return np.asarray(ndimage.median_filter(image, footprint=_disc(side)), np.float32)


def _remove_background(image: FloatImage, settings: QupathSettings, mpp: float) -> tuple[FloatImage, Mask]:
    """Density above the opening by reconstruction, and where that background is not too dark."""
    radius_px = round(settings.background_um / mpp)
    if radius_px < 1:
        return image, np.ones(image.shape, bool)
    eroded = cv2.erode(image, _disc(2 * radius_px + 1))
    background = np.asarray(reconstruction(np.minimum(eroded, image), image), np.float32)
    return image - background, background <= settings.max_background_od


def _split_by_shape(mask: Mask) -> Labels:
    distance = ndimage.distance_transform_edt(mask).astype(np.float32)
    tops = local_maxima(reconstruction(distance - _SHAPE_TOLERANCE_PX, distance)) & mask
    return np.asarray(
        watershed(-distance, ndimage.label(tops, _ALL_SIDES)[0], _ALL_SIDES, mask=mask), np.int32
    )


def _keep_areas(labels: Labels, settings: QupathSettings, mpp: float) -> Labels:
    area_um2 = np.bincount(labels.ravel()) * mpp**2
    keep = (area_um2 >= settings.min_area_um2) & (area_um2 <= settings.max_area_um2)
    keep[0] = False
    return np.asarray(np.where(keep, np.cumsum(keep), 0)[labels], np.int32)


def _disc(side: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
