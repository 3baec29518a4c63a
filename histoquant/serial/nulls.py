"""Cross pairs against chance: markers, or their sites between fibers, moved among fields, with envelopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from histoquant.serial.overlap import RADII_UM
from histoquant.serial.weights import weigh_ground
from histoquant.serial.windows import PIXEL_UM, Window, contains

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]
DRAWS = 399
_SMOOTH_UM = 25.0
# Cells per pixel: far from all ground that bears any there is no excess to tell.
_LEAST = 1e-3


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


def move_sites(
    windows: Sequence[Window], rng: np.random.Generator, radii_um: Floats = RADII_UM, draws: int = DRAWS
) -> Envelope:
    """Put the second marker's sites of each window into the spaces between fibers of another of its block.

    How dense its positive cells are, by how dense they usually are so far from fibers, is smoothed and turned
    or flipped as a map; cells are drawn by this map and by the distance to fibers at the new place, more of
    them where there is more space. Chance then leaves each marker its own sites, and all cells between
    fibers and in wide spaces: what both markers share for that reason is no overlap.

    Parameters
    ----------
    windows, rng, radii_um, draws
        As for `shuffle_markers`.

    Returns
    -------
    Envelope
    """
    first, second = ([window.positive[marker] for window in windows] for marker in (0, 1))
    usual = [two.astype(np.float32) for _, two in weigh_ground(windows)]
    maps = [_map_excess(points, ground) for points, ground in zip(second, usual, strict=True)]
    own = [float((excess * ground).sum()) for excess, ground in zip(maps, usual, strict=True)]
    middles = [_find_middle(window) for window in windows]
    blocks = np.array([window.block for window in windows])

    def draw() -> Floats:
        counts = np.zeros(len(radii_um))
        for block in np.unique(blocks):
            members = np.flatnonzero(blocks == block).tolist()
            pairs, kept = np.zeros(len(radii_um)), 0
            for at, come in zip(members, rng.permutation(members).tolist(), strict=True):
                if not len(second[come]):
                    continue
                turned = _turn_map(maps[come], middles[come], middles[at], usual[at].shape, rng)
                density = turned * usual[at]
                points = _draw_points(density, len(second[come]) / max(own[come], 1e-9), rng)
                kept += len(points)
                pairs += _count(first[at], points, radii_um)
            counts += pairs * sum(len(second[at]) for at in members) / max(kept, 1)
        return counts

    observed = sum(
        (_count(a, b, radii_um) for a, b in zip(first, second, strict=True)), np.zeros(len(radii_um))
    )
    return _judge(observed, draw, radii_um, draws)


def _map_excess(points: Floats, usual: Image) -> Image:
    """Cells by those that are usual, both smoothed, at `PIXEL_UM`."""
    image = np.zeros_like(usual)
    column, row = np.floor(points / PIXEL_UM).astype(int).T
    np.add.at(image, (row, column), 1)
    there, expected = (
        cv2.GaussianBlur(part, (0, 0), _SMOOTH_UM / PIXEL_UM, borderType=cv2.BORDER_CONSTANT)
        for part in (image, usual)
    )
    return np.asarray(there / np.maximum(expected, _LEAST), np.float32)


def _turn_map(
    excess: Image, come: Floats, at: Floats, shape: tuple[int, ...], rng: np.random.Generator
) -> Image:
    """A map about the middle of its window, turned or flipped, put on the middle of another, um."""
    turn = _turn(rng)
    come, at = come / PIXEL_UM - 0.5, at / PIXEL_UM - 0.5
    # To where in the map each pixel of the new place looks.
    warp = np.column_stack([turn, come - turn @ at])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(excess, warp, shape[::-1], flags=flags), np.float32)


def _draw_points(density: Image, scale: float, rng: np.random.Generator) -> Floats:
    """Draw points by a density in pixels, as many as it holds, to a random whole number."""
    share = np.cumsum(density, dtype=float)
    number = int(share[-1] * scale + rng.random())
    if not number:
        return np.empty((0, 2))
    spot = np.searchsorted(share, rng.random(number) * share[-1], side="right").clip(0, share.size - 1)
    row, column = np.divmod(spot, density.shape[1])
    return np.asarray((np.column_stack([column, row]) + rng.random((number, 2))) * PIXEL_UM)


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
