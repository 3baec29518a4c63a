"""Cross pairs against chance: markers shuffled between fields, or labels between cells, with envelopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial.distance import cdist

from histoquant.serial.overlap import RADII_UM
from histoquant.serial.windows import PIXEL_UM, Window, contains

Floats = npt.NDArray[np.float64]
DRAWS = 399
_SMOOTH_UM = 25.0


@dataclass(frozen=True)
class Envelope:
    """Pairs of positive cells of two markers against what chance gives.

    Attributes
    ----------
    radii_um : ndarray of float, shape (n,)
        Radii.
    ratio : ndarray of float, shape (n,)
        Pairs within each radius, by the mean of the draws: the cross-K function over that of chance.
    low, high : ndarray of float, shape (n,)
        Global envelope: of 20 draws one leaves it anywhere.
    p : float
        Of the greatest studentised distance from the mean, two-sided; nan if there are no pairs by chance.
    """

    radii_um: Floats
    ratio: Floats
    low: Floats
    high: Floats
    p: float


def shuffle_markers(
    windows: Sequence[Window], rng: np.random.Generator, radii_um: Floats = RADII_UM, draws: int = DRAWS
) -> Envelope:
    """Put the second marker's cells of each window into another of the same block, turned or flipped.

    Chance then leaves each marker its own sites and undoes only what they have in common.

    Parameters
    ----------
    windows : sequence of Window
        Of any number of blocks.
    rng : Generator
        Source of randomness.
    radii_um : ndarray of float, optional
        Radii.
    draws : int, optional
        How often.

    Returns
    -------
    Envelope
    """
    first = [window.first[window.first_positive] for window in windows]
    second = [window.second[window.second_positive] for window in windows]
    middles = [_find_middle(window) for window in windows]
    blocks = np.array([window.block for window in windows])
    total = sum(map(len, second))

    def draw() -> Floats:
        source = np.arange(len(windows))
        for block in np.unique(blocks):
            own = np.flatnonzero(blocks == block)
            source[own] = rng.permutation(own)
        counts, kept = np.zeros(len(radii_um)), 0
        for at, window in enumerate(windows):
            points = (second[source[at]] - middles[source[at]]) @ _turn(rng) + middles[at]
            points = points[contains(window.mask, points)]
            kept += len(points)
            counts += _count(first[at], points, radii_um)
        # Windows differ a little in shape: what falls outside is made up for.
        return counts * total / max(kept, 1)

    observed = sum(
        (_count(a, b, radii_um) for a, b in zip(first, second, strict=True)), np.zeros(len(radii_um))
    )
    return _judge(observed, draw, radii_um, draws)


def move_labels(
    windows: Sequence[Window], rng: np.random.Generator, radii_um: Floats = RADII_UM, draws: int = DRAWS
) -> Envelope:
    """Put the second marker's sites of each window on the cells of another of its block.

    How many cells are positive, by how many are in the biopsy where they sit (endomysial, perimysial and so
    on), is smoothed and turned or flipped as a map; of the cells that the second section has at the new
    place, as many as were are drawn by the map and by the share of where they sit. Chance then leaves all
    cells where they are and each marker its own sites: what both markers share because cells lie between
    fibers and in infiltrates, and more of them are positive in the perimysium, is no overlap.

    Parameters
    ----------
    windows, rng, radii_um, draws
        As for `shuffle_markers`.

    Returns
    -------
    Envelope
    """
    first = [window.first[window.first_positive] for window in windows]
    second = [window.second[window.second_positive] for window in windows]
    middles = [_find_middle(window) for window in windows]
    blocks = np.array([window.block for window in windows])
    usual = _find_rates(windows)
    maps = [_map_excess(window, rate) for window, rate in zip(windows, usual, strict=True)]
    total = sum(map(len, second))

    def draw() -> Floats:
        source = np.arange(len(windows))
        for block in np.unique(blocks):
            own = np.flatnonzero(blocks == block)
            source[own] = rng.permutation(own)
        counts, kept = np.zeros(len(radii_um)), 0
        for at, window in enumerate(windows):
            come = source[at]
            places = (window.second - middles[at]) @ _turn(rng) + middles[come]
            odds = _look_up(maps[come], places) * usual[at]
            chosen = _draw_cells(odds, len(second[come]), rng)
            kept += len(chosen)
            counts += _count(first[at], window.second[chosen], radii_um)
        return counts * total / max(kept, 1)

    observed = sum(
        (_count(a, b, radii_um) for a, b in zip(first, second, strict=True)), np.zeros(len(radii_um))
    )
    return _judge(observed, draw, radii_um, draws)


def _find_rates(windows: Sequence[Window]) -> list[Floats]:
    """Share of positive cells among those that sit alike in a block, for every cell of the second section."""
    table = pd.concat(
        [
            pd.DataFrame(
                {"window": at, "block": w.block, "place": w.second_place, "positive": w.second_positive}
            )
            for at, w in enumerate(windows)
        ]
    )
    rate = table.groupby(["block", "place"])["positive"].transform("mean").to_numpy(float)
    return [rate[(table["window"] == at).to_numpy()] for at in range(len(windows))]


def _map_excess(window: Window, rate: Floats) -> Floats:
    """Positive cells by those expected of where cells sit, both smoothed, at `PIXEL_UM`."""
    maps = []
    for weight in (window.second_positive.astype(np.float32), rate.astype(np.float32)):
        image = np.zeros(window.mask.shape, np.float32)
        column, row = np.floor(window.second / PIXEL_UM).astype(int).T
        np.add.at(image, (row, column), weight)
        maps.append(cv2.GaussianBlur(image, (0, 0), _SMOOTH_UM / PIXEL_UM, borderType=cv2.BORDER_CONSTANT))
    return np.asarray(maps[0] / np.maximum(maps[1], 1e-9), float)


def _look_up(share: Floats, points: Floats) -> Floats:
    column, row = np.floor(points / PIXEL_UM).astype(int).T
    inside = (row >= 0) & (column >= 0) & (row < share.shape[0]) & (column < share.shape[1])
    return np.where(inside, share[row * inside, column * inside], 0.0)


def _draw_cells(share: Floats, number: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw cells without replacement, each by its share: the largest of log share + Gumbel noise."""
    likely = np.flatnonzero(share > 1e-6)
    keys = np.log(share[likely]) + rng.gumbel(size=len(likely))
    return likely[np.argsort(-keys)[:number]]


