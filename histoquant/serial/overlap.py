"""Overlap of the positive cells of two markers, in windows that were measured on both sections.

Were the markers' densities known, their overlap would be the correlation of the two, averaged over discs.
Cells are few, so the correlation of counts falls far below it; but pairs of different cells are free of that
noise. With N(r) the pairs within r, beyond what the cells of other windows of the block make expect,

    overlap(r) = N_AB(r) / sqrt(N_AA(r) N_BB(r)),

which is the ratio of the cumulated covariances of a bivariate Cox process (Diggle 2013, Statistical analysis
of spatial and spatio-temporal point patterns, ch. 6; Moller & Waagepetersen 2004, section 5.8). If either
marker's cells sit in sites and sites are shared, it is the share of sites shared, over the geometric mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from histoquant.serial.intervals import Estimate, jackknife
from histoquant.serial.windows import Window, measure_pairs

Floats = npt.NDArray[np.float64]

RADII_UM = np.array([10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0])
LEAST_CELLS = 10


@dataclass(frozen=True)
class Pairs:
    """Pairs of positive cells in every window.

    Attributes
    ----------
    block : ndarray of int, shape (windows,)
        Number of each window's block.
    area : ndarray of float, shape (windows,)
        um2.
    cells : ndarray of float, shape (windows, 2)
        Positive cells of either marker.
    expected : ndarray of float, shape (windows, radii)
        See `measure_pairs`.
    pairs : ndarray of float, shape (windows, 3, radii)
        Within each radius: first and second marker, first with itself, second with itself (both ways).
    """

    block: npt.NDArray[np.int64]
    area: Floats
    cells: Floats
    expected: Floats
    pairs: Floats


def count_pairs(windows: Sequence[Window], radii_um: Floats = RADII_UM) -> Pairs:
    """Count pairs of positive cells in every window.

    Parameters
    ----------
    windows : sequence of Window
        At least one.
    radii_um : ndarray of float, shape (n,), optional
        Radii, ascending.

    Returns
    -------
    Pairs
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(w.block for w in windows))}
    expected, pairs, cells = [], [], []
    for window in windows:
        one, two = window.first[window.first_positive], window.second[window.second_positive]
        expected.append(measure_pairs(window.mask, radii_um))
        pairs.append([_count(one, two, radii_um), _count_own(one, radii_um), _count_own(two, radii_um)])
        cells.append([len(one), len(two)])
    return Pairs(
        np.array([names[window.block] for window in windows]),
        np.array([window.area_um2 for window in windows]),
        np.array(cells, float),
        np.array(expected),
        np.array(pairs, float),
    )


def estimate_overlap(pairs: Pairs, units: npt.NDArray[np.int64], confidence: float = 0.95) -> Estimate:
    """Estimate the overlap of two markers at every radius, with an interval.

    Parameters
    ----------
    pairs : Pairs
        Of the windows.
    units : ndarray of int, shape (windows,)
        What is left out in turn; see `choose_units`.
    confidence : float, optional
        Of the interval.

    Returns
    -------
    Estimate
        nan where a marker has fewer than ten positive cells, or no sites: its cells lie no closer
        together than chance has it.
    """
    if (pairs.cells.sum(0) < LEAST_CELLS).any():
        nothing = np.full(pairs.expected.shape[1], np.nan)
        return Estimate(nothing, nothing, nothing)
    return jackknife(lambda weight: _ratio(pairs, weight), units, confidence)


def tell_chance(pairs: Pairs, ratio: Floats) -> Floats:
    """Tell which overlap chance alone gives: the estimate, with the cross pairs of chance.

    Parameters
    ----------
    pairs : Pairs
        Of the windows.
    ratio : ndarray of float, shape (radii,)
        Cross pairs by those of chance: `Envelope.ratio` of the same windows.

    Returns
    -------
    ndarray of float, shape (radii,)
        nan where it cannot be told.
    """
    cross, one, two = _excess(pairs, np.ones(len(pairs.block)))
    seen = pairs.pairs[:, 0].sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = cross - seen + seen / ratio
    return _divide(chance, one, two)


def _ratio(pairs: Pairs, weight: Floats) -> Floats:
    return _divide(*_excess(pairs, weight))


def _divide(cross: Floats, one: Floats, two: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((one > 0) & (two > 0), cross / np.sqrt(one * two), np.nan)


def _excess(pairs: Pairs, weight: Floats) -> Floats:
    """Pairs beyond expectation, shape (3, radii); what is expected comes from other windows of the block."""
    total = np.zeros((3, pairs.expected.shape[1]))
    for block in np.unique(pairs.block):
        own = pairs.block == block
        w, area, cells = weight[own], pairs.area[own], pairs.cells[own]
        if w.sum() == 0:
            continue
        seen = (w[:, None, None] * pairs.pairs[own]).sum(0)
        reach = (w[:, None] * pairs.expected[own]).sum(0)
        total += seen - _density_products(w, area, cells)[:, None] * reach
    return total


def _density_products(weight: Floats, area: Floats, cells: Floats) -> Floats:
    """Products of densities without bias: each factor from another window, per um4."""
    sums, squares = (weight[:, None] * cells).sum(0), weight[:, None] * cells
    areas = (weight * area).sum() ** 2 - (weight * area**2).sum()
    if (weight > 0).sum() < 2:
        # One window only: its own cells, each with every other.
        a2 = (weight * area**2).sum()
        first, second = sums
        return np.asarray(np.array([first * second, first * (first - 1), second * (second - 1)]) / a2)
    products = [sums[i] * sums[j] - (squares[:, i] * cells[:, j]).sum() for i, j in ((0, 1), (0, 0), (1, 1))]
    return np.asarray(np.array(products) / areas)


def _count(one: Floats, two: Floats, radii: Floats) -> Floats:
    if not len(one) or not len(two):
        return np.zeros(len(radii))
    return np.asarray(cKDTree(one).count_neighbors(cKDTree(two), radii), float)


def _count_own(points: Floats, radii: Floats) -> Floats:
    return np.asarray(_count(points, points, radii) - len(points))
