"""Blocks of one section found again on another, warped near it: how far each must still move."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from histoquant.serial.transform import Transform, make_affine, map_points
from histoquant.serial.views import View, flatten_view

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.float32]
_MIN_TISSUE = 0.7
_PEAK_PX = 4


class Blocks(NamedTuple):
    """Blocks that were looked for.

    Attributes
    ----------
    points : ndarray of float, shape (n, 2)
        Middle of each block on the fixed section, um.
    found : ndarray of float, shape (n, 2)
        Where it was found on the moving one, um.
    score : ndarray of float, shape (n,)
        Correlation of contrasts there.
    clear : ndarray of bool, shape (n,)
        Whether no other place is nearly as like.
    """

    points: Floats
    found: Floats
    score: Floats
    clear: Mask


def warp_view(moving: View, fixed: View, transform: Transform) -> View:
    """The moving section as it lies on the grid of the fixed one.

    Parameters
    ----------
    moving, fixed : View
        The sections.
    transform : Transform
        Fixed to moving.

    Returns
    -------
    View
        Without tissue where the moving slide does not reach.
    """
    rows, columns = np.indices(fixed.tissue.shape)
    points = np.column_stack([columns.ravel(), rows.ravel()]).astype(float) * fixed.mpp + fixed.mpp / 2
    place = (map_points(transform, points) / moving.mpp - 0.5).astype(np.float32)
    x, y = (place[:, axis].reshape(fixed.tissue.shape) for axis in (0, 1))
    density = cv2.remap(moving.density, x, y, cv2.INTER_LINEAR)
    tissue = cv2.remap(moving.tissue.astype(np.uint8), x, y, cv2.INTER_NEAREST)
    return View(np.asarray(density, np.float32), tissue > 0, fixed.mpp)


def match_blocks(
    fixed: View, moving: View, transform: Transform, block_um: float, search_um: float, step_um: float
) -> Blocks:
    """Look for blocks of the fixed section on the moving one, near where a transform puts them.

    Parameters
    ----------
    fixed, moving : View
        The sections, at about the same pixel size.
    transform : Transform
        Fixed to moving, about right.
    block_um, search_um, step_um : float
        Side of a block, how far it is looked for to each side, distance of blocks.

    Returns
    -------
    Blocks
        Those with tissue on both sections.
    """
    warped = warp_view(moving, fixed, transform)
    first, second = flatten_view(fixed), flatten_view(warped)
    half, reach = round(block_um / fixed.mpp / 2), max(round(search_um / fixed.mpp), 2)
    centres = _list_centres(fixed.tissue, warped.tissue, half, step_um / fixed.mpp)
    padded = cv2.copyMakeBorder(second, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    shifts, scores, clear = np.zeros((len(centres), 2)), np.zeros(len(centres)), np.zeros(len(centres), bool)
    for at, (row, column) in enumerate(centres):
        top, left = row - half, column - half
        block = first[top : top + 2 * half, left : left + 2 * half]
        around = padded[top : top + 2 * (half + reach), left : left + 2 * (half + reach)]
        surface = np.asarray(cv2.matchTemplate(around, block, cv2.TM_CCOEFF_NORMED), np.float32)
        shifts[at], scores[at], clear[at] = _read_peak(surface)
    points = (centres[:, ::-1] * fixed.mpp).astype(float)
    found = map_points(transform, points + (shifts - reach) * fixed.mpp)
    return Blocks(points, found, scores, clear)


def fit_affine(blocks: Blocks, tolerance_um: float) -> tuple[Transform, Mask] | None:
    """Fit an affine map to blocks of which some are found in the wrong place.

    Parameters
    ----------
    blocks : Blocks
        At least three.
    tolerance_um : float
        How far a block found in the right place may lie off.

    Returns
    -------
    tuple of Transform and ndarray of bool, or None
        And which blocks agree with it; None if no three do, or the map is none of a section of tissue
        (stretched by more than a fifth).
    """
    if len(blocks.points) < 6:
        return None
    matrix, inliers = cv2.estimateAffine2D(
        blocks.points, blocks.found, method=cv2.RANSAC, ransacReprojThreshold=tolerance_um, maxIters=3000
    )
    if matrix is None:
        return None
    stretch = np.linalg.svd(matrix[:, :2], compute_uv=False)
    if stretch.max() > 1.2 or stretch.min() < 1 / 1.2:
        return None
    return make_affine(matrix), inliers.ravel().astype(bool)


def agree_locally(points: Floats, shifts: Floats, tolerance_um: float, neighbours: int = 8) -> Mask:
    """Whether at least half of the blocks around one moved as it did.

    Parameters
    ----------
    points, shifts : ndarray of float, shape (n, 2)
        Where blocks are and how far they moved, um.
    tolerance_um : float
        How far two moves may differ, along x and y together.
    neighbours : int, optional
        How many blocks are asked.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    if len(points) < 4:
        return np.zeros(len(points), bool)
    number = min(neighbours, len(points) - 1)
    _, near = cKDTree(points).query(points, number + 1)
    apart = np.hypot(*np.moveaxis(shifts[near[:, 1:]] - shifts[:, None], -1, 0))
    return np.asarray((apart < tolerance_um).sum(1) >= number / 2)


def _list_centres(first: Mask, second: Mask, half: int, step_px: float) -> npt.NDArray[np.int64]:
    """Rows and columns of blocks that are mostly tissue on both."""
    share = [
        cv2.blur(mask.astype(np.float32), (2 * half, 2 * half), borderType=cv2.BORDER_CONSTANT)
        for mask in (first, second)
    ]
    rows = np.arange(half, first.shape[0] - half, max(step_px, 1)).astype(int)
    columns = np.arange(half, first.shape[1] - half, max(step_px, 1)).astype(int)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    enough = [part[grid[:, 0], grid[:, 1]] >= _MIN_TISSUE for part in share]
    return np.asarray(grid[enough[0] & enough[1]])


def _read_peak(surface: Image) -> tuple[Floats, float, bool]:
    """Place of the highest peak to a part of a pixel, its height, and whether it stands alone."""
    _, height, _, (x, y) = cv2.minMaxLoc(surface)
    rest = surface.copy()
    rest[max(y - _PEAK_PX, 0) : y + _PEAK_PX + 1, max(x - _PEAK_PX, 0) : x + _PEAK_PX + 1] = -1
    second = float(rest.max())
    inner = 0 < x < surface.shape[1] - 1 and 0 < y < surface.shape[0] - 1
    place = np.array([x, y], float)
    if inner:
        place += [_refine(surface[y, x - 1 : x + 2]), _refine(surface[y - 1 : y + 2, x])]
    return place, float(height), bool(inner and height > 0.15 and height > 1.15 * second)


def _refine(three: Image) -> float:
    """Vertex of the parabola through three values, the middle one highest."""
    low, middle, high = (float(value) for value in three)
    bend = low - 2 * middle + high
    return 0.5 * (low - high) / bend if bend < 0 else 0.0
