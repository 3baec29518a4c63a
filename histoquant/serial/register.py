"""Register one section to another, with the error on blocks held back, or say that it cannot be done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from histoquant.serial.match import Blocks, agree_locally, fit_affine, match_blocks
from histoquant.serial.search import Start, choose_mpp, find_starts
from histoquant.serial.transform import Transform, make_affine, map_points
from histoquant.serial.views import VIEW_MPP, View, shrink_view

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TOLERANCE_UM = 20.0
"""Distance within which a place counts as found."""
LEAST_NEAR = 0.35
"""Least share of held-back blocks found within `TOLERANCE_UM`; of unlike sections a tenth is, by chance."""
LEAST_SHARE = 0.15
"""Least share of all blocks of tissue; of unlike sections up to a tenth was, of like ones a fifth."""
LEAST_BLOCKS = 12
_BLOCK_UM = 220.0
_MOST_BLOCKS = 900
_GRID_UM = 100.0
_FOLDS = 5


@dataclass(frozen=True)
class Registration:
    """How two sections of a block lie to one another.

    Attributes
    ----------
    transform : Transform or None
        Fixed to moving, um; None if not registrable.
    reason : str
        Why not; empty if registrable.
    error_um, error_90_um : float
        Median and 90th percentile of the distance at which blocks held back were found.
    near : float
        Share of them found within `TOLERANCE_UM`.
    blocks : int
        How many there were.
    points, errors_um : ndarray of float, shape (n, 2) and (n,)
        Where they lie on the fixed section, and how far each was off.
    share : float
        Those within `TOLERANCE_UM` by all blocks of tissue, found or not.
    landmarks : int
        Pairs marked by hand from which the map was found; 0: by the program alone.
    """

    transform: Transform | None
    reason: str = ""
    error_um: float = np.nan
    error_90_um: float = np.nan
    near: float = 0.0
    blocks: int = 0
    points: Floats = field(default_factory=lambda: np.empty((0, 2)))
    errors_um: Floats = field(default_factory=lambda: np.empty(0))
    share: float = 0.0
    landmarks: int = 0


def register_views(fixed: View, moving: View, bend: bool = True) -> Registration:
    """Register a section to another by its tissue.

    Turns, flips and shifts are searched on a coarse scale; blocks of the best of them are matched on finer
    ones, an affine map fitted to those that agree, and a smooth bend to what remains. Blocks are held back
    in five parts, each predicted from the others: that is the error told.

    Parameters
    ----------
    fixed, moving : View
        The sections.
    bend : bool, optional
        Whether to bend beyond the affine map.

    Returns
    -------
    Registration
    """
    for view, name in ((fixed, "first"), (moving, "second")):
        if view.tissue.sum() * view.mpp**2 < _BLOCK_UM**2 * LEAST_BLOCKS:
            return Registration(None, f"there is too little tissue on the {name} section")
    affine = _settle(fixed, moving)
    if affine is None:
        return Registration(None, "no pose was found in which the sections look alike")
    blocks = _match(fixed, moving, affine, 100.0)
    return _judge(blocks, affine, bend)


def refine_registration(
    fixed: View, moving: View, by_hand: Registration, landmarks: tuple[Floats, Floats]
) -> Registration:
    """Match blocks from a map found by landmarks; the map by hand stays if they lead away from those.

    Parameters
    ----------
    fixed, moving : View
        The sections.
    by_hand : Registration
        From landmarks.
    landmarks : tuple of ndarray of float, shape (n, 2)
        On the fixed and on the moving section, um.

    Returns
    -------
    Registration
        Refined if it is registrable and no further from the landmarks than they are from each other.
    """
    assert by_hand.transform is not None
    found = _judge(_match(fixed, moving, by_hand.transform, 100.0), by_hand.transform, bend=True)
    if found.transform is None:
        return by_hand
    away = float(np.median(np.hypot(*(map_points(found.transform, landmarks[0]) - landmarks[1]).T)))
    if away > max(by_hand.error_um, TOLERANCE_UM):
        return by_hand
    return replace(found, landmarks=by_hand.landmarks)


def predict_error(registration: Registration, points: Floats, neighbours: int = 6) -> Floats:
    """Expected error at places of the fixed section: median over the nearest blocks held back.

    Parameters
    ----------
    registration : Registration
        With a transform.
    points : ndarray of float, shape (n, 2)
        x and y, um.
    neighbours : int, optional
        How many blocks are asked.

    Returns
    -------
    ndarray of float, shape (n,)
        um; inf where the nearest block is further than twice a block's side.
    """
    number = min(neighbours, len(registration.points))
    away, near = cKDTree(registration.points).query(points, number)
    away, near = away.reshape(len(points), number), near.reshape(len(points), number)
    typical = np.median(registration.errors_um[near], axis=1)
    return np.where(away[:, 0] > 2 * _BLOCK_UM, np.inf, typical)


def _settle(fixed: View, moving: View) -> Transform | None:
    """The affine map of the best start, from coarse to fine."""
    coarse = choose_mpp(fixed, moving)
    mpp = max(coarse / 2, VIEW_MPP)
    one, two = shrink_view(fixed, mpp), shrink_view(moving, mpp)
    ranked = [_refine(one, two, start, 6 * coarse) for start in find_starts(fixed, moving)]
    best = max((found for found in ranked if found), key=lambda found: found[1], default=None)
    if best is None:
        return None
    affine, reach_um = best[0], 60.0
    while mpp > VIEW_MPP:
        mpp = max(mpp / 2, VIEW_MPP)
        one, two = shrink_view(fixed, mpp), shrink_view(moving, mpp)
        fitted = fit_affine(_keep_clear(_match(one, two, affine, reach_um)), TOLERANCE_UM)
        affine = fitted[0] if fitted else affine
    return affine


def _refine(one: View, two: View, start: Start, reach_um: float) -> tuple[Transform, float] | None:
    """Affine map near a start, and the correlation of the blocks that agree with it."""
    affine = make_affine(start.matrix)
    score = 0.0
    for _ in range(2):
        blocks = _match(one, two, affine, reach_um)
        tolerance = max(TOLERANCE_UM, 2 * one.mpp)
        fitted = fit_affine(blocks, tolerance)
        if fitted is None:
            return None
        affine, inliers = fitted
        score = float(blocks.score[inliers].sum())
        reach_um /= 2
    return affine, score


def _match(one: View, two: View, transform: Transform, search_um: float) -> Blocks:
    """Match blocks of a side that holds enough pixels, not more than are needed."""
    block_um = max(_BLOCK_UM, 24 * one.mpp)
    area_um2 = float(one.tissue.sum()) * one.mpp**2
    step_um = max(block_um / 2, float(np.sqrt(area_um2 / _MOST_BLOCKS)))
    return match_blocks(one, two, transform, block_um, search_um, step_um)


def _keep_clear(blocks: Blocks) -> Blocks:
    return _select(blocks, blocks.clear)


def _select(blocks: Blocks, which: Mask) -> Blocks:
    return Blocks(blocks.points[which], blocks.found[which], blocks.score[which], blocks.clear[which])


def _judge(blocks: Blocks, affine: Transform, bend: bool) -> Registration:
    """Fit again what blocks tell, with some held back in turn."""
    clear = _keep_clear(blocks)
    about = f"{len(clear.points)} of {len(blocks.points)} blocks of tissue are found again"
    if len(clear.points) < LEAST_BLOCKS:
        return Registration(None, f"only {about}", blocks=len(clear.points))
    part = np.random.default_rng(0).permutation(len(clear.points)) % _FOLDS
    errors = np.full(len(part), np.inf)
    for fold in range(_FOLDS):
        held = part == fold
        fitted = _fit(_select(clear, ~held), affine, bend)
        errors[held] = np.hypot(*(fitted(clear.points[held]) - clear.found[held]).T)
    near = float((errors < TOLERANCE_UM).mean())
    told = Registration(
        None,
        error_um=float(np.median(errors)),
        error_90_um=float(np.quantile(errors, 0.9)),
        near=near,
        blocks=len(errors),
        points=clear.points,
        errors_um=errors,
        share=near * len(errors) / len(blocks.points),
    )
    if near < LEAST_NEAR or told.share < LEAST_SHARE:
        return replace(told, reason=f"{about}, and only {near:.0%} of them where the others say")
    return replace(told, transform=_fit(clear, affine, bend).to_transform())


@dataclass(frozen=True)
class _Fit:
    affine: Transform
    smooth: RBFInterpolator | None
    box: tuple[float, float, float, float]

    def __call__(self, points: Floats) -> Floats:
        straight = points @ self.affine.matrix[:, :2].T + self.affine.matrix[:, 2]
        return np.asarray(straight if self.smooth is None else straight + self.smooth(points))

    def to_transform(self) -> Transform:
        """The same on a grid."""
        if self.smooth is None:
            return self.affine
        left, top, right, bottom = self.box
        x, y = np.arange(left, right + _GRID_UM, _GRID_UM), np.arange(top, bottom + _GRID_UM, _GRID_UM)
        points = np.stack(np.meshgrid(x, y), axis=-1)
        bend = self.smooth(points.reshape(-1, 2)).reshape(points.shape)
        return Transform(self.affine.matrix, bend, left, top, _GRID_UM)


def _fit(blocks: Blocks, affine: Transform, bend: bool) -> _Fit:
    """Affine map of the blocks that agree, and what bends the others that agree with their neighbours."""
    fitted = fit_affine(blocks, TOLERANCE_UM)
    best = fitted[0] if fitted else affine
    low, high = blocks.points.min(0), blocks.points.max(0)
    frame = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    if not bend:
        return _Fit(best, None, frame)
    shifts = blocks.found - blocks.points @ best.matrix[:, :2].T - best.matrix[:, 2]
    agree = agree_locally(blocks.points, shifts, TOLERANCE_UM)
    if agree.sum() < LEAST_BLOCKS:
        return _Fit(best, None, frame)
    smooth = RBFInterpolator(
        blocks.points[agree] / _BLOCK_UM, shifts[agree], neighbors=12, kernel="linear", smoothing=0.5
    )
    return _Fit(best, _Scaled(smooth), frame)


@dataclass(frozen=True)
class _Scaled:
    """An interpolator whose places are in blocks."""

    inner: RBFInterpolator

    def __call__(self, points: Floats) -> Floats:
        return np.asarray(self.inner(points / _BLOCK_UM))
