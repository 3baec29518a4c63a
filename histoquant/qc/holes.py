"""Freezing holes: round gaps that ice crystals leave in fibers."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_MPP = 1.0
_WIDEST_UM = 12.0
_AREAS_UM2 = (5.0, 110.0)
_LEAST_OD = 0.05
_EMPTY = 0.4
_FULL = 0.55


def measure_holes(density: FloatImage, mpp: float, inside: Mask) -> float:
    """Measure the share of tissue that is small round holes.

    A hole is narrower than 12 um, empty against the tissue around it, and fills its box as an ellipse
    does; gaps between fibers are longer and join each other.

    Parameters
    ----------
    density : ndarray of float32, shape (rows, columns)
        Optical density of both stains.
    mpp : float
        Pixel size, um/px.
    inside : ndarray of bool, shape of `density`
        The field.

    Returns
    -------
    float
        Area of holes / area of tissue; NaN without tissue.

    Examples
    --------
    >>> image = np.full((100, 100), 0.2, np.float32)
    >>> image[40:46, 40:46] = 0
    >>> round(measure_holes(image, 1.0, image >= 0), 4)
    0.0036
    """
    scale = mpp / _MPP
    if not np.isclose(scale, 1.0, rtol=1e-6):
        size = tuple(max(1, round(side * scale)) for side in density.shape[::-1])
        density = np.asarray(cv2.resize(density, size, interpolation=cv2.INTER_AREA), np.float32)
        inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    width = round(_WIDEST_UM / _MPP) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    # Nuclei and rings, dark and small, are taken off first: they would be the surroundings otherwise.
    plain = cv2.morphologyEx(density, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    around = cv2.morphologyEx(plain, cv2.MORPH_CLOSE, disc)
    tissue = (around > _LEAST_OD) & inside
    if not tissue.any():
        return float("nan")
    empty = (density < _EMPTY * around) & tissue
    _, _, boxes, _ = cv2.connectedComponentsWithStats(empty.astype(np.uint8), connectivity=4)
    wide, high, area = boxes[1:, 2], boxes[1:, 3], boxes[1:, 4]
    least, most = (value / _MPP**2 for value in _AREAS_UM2)
    hole = (area >= least) & (area <= most) & (np.maximum(wide, high) <= width)
    hole &= area >= _FULL * wide * high
    return float(area[hole].sum() / tissue.sum())
