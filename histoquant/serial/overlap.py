"""Overlap of the positive cells of two markers, in windows that were measured on both sections.

Were the markers' densities known, their overlap would be the correlation of the two, averaged over discs.
Cells are few, so the correlation of counts falls far below it; but pairs of different cells are free of that
noise. With N(r) the pairs within r, beyond what the cells of other windows of the block make expect where
ground lies as far from fibers (see `weigh_ground`),

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
from histoquant.serial.weights import weigh_ground
from histoquant.serial.windows import PIXEL_UM, Window, measure_pairs

Floats = npt.NDArray[np.float64]

RADII_UM = np.array([10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0])
LEAST_CELLS = 10
_KINDS = ((0, 1), (0, 0), (1, 1))


@dataclass(frozen=True)
class Pairs:
    """Pairs of positive cells in every window.

    Attributes
    ----------
    block : ndarray of int, shape (windows,)
        Number of each window's block.
    area : ndarray of float, shape (windows, 2)
        Weighted by how dense either marker's cells are where ground lies so far from fibers, um2.
    cells : ndarray of float, shape (windows, 2)
        Positive cells of either marker.
    expected : ndarray of float, shape (windows, 3, radii)
        Of unit densities so weighted, for the pairs below; see `measure_pairs`.
    pairs : ndarray of float, shape (windows, 3, radii)
        Within each radius: first and second marker, first with itself, second with itself (both ways).
    """

    block: npt.NDArray[np.int64]
    area: Floats
    cells: Floats
    expected: Floats
    pairs: Floats


def count_pairs(windows: Sequence[Window], radii_um: Floats = RADII_UM, even: bool = False) -> Pairs:
    """Count pairs of positive cells in every window, and what the spaces between fibers make expect.

    Parameters
    ----------
    windows : sequence of Window
        At least one.
    radii_um : ndarray of float, shape (n,), optional
        Radii, ascending.
    even : bool, optional
        Take all ground as alike, whatever its distance to fibers.

    Returns
    -------
    Pairs
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(w.block for w in windows))}
    grounds = [(window.mask.astype(float),) * 2 for window in windows] if even else weigh_ground(windows)
    expected, pairs, cells, area = [], [], [], []
    for window, ground in zip(windows, grounds, strict=True):
        one, two = window.positive
        area.append([part.sum() * PIXEL_UM**2 for part in ground])
        expected.append(measure_pairs(*ground, radii_um))
        pairs.append([_count(one, two, radii_um), _count_own(one, radii_um), _count_own(two, radii_um)])
        cells.append([len(one), len(two)])
    return Pairs(
        np.array([names[window.block] for window in windows]),
        np.array(area, float),
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
        nothing = np.full(pairs.expected.shape[2], np.nan)
        return Estimate(nothing, nothing, nothing)
    return jackknife(lambda weight: _ratio(pairs, weight), units, confidence)


def _ratio(pairs: Pairs, weight: Floats) -> Floats:
    cross, one, two = _excess(pairs, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((one > 0) & (two > 0), cross / np.sqrt(one * two), np.nan)


def _excess(pairs: Pairs, weight: Floats) -> Floats:
    """Pairs beyond expectation, shape (3, radii); what is expected comes from other windows of the block."""
    total = np.zeros(pairs.expected.shape[1:])
    for block in np.unique(pairs.block):
        own = pairs.block == block
        w, area, cells = weight[own], pairs.area[own], pairs.cells[own]
        if w.sum() == 0:
            continue
        seen = (w[:, None, None] * pairs.pairs[own]).sum(0)
        reach = (w[:, None, None] * pairs.expected[own]).sum(0)
        total += seen - _density_products(w, area, cells)[:, None] * reach
    return total


def _density_products(weight: Floats, area: Floats, cells: Floats) -> Floats:
    """Products of densities without bias: each factor from another window, per um4."""
    n, a = weight[:, None] * cells, weight[:, None] * area
    alone = (weight > 0).sum() < 2
    products = []
    for i, j in _KINDS:
        if alone:
            # One window only: its own cells, each with every other.
            pairs, places = n[:, i].sum() * (n[:, j].sum() - (i == j)), a[:, i].sum() * a[:, j].sum()
        else:
            pairs = n[:, i].sum() * n[:, j].sum() - (n[:, i] * cells[:, j]).sum()
            places = a[:, i].sum() * a[:, j].sum() - (a[:, i] * area[:, j]).sum()
        products.append(pairs / places if places > 0 else 0.0)
    return np.array(products)


def _count(one: Floats, two: Floats, radii: Floats) -> Floats:
    if not len(one) or not len(two):
        return np.zeros(len(radii))
    return np.asarray(cKDTree(one).count_neighbors(cKDTree(two), radii), float)


def _count_own(points: Floats, radii: Floats) -> Floats:
    return np.asarray(_count(points, points, radii) - len(points))
