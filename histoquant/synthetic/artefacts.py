"""Plant artefacts of mounting, staining and scanning on a rendered or photographed section."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.protocol import Vector

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Layer = npt.NDArray[np.float32]

INKS: dict[str, Vector] = {
    "black": (1.0, 1.0, 0.95),
    "blue": (1.0, 0.65, 0.15),
    "green": (1.0, 0.35, 0.85),
    "red": (0.06, 0.9, 0.7),
}
"""Optical density of a pen's ink in red, green and blue, at strength 1."""
DAB: Vector = (0.269, 0.568, 0.778)
_EDGE_REACH_UM = 120.0
_RIM_UM = 12.0


class Planted(NamedTuple):
    """A section with an artefact.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    mask : ndarray of bool, shape (rows, columns)
        Where the artefact is.
    """

    pixels: Pixels
    mask: Mask


def plant_fold(
    rng: np.random.Generator, pixels: Pixels, mpp: float, white: Vector, width_um: float, layers: float
) -> Planted:
    """Fold the tissue onto itself along a wavy line across the section.

    Parameters
    ----------
    rng : Generator
        Of place and direction.
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    mpp : float
        Pixel size, um/px.
    white : tuple of float
        Intensity of glass.
    width_um : float
        Width of the fold.
    layers : float
        Layers of tissue that lie on top of the first; a fold that lies flat adds two.

    Returns
    -------
    Planted
    """
    shape = pixels.shape[:2]
    line = _draw_wave(rng, shape, width_um / mpp)
    share = cv2.GaussianBlur(line.astype(np.float32), (0, 0), 3.0 / mpp)
    shift = round(1.5 * width_um / mpp)
    extra = np.zeros_like(pixels, np.float32)
    for at in range(int(np.ceil(layers))):
        moved = np.roll(_take_density(pixels, white), ((-1) ** at * shift, shift), axis=(0, 1))
        extra += min(layers - at, 1.0) * moved
    # What lies above the plane of focus is blurred.
    extra = cv2.GaussianBlur(extra, (0, 0), 1.5 / mpp) * share[..., None]
    return Planted(_darken(pixels, extra), line)


def plant_pen(
    rng: np.random.Generator, pixels: Pixels, mpp: float, ink: str, od: float, width_um: float = 400.0
) -> Planted:
    """Draw a line of a pen across the cover slip.

    Parameters
    ----------
    rng, pixels, mpp
        As for `plant_fold`.
    ink : str
        A key of `INKS`.
    od : float
        Strength of the ink.
    width_um : float, optional
        Width of the line.

    Returns
    -------
    Planted
    """
    line = _draw_wave(rng, pixels.shape[:2], width_um / mpp)
    small = rng.standard_normal([max(2, round(side * mpp / 60)) for side in line.shape]).astype(np.float32)
    streaks = 1 + 0.1 * cv2.resize(small, line.shape[::-1], interpolation=cv2.INTER_CUBIC)
    share = cv2.GaussianBlur(line.astype(np.float32), (0, 0), 8.0 / mpp) * streaks
    return Planted(_darken(pixels, share[..., None] * np.array(INKS[ink], np.float32) * np.float32(od)), line)


def plant_bubble(
    rng: np.random.Generator, pixels: Pixels, mpp: float, diameter_um: float, rim_od: float
) -> Planted:
    """Trap a bubble of air under the cover slip: a dark rim, and tissue out of focus inside.

    Parameters
    ----------
    rng, pixels, mpp
        As for `plant_fold`.
    diameter_um : float
        Of the bubble.
    rim_od : float
        Density of its rim, in all colours.

    Returns
    -------
    Planted
    """
    rows, columns = pixels.shape[:2]
    y, x = np.ogrid[:rows, :columns]
    row, column = (rng.uniform(0.35, 0.65) * side for side in (rows, columns))
    turn = np.arctan2(y - row, x - column)
    radius = diameter_um / 2 * (1 + 0.05 * np.cos(2 * turn + rng.uniform(0, 6)))
    out_um = (np.hypot(y - row, x - column) * mpp - radius).astype(np.float32)
    inside = out_um < _RIM_UM
    rim = np.float32(rim_od) * np.exp(-((out_um / _RIM_UM) ** 2))
    soft = cv2.GaussianBlur(pixels, (0, 0), (1.0 + 3.0 * rim_od) / mpp)
    mixed = np.where((out_um < 0)[..., None], soft, pixels)
    return Planted(_darken(mixed, np.repeat(rim[..., None], 3, axis=2)), inside)


