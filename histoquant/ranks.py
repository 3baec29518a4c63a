"""Ranks: medians and other quantiles of many values, without putting more in order than is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
Values = npt.NDArray[np.floating[Any]]


def find_quantiles(values: FloatImage, shares: Sequence[float]) -> list[float]:
    """Find quantiles as `np.quantile` does, several times faster.

    Parameters
    ----------
    values : ndarray of float32, shape (values,)
        At least one, none of them NaN.
    shares : sequence of float
        Rising, 0 to 1.

    Returns
    -------
    list of float

    Examples
    --------
    >>> find_quantiles(np.float32([4, 1, 3, 2]), (0.5, 1.0))
    [2.5, 4.0]
    """
    return find_ranks(values, [(len(values) - 1) * share for share in shares])


def find_ranks(values: FloatImage, places: Sequence[float]) -> list[float]:
    """Find what stands at places of the ordered values, each looked for above the one before.

    Parameters
    ----------
    values : ndarray of float32, shape (values,)
        At least one, none of them NaN.
    places : sequence of float
        Rising, from 0 to the number of values less one; between two values it is interpolated.

    Returns
    -------
    list of float

    Examples
    --------
    >>> find_ranks(np.float32([4, 1, 3, 2]), [0.25, 3])
    [1.25, 4.0]
    """
    found, rest, passed = [], values, 0
    for place in places:
        rest = np.partition(rest, int(place) - passed)[int(place) - passed :]
        passed, beyond = int(place), place % 1
        low, high = rest[0], rest[1:].min() if beyond else rest[0]
        step = float(high - low)
        found.append(float(high) - step * (1 - beyond) if beyond >= 0.5 else float(low) + step * beyond)
    return found


def find_quantile(values: Values, share: float) -> float:
    """Find one quantile as `np.quantile` does, to the bit: in the precision of the values, not in double.

    Parameters
    ----------
    values : ndarray of float
        Of any shape, not empty, without NaN.
    share : float
        0 to 1.

    Returns
    -------
    float
        Of the precision of the values.

    Examples
    --------
    >>> find_quantile(np.array([4.0, 1.0, 2.0]), 0.75)
    3.0
    """
    place = share * (values.size - 1)
    low, high = _select(values, int(place))
    part, step = place - int(place), high - low
    # From the nearer end, as numpy does.
    return float(low + step * part if part < 0.5 else high - step * (1 - part))


def find_median(values: Values) -> float:
    """Find the median as `np.median` does, to the bit; what holds for `find_quantile` holds here.

    Examples
    --------
    >>> find_median(np.array([4.0, 1.0, 2.0, 3.0]))
    2.5
    """
    low, high = _select(values, (values.size - 1) // 2)
    return float(low if values.size % 2 else (low + high) / 2)


def rank_groups(
    values: FloatImage, groups: npt.NDArray[np.int64], number: int, share: float
) -> npt.NDArray[np.float64]:
    """Find a quantile of every group.

    Parameters
    ----------
    values : ndarray of float32, shape (values,)
        None of them NaN.
    groups : ndarray of int64, same shape
        The group of each, 0 to `number` - 1.
    number : int
        How many groups there are.
    share : float
        0 to 1.

    Returns
    -------
    ndarray of float64, shape (number,)
        NaN for a group without a value.

    Examples
    --------
    >>> rank_groups(np.float32([4, -1, 2, 3]), np.array([0, 2, 2, 0]), 3, 0.25).tolist()
    [3.25, nan, -0.25]
    """
    # Group and value as one whole number, whose order is that of both, are sorted by vectors.
    bits = values.view(np.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = np.sort((groups << 32) + rising)
    count = np.bincount(groups, minlength=number)
    filled = np.flatnonzero(count)
    place = share * (count[filled] - 1)
    at = (np.cumsum(count) - count)[filled] + place.astype(np.int64)
    rising = keys[[at, np.minimum(at + 1, len(keys) - 1)]].astype(np.int32)
    low, high = (rising ^ ((rising >> 31) & 0x7FFFFFFF)).view(np.float32).astype(np.float64)
    part = place % 1
    found = np.full(number, np.nan)
    found[filled] = np.where(part > 0, low + (high - low) * part, low)
    return found


def _select(values: Values, at: int) -> tuple[np.floating[Any], np.floating[Any]]:
    """The value at a place in the order, and the next."""
    # A selection of one place is vectorised, one of several is not.
    parted = np.partition(values.ravel(), at)
    return parted[at], parted[min(at + 1, values.size - 1) :].min()
