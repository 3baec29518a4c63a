"""Focus: how wide the edges of a field are, whatever the strength of its stain."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.ranks import find_ranks

FloatImage = npt.NDArray[np.float32]

_MPP = 0.5
_FINE_UM, _COARSE_UM = 0.5, 1.5
_EDGE_SHARE = 0.02
# Noise of 8 bit on bright glass, smoothed, has gradients of about a fifth of this.
_LEAST_GRADIENT = 0.01
_TILE_UM = 110.0
_WIDEST_UM = 5.0


def measure_blur(density: FloatImage, mpp: float) -> float:
    """Measure the blur of a region: standard deviation of the point spread that its edges show.

    The image is blurred again, a little and more. A step edge of blur s has a gradient that falls with
    1 / sqrt(s^2 + r^2) when blurred by r, so that the ratio of both gradients gives s and the height of the
    step cancels: the measure does not know how strong the stain is. It is taken where the coarse gradient
    is steepest. Nuclei are not steps: a sharp image gives 0.6 to 0.9 um.

    Parameters
    ----------
    density : ndarray of float32, shape (rows, columns)
        Optical density.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    float
        um, at most 5; NaN where nothing has an edge.

    References
    ----------
    Zhuo S, Sim T. Defocus map estimation from a single image. Pattern Recognit 2011;44:1852-1858.

    Examples
    --------
    >>> image = np.tile(np.repeat(np.float32([0, 0.6]), 60), (120, 5))
    >>> for sigma_px in (2, 4):
    ...     print(round(measure_blur(cv2.GaussianBlur(image, (0, 0), sigma_px), 0.5), 1))
    1.1
    2.0
    """
    return _estimate_whole(*_measure_gradients(density, mpp))


def measure_focus(density: FloatImage, mpp: float, limit_um: float) -> tuple[float, float]:
    """Measure `measure_blur` and `measure_blurred_share`, which share most of their work.

    Parameters
    ----------
    density : ndarray of float32, shape (rows, columns)
        Optical density.
    mpp : float
        Pixel size, um/px.
    limit_um : float
        Blur beyond which a part is out of focus.

    Returns
    -------
    blur_um, blurred_share : float
    """
    fine, coarse = _measure_gradients(density, mpp)
    return _estimate_whole(fine, coarse), _estimate_share(fine, coarse, limit_um)


def measure_blurred_share(density: FloatImage, mpp: float, limit_um: float) -> float:
    """Measure which share of a region is out of focus.

    Parameters
    ----------
    density : ndarray of float32, shape (rows, columns)
        Optical density.
    mpp : float
        Pixel size, um/px.
    limit_um : float
        Blur beyond which a part is out of focus.

    Returns
    -------
    float
        Share of the squares of 110 um that have edges; NaN if none has.
    """
    return _estimate_share(*_measure_gradients(density, mpp), limit_um)


def _estimate_whole(fine: FloatImage, coarse: FloatImage) -> float:
    return _estimate_blur(fine, coarse) if coarse.size else float("nan")


def _estimate_share(fine: FloatImage, coarse: FloatImage, limit_um: float) -> float:
    if not coarse.size:
        return float("nan")
    rows, columns = (max(1, round(length * _MPP / _TILE_UM)) for length in coarse.shape)
    blurs = [
        _estimate_blur(a, b)
        for bands in zip(np.array_split(fine, rows), np.array_split(coarse, rows), strict=True)
        for a, b in zip(*(np.array_split(band, columns, axis=1) for band in bands), strict=True)
    ]
    known = [blur for blur in blurs if np.isfinite(blur)]
    return float(np.mean([blur > limit_um for blur in known])) if known else float("nan")


def _measure_gradients(density: FloatImage, mpp: float) -> tuple[FloatImage, FloatImage]:
    """Squares of the gradient after a little and after more blur, per pixel of 0.5 um."""
    image, scale = density, mpp / _MPP
    if not np.isclose(scale, 1.0, rtol=1e-6):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(density, None, fx=scale, fy=scale, interpolation=how), np.float32)
    fine, coarse = (_square_gradient(image, sigma) for sigma in (_FINE_UM / _MPP, _COARSE_UM / _MPP))
    return fine, coarse


def _square_gradient(image: FloatImage, sigma_px: float) -> FloatImage:
    smooth = cv2.GaussianBlur(image, (0, 0), sigma_px)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8) for dx in (1, 0))
    np.multiply(x, x, out=x)
    np.multiply(y, y, out=y)
    return np.asarray(np.add(x, y, out=x), np.float32)


def find_steepest(fine: FloatImage, coarse: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Find the 2 % of the pixels where the coarse gradient is steepest, as far as they are edges at all.

    Parameters
    ----------
    fine, coarse : ndarray of float32, shape (rows, columns)
        Squares of the gradient after a little and after more blur.

    Returns
    -------
    fine, coarse : ndarray of float32, shape (pixels,)
    """
    edges = coarse >= _LEAST_GRADIENT**2
    place = (coarse.size - 1) * (1 - _EDGE_SHARE) - np.count_nonzero(~edges)
    fine, coarse = fine[edges], coarse[edges]
    if place <= 0:  # fewer than that are edges
        return fine, coarse
    steepest = coarse >= np.float32(find_ranks(coarse, [place])[0])
    return fine[steepest], coarse[steepest]


def _estimate_blur(fine: FloatImage, coarse: FloatImage) -> float:
    fine, coarse = find_steepest(fine, coarse)
    if not coarse.size:
        return float("nan")
    ratio = float(fine.mean() / coarse.mean())
    if ratio <= 1:
        return _WIDEST_UM
    square = (_COARSE_UM**2 - ratio * _FINE_UM**2) / (ratio - 1)
    return min(float(np.sqrt(max(square, 0.0))), _WIDEST_UM)
