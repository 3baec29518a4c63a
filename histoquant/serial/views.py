"""What of a section serves to register it: fine contrast of its tissue at two pixel sizes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.geometry import Patch
from histoquant.protocol import TissueSettings
from histoquant.tissue import estimate_glass, find_tissue

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

VIEW_MPP = 4.0
"""Pixel size at which sections are registered, um/px."""
_MAX_OD = 0.3
_NUCLEUS_PX = 3
_WIDE_UM = 150.0
_TISSUE_MPP = 8.0


@dataclass(frozen=True)
class View:
    """A section as registration sees it; its upper left corner is the slide's.

    Attributes
    ----------
    density : ndarray of float32, shape (rows, columns)
        Optical density of the red channel, in which DAB is weak; nuclei are smoothed away.
    tissue : ndarray of bool, same shape
        Where there is tissue.
    mpp : float
        Pixel size, um/px.
    """

    density: Image
    tissue: Mask
    mpp: float


def make_view(overview: Patch, settings: TissueSettings) -> View:
    """Make a view from an overview of about `VIEW_MPP`.

    Parameters
    ----------
    overview : Patch
        The whole slide.
    settings : TissueSettings
        What is tissue.

    Returns
    -------
    View
    """
    factor = overview.mpp / _TISSUE_MPP
    small = cv2.resize(overview.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    coarse = Patch(np.asarray(small, np.uint8), overview.x_um, overview.y_um, _TISSUE_MPP)
    size = overview.pixels.shape[1::-1]
    tissue = cv2.resize(find_tissue(coarse, settings).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    glass = estimate_glass(coarse, settings.max_hole_um2)
    white = 255.0 if glass is None else float(glass[0])
    table = np.log10(white) - np.log10(np.arange(256).clip(1))
    density = table.clip(0, _MAX_OD).astype(np.float32)[overview.pixels[..., 0]]
    return View(np.asarray(cv2.medianBlur(density, _NUCLEUS_PX)), tissue > 0, overview.mpp)


def shrink_view(view: View, mpp: float) -> View:
    """A view at a coarser pixel size."""
    factor = view.mpp / mpp
    if factor >= 1:
        return view
    density = cv2.resize(view.density, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    size = density.shape[::-1]
    tissue = cv2.resize(view.tissue.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    # The size in whole pixels is not quite what was asked for.
    return View(np.asarray(density, np.float32), tissue, view.mpp * view.density.shape[1] / size[0])


def flatten_view(view: View) -> Image:
    """Contrast of tissue against its surroundings, 0 on glass, about 1 where it is typical.

    Both the mean and the spread are taken within the tissue, so that its outline, which differs where
    a section is torn or partial, adds nothing.
    """
    inside = view.tissue.astype(np.float32)
    sigma = _WIDE_UM / view.mpp / 2

    def average(image: Image) -> Image:
        share = cv2.GaussianBlur(inside, (0, 0), sigma)
        total = cv2.GaussianBlur(image * inside, (0, 0), sigma)
        return np.asarray(total / np.maximum(share, 1e-3), np.float32)

    contrast = (view.density - average(view.density)) * inside
    spread = np.sqrt(average(contrast * contrast))
    floor = max(float(np.median(spread[view.tissue])) / 3, 1e-4) if view.tissue.any() else 1.0
    return np.asarray((contrast / np.maximum(spread, floor)).clip(-3, 3), np.float32)
