"""Intervals by the jackknife, over blocks where there are enough of them, else over windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
BLOCKS_FOR_UNITS = 6


class Estimate(NamedTuple):
    """Values with their intervals; nan where nothing can be said."""

    value: Floats
    low: Floats
    high: Floats


def choose_units(blocks: Sequence[str]) -> npt.NDArray[np.int64]:
    """Number the units that are left out in turn: blocks if there are six or more, else windows.

    Examples
    --------
    >>> choose_units(["a", "a", "b"]).tolist()
    [0, 1, 2]
    >>> choose_units(list("aabcdef")).tolist()
    [0, 0, 1, 2, 3, 4, 5]
    """
    names, numbers = np.unique(np.asarray(blocks), return_inverse=True)
    enough = len(names) >= BLOCKS_FOR_UNITS
    return np.asarray(numbers if enough else np.arange(len(numbers)), np.int64)


def jackknife(
    measure: Callable[[Floats], Floats], units: npt.NDArray[np.int64], confidence: float = 0.95
) -> Estimate:
    """Estimate with bias and variance by leaving out each unit in turn (Efron & Tibshirani 1993, ch. 11).

    Parameters
    ----------
    measure : callable
        Takes weights of the windows, 1 or 0, and returns values.
    units : ndarray of int, shape (windows,)
        See `choose_units`.
    confidence : float, optional
        Of the interval, which is Student's t on the pseudo-values.

    Returns
    -------
    Estimate
        nan with fewer than three units, or where a value does not exist without some unit.
    """
    whole = measure(np.ones(len(units)))
    numbers = np.unique(units)
    n = len(numbers)
    if n < 3:
        nothing = np.full(len(whole), np.nan)
        return Estimate(nothing, nothing, nothing)
    without = np.array([measure((units != number).astype(float)) for number in numbers])
    pseudo = n * whole - (n - 1) * without
    value = pseudo.mean(0)
    half = stats.t.ppf(0.5 + confidence / 2, n - 1) * pseudo.std(0, ddof=1) / np.sqrt(n)
    return Estimate(value, value - half, value + half)
