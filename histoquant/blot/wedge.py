"""A step wedge: what density each pixel value of a scan stands for, where film or scanner is not linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from histoquant.errors import StudyError

FloatImage = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Gray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

LEAST_STEPS = 4
# Where the scan darkens by less than this share of its steepest rise, noise is taken for density.
_FLAT_SHARE = 0.2


class Wedge(NamedTuple):
    """The steps that can be told apart, from pale to dark.

    Attributes
    ----------
    darkness : ndarray of float64, shape (steps,)
        -log10 of the pixel value.
    od : ndarray of float64, shape (steps,)
        Density of the step.
    left_out : int
        Dark steps that the scan hardly tells apart.
    """

    darkness: Floats
    od: Floats
    left_out: int = 0

    @property
    def darkest(self) -> float:
        """Pixel value below which the density is not known."""
        return float(10 ** -self.darkness[-1])

    @property
    def palest(self) -> float:
        """Pixel value of the palest step."""
        return float(10 ** -self.darkness[0])


def fit_wedge(values: Sequence[float], od: Sequence[float], where: object = "step wedge") -> Wedge:
    """Fit a curve that only rises through the steps of a wedge.

    Steps out of order by noise are set to their mean (isotonic regression); between steps the curve is a
    monotone cubic (Fritsch and Carlson 1980). The dark end, where film or scanner saturates, is cut off
    where the curve has fallen to a fifth of its steepest rise.

    Parameters
    ----------
    values : sequence of float
        Mean pixel value of each step, in the units of the scan.
    od : sequence of float
        Density of each step.
    where : object, optional
        File, for messages.

    Returns
    -------
    Wedge

    Raises
    ------
    StudyError
        Fewer than four steps differ or can be told apart, or denser ones are not darker.

    Examples
    --------
    >>> fit_wedge([1000, 250, 100, 10, 9.9], [0.0, 0.6, 1.0, 2.0, 3.0]).left_out
    1
    """
    order = np.argsort(np.asarray(od, float), kind="stable")
    density = np.asarray(od, float)[order]
    darkness = -np.log10(np.asarray(values, float)[order])
    density, at = np.unique(density, return_inverse=True)
    darkness = np.bincount(at, darkness) / np.bincount(at)
    if len(density) < LEAST_STEPS:
        raise StudyError(
            f"has {len(density)} different steps", where, f"give {LEAST_STEPS} or more, from clear to dark"
        )
    rising = np.asarray(isotonic_regression(darkness).x, float)
    if rising[-1] - rising[0] < 0.5 * float(np.ptp(darkness)) or np.ptp(darkness) == 0:
        raise StudyError("has pixel values that do not fall with density", where, "check the two columns")
    slopes = np.diff(rising) / np.diff(density)
    flat = slopes < _FLAT_SHARE * slopes.max()
    steepest = int(np.argmax(slopes))
    dark = np.flatnonzero(flat[steepest:])
    end = steepest + int(dark[0]) + 1 if len(dark) else len(density)
    keep = np.concatenate([[True], np.diff(rising[:end]) > 0])
    if keep.sum() < LEAST_STEPS:
        raise StudyError(
            f"tells only {int(keep.sum())} steps apart", where, "scan a wedge of more steps, less dark ones"
        )
    return Wedge(rising[:end][keep], density[:end][keep], len(density) - end)


def apply_wedge(image: Gray, wedge: Wedge) -> FloatImage:
    """Density of every pixel.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (rows, columns)
        A scan made as the wedge's was.
    wedge : Wedge
        The curve.

    Returns
    -------
    ndarray of float32, same shape
        OD. Beyond the darkest step the density of that step, which is too low; paler than the palest one on
        the straight line through the first two.

    Examples
    --------
    >>> wedge = Wedge(np.array([-3.0, -2.0, -1.5, -1.0]), np.array([0.0, 1.0, 1.5, 2.0]))
    >>> apply_wedge(np.array([[2000, 1000, 100, 1]], np.uint16), wedge).round(2)
    array([[-0.3,  0. ,  1. ,  2. ]], dtype=float32)
    """
    levels = np.arange(int(np.iinfo(image.dtype).max) + 1)
    darkness = -np.log10(np.maximum(levels, 1))
    inside = np.clip(darkness, wedge.darkness[0], wedge.darkness[-1])
    curve = PchipInterpolator(wedge.darkness, wedge.od)(inside)
    slope = (wedge.od[1] - wedge.od[0]) / (wedge.darkness[1] - wedge.darkness[0])
    curve += slope * np.minimum(darkness - wedge.darkness[0], 0)
    return np.asarray(curve, np.float32)[image]
