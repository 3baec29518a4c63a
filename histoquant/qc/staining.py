"""Staining and light: how strong, how even, how true to the protocol's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled
from histoquant.ranks import find_quantiles
from histoquant.stains import FloatImage, Stains, Vector, angle_between

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_STRONG_OD = 0.25
# Of haematoxylin and DAB. Vectors turned by 15 degrees let a nucleus seem nearly as brown as blue.
_OUTWEIGH = (1.0, 1.5)
_LEAST_UM2 = 500.0
_NEGATIVE_OD = -0.05
_DARKEST, _BRIGHTEST = 2, 255
_BLOCK_UM = 60.0
_ENVELOPE_PERCENT = 90


class Strength(NamedTuple):
    """Strength of both stains, optical density.

    `*_background`: the median, which is that of fibers where fibers fill the field. `*_strong`: 99 of 100
    pixels are weaker.
    """

    haematoxylin_background: float
    haematoxylin_strong: float
    dab_background: float
    dab_strong: float


def measure_strength(stains: Stains, tissue: Mask) -> Strength:
    """Measure background and strong stain in tissue.

    Parameters
    ----------
    stains : Stains
        Densities.
    tissue : ndarray of bool, shape of `stains.dab`
        Where to look.

    Returns
    -------
    Strength
        NaN where there is no tissue.

    Examples
    --------
    >>> flat = np.full((4, 4), 0.1, np.float32)
    >>> measure_strength(Stains(flat, flat / 2, flat, 0.0, 0.0, 0.5), flat > 0).dab_background
    0.05000000074505806
    """
    if not tissue.any():
        return Strength(*4 * [float("nan")])
    images = (stains.haematoxylin, stains.dab)
    return Strength(*(value for image in images for value in find_quantiles(image[tissue], (0.5, 0.99))))


def measure_negative_share(stains: Stains, tissue: Mask) -> float:
    """Measure the share of tissue in which a stain is below -0.05 OD: vectors or white point are wrong.

    Parameters
    ----------
    stains : Stains
        Densities, negative ones kept.
    tissue : ndarray of bool, shape of `stains.dab`
        Where to look.

    Returns
    -------
    float
        NaN where there is no tissue.
    """
    if not tissue.any():
        return float("nan")
    negative = (np.minimum(stains.haematoxylin, stains.dab) < _NEGATIVE_OD) & tissue
    return float(np.count_nonzero(negative) / np.count_nonzero(tissue))


def measure_angles(stains: Stains, vectors: tuple[Vector, Vector]) -> tuple[float, float]:
    """Measure how far the slide's haematoxylin and DAB point away from the vectors used.

    Nuclei and brown structures are taken above the region's median; what they show of the other two
    components, most commonly, is the direction of the stain itself.

    Parameters
    ----------
    stains : Stains
        Densities by `vectors`, with nuclei resolved.
    vectors : tuple of two vectors
        Those of haematoxylin and of DAB.

    Returns
    -------
    haematoxylin, dab : float
        Degrees; NaN where there is too little of the stain to say.
    """
    first, second = (np.asarray(vector) / np.linalg.norm(vector) for vector in vectors)
    third = np.cross(first, second)
    basis = np.stack([first, second, third / np.linalg.norm(third)])
    every = np.s_[::2, ::2]
    images = (stains.haematoxylin[every], stains.dab[every], stains.residual[every])
    above = [image - np.float32(find_quantiles(image.ravel(), (0.5,))[0]) for image in images]
    return (
        _find_angle(above, basis, 0, 4 * stains.mpp**2),
        _find_angle(above, basis, 1, 4 * stains.mpp**2),
    )


def _find_angle(
    above: Sequence[FloatImage], basis: npt.NDArray[np.float64], own: int, pixel_um2: float
) -> float:
    strong = above[own] > _STRONG_OD
    chosen = [image[strong] for image in above]
    # The stain must also outweigh the other one: brown rings lie on blue nuclei.
    outweighs = chosen[own] > _OUTWEIGH[own] * chosen[1 - own]
    if np.count_nonzero(outweighs) * pixel_um2 < _LEAST_UM2:
        return float("nan")
    amount = chosen[own][outweighs]
    usual = [_find_mode(chosen[at][outweighs] / amount) if at != own else 1.0 for at in range(3)]
    return angle_between(tuple(np.asarray(usual) @ basis), tuple(basis[own]))


def _find_mode(ratios: npt.NDArray[np.float32]) -> float:
    counts, edges = np.histogram(ratios, np.linspace(-1.05, 1.05, 421))
    smooth = cv2.GaussianBlur(counts.astype(np.float32)[None], (0, 0), 6)[0]
    best = int(np.argmax(smooth))
    return float(edges[best] + edges[best + 1]) / 2


def measure_clipping(pixels: Pixels, step: int = 1) -> float:
    """Measure the share of pixels with a channel at the end of its range, black or full.

    Their stain is unknown: what is black may be any darker. Pure white in all channels is left out, since
    formats fill places never scanned with it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB as read.
    step : int, optional
        Look at every so many-th row and column.

    Returns
    -------
    float
        Of the pixels that are not pure white; NaN if there is none.

    Examples
    --------
    >>> measure_clipping(np.array([[[0, 90, 90], [80, 90, 90], [255, 255, 255]]], np.uint8))
    0.5
    """
    clipped, scanned = _count_clipped(pixels[::step, ::step])
    return clipped / scanned if scanned else float("nan")


@Compiled
def _count_clipped(pixels: Pixels) -> tuple[int, int]:
    """Pixels with a channel at the end of its range, and all, without pure white ones."""
    clipped = scanned = 0
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            red, green, blue = pixels[row, column, 0], pixels[row, column, 1], pixels[row, column, 2]
            low, high = min(red, green, blue), max(red, green, blue)
            scanned += low < _BRIGHTEST
            clipped += (low < _BRIGHTEST) & ((low <= _DARKEST) | (high == _BRIGHTEST))
    return clipped, scanned


def measure_unevenness(pixels: Pixels, mpp: float) -> float:
    """Measure how unevenly a region is lit, from the palest tissue and glass of its parts.

    A surface of second order is fitted to the logarithm of what 90 % of each square of 60 um are darker
    than. Light changes all channels alike and stain does not: the least change of the three counts.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    float
        Darkest / brightest part of the surface, as a loss: 0 is even, 0.2 means 20 % darker. NaN for a
        region of fewer than 4 x 4 squares.
    """
    rows, columns = (int(length * mpp / _BLOCK_UM) for length in pixels.shape[:2])
    if min(rows, columns) < 4:
        return float("nan")
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    design = np.stack([np.ones(x.size), *(part.ravel() for part in (x, y, x * x, x * y, y * y))], axis=1)
    step = max(1, int(2.0 / mpp))
    small = pixels[::step, ::step]
    surface = np.log(np.maximum(find_envelope(small, rows, columns), 1.0)).reshape(-1, 3)
    fitted = design @ np.linalg.lstsq(design, surface, rcond=None)[0]
    return float(1 - np.exp(-np.ptp(fitted, axis=0).min()))


def find_envelope(pixels: Pixels, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Find what 90 % of each block are darker than, all blocks of a size at once.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    rows, columns : int
        Blocks down and across, as `np.array_split` cuts them.

    Returns
    -------
    ndarray of float, shape (rows, columns, 3)
    """
    envelope = np.empty((rows, columns, 3))
    for down, y, high in _share_out(pixels.shape[0], rows):
        for across, x, wide in _share_out(pixels.shape[1], columns):
            part = pixels[y, x]
            blocks = part.reshape(part.shape[0] // high, high, part.shape[1] // wide, wide, 3)
            if blocks.size:
                envelope[down, across] = np.percentile(blocks, _ENVELOPE_PERCENT, axis=(1, 3))
    return envelope


def _share_out(length: int, parts: int) -> list[tuple[slice, slice, int]]:
    """Parts, their pixels and the length of each; those that are a pixel longer come first."""
    size, longer = divmod(length, parts)
    edge = longer * (size + 1)
    return [(np.s_[:longer], np.s_[:edge], size + 1), (np.s_[longer:], np.s_[edge:], size)]