def _judge(observed: Floats, draw: Callable[[], Floats], radii_um: Floats, draws: int) -> Envelope:
    """Global test by the greatest studentised distance (Myllymaki et al. 2017, J R Stat Soc B 79:381)."""
    drawn = np.array([draw() for _ in range(draws)])
    every = np.vstack([observed, drawn])
    mean, spread = every.mean(0), every.std(0)
    used = spread > 0
    if not used.any():
        nothing = np.full(len(radii_um), np.nan)
        return Envelope(radii_um, nothing, nothing, nothing, float("nan"))
    distance = (np.abs(every - mean)[:, used] / spread[used]).max(1)
    p = float((distance >= distance[0] - 1e-9).mean())
    reach = float(np.quantile(distance[1:], 0.95)) * spread
    with np.errstate(invalid="ignore", divide="ignore"):
        by = np.where(mean > 0, mean, np.nan)
        return Envelope(radii_um, observed / by, np.maximum(mean - reach, 0) / by, (mean + reach) / by, p)


def _find_middle(window: Window) -> Floats:
    rows, columns = np.nonzero(window.mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) * PIXEL_UM


def _turn(rng: np.random.Generator) -> Floats:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([rng.choice([-1.0, 1.0]), 1.0])


def _count(one: Floats, two: Floats, radii: Floats) -> Floats:
    if not len(one) or not len(two):
        return np.zeros(len(radii))
    ring = np.searchsorted(radii, cdist(one, two).ravel())
    return np.cumsum(np.bincount(ring, minlength=len(radii) + 1)[: len(radii)]).astype(float)