def plant_edge(
    pixels: Pixels, mpp: float, tissue: Mask, od: float, reach_um: float = _EDGE_REACH_UM
) -> Planted:
    """Stain the tissue's border browner than its middle, as a section does that dried or lifted.

    Parameters
    ----------
    pixels, mpp
        As for `plant_fold`.
    tissue : ndarray of bool, shape (rows, columns)
        Where tissue is.
    od : float
        DAB added at the very border.
    reach_um : float, optional
        Depth at which it has fallen to 1 / e.

    Returns
    -------
    Planted
        The mask is tissue within `reach_um`.
    """
    depth_um = cv2.distanceTransform(np.pad(tissue, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1] * mpp
    added = np.float32(od) * np.exp(-((depth_um / reach_um) ** 2)) * tissue
    unit = np.array(DAB, np.float32) / np.float32(np.linalg.norm(DAB))
    return Planted(_darken(pixels, added[..., None] * unit), tissue & (depth_um < reach_um))


def plant_defocus(
    rng: np.random.Generator, pixels: Pixels, mpp: float, blur_um: float, diameter_um: float = 1200.0
) -> Planted:
    """Blur a round part of the section, as a scanner does between its focus points.

    Parameters
    ----------
    rng, pixels, mpp
        As for `plant_fold`.
    blur_um : float
        Standard deviation of the added point spread.
    diameter_um : float, optional
        Of the part.

    Returns
    -------
    Planted
    """
    rows, columns = pixels.shape[:2]
    row, column = (rng.uniform(0.35, 0.65) * side for side in (rows, columns))
    y, x = np.ogrid[:rows, :columns]
    mask = np.hypot(y - row, x - column) * mpp < diameter_um / 2
    share = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 10.0 / mpp)[..., None]
    soft = cv2.GaussianBlur(pixels, (0, 0), blur_um / mpp)
    mixed = pixels + share * (soft.astype(np.float32) - pixels)
    grain = rng.normal(0, 1.5, pixels.shape[:2]).astype(np.float32)[..., None] * share
    return Planted(np.asarray(np.clip(mixed + grain + 0.5, 0, 255), np.uint8), mask)


def plant_holes(
    rng: np.random.Generator, pixels: Pixels, mpp: float, tissue: Mask, white: Vector, share: float
) -> Planted:
    """Punch holes of ice crystals, 3 to 10 um wide, into the tissue.

    Parameters
    ----------
    rng, pixels, mpp
        As for `plant_fold`.
    tissue : ndarray of bool, shape (rows, columns)
        Where holes may lie.
    white : tuple of float
        Intensity of glass.
    share : float
        Area of holes / area of tissue, before overlap.

    Returns
    -------
    Planted
    """
    holes = np.zeros(tissue.shape, np.uint8)
    places = np.argwhere(tissue)
    goal_px, area_px = share * len(places), 0.0
    while area_px < goal_px:
        row, column = places[rng.integers(len(places))]
        axes = rng.uniform(1.5, 5.0, 2) / mpp
        cv2.ellipse(
            holes, (int(column), int(row)), tuple(np.ceil(axes).astype(int).tolist()),
            float(rng.uniform(0, 180)), 0, 360, 1, -1,
        )  # fmt: skip
        area_px += float(np.pi * axes.prod())
    soft = cv2.GaussianBlur(holes.astype(np.float32), (0, 0), 0.5 / mpp)[..., None]
    mixed = pixels + soft * (np.array(white, np.float32) - pixels)
    return Planted(np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8), holes > 0)


def _draw_wave(rng: np.random.Generator, shape: tuple[int, ...], width_px: float) -> Mask:
    """A wavy band through the middle part of the image, in any direction."""
    rows, columns = shape
    turn = rng.uniform(0, np.pi)
    row, column = (rng.uniform(0.35, 0.65) * side for side in shape)
    y, x = np.ogrid[:rows, :columns]
    along = (x - column) * np.cos(turn) + (y - row) * np.sin(turn)
    across = (y - row) * np.cos(turn) - (x - column) * np.sin(turn)
    wave = 0.04 * max(shape) * np.sin(along / max(shape) * 9 + rng.uniform(0, 6))
    return np.asarray(np.abs(across - wave) < width_px / 2)


def _take_density(pixels: Pixels, white: Vector) -> Layer:
    return np.asarray(np.log10(np.array(white) / np.maximum(pixels, 1)), np.float32)


def _darken(pixels: Pixels, od: npt.NDArray[np.floating]) -> Pixels:
    light = pixels * np.power(np.float32(10), -od)
    return np.asarray(np.clip(light + 0.5, 0, 255), np.uint8)
