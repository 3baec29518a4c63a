"""Coarse search: every turn, flip and shift of one section against another."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from histoquant.serial.views import View, flatten_view, shrink_view

Floats = npt.NDArray[np.float64]
_RADIUS_PX = 110
_FINEST_MPP, _COARSEST_MPP = 10.0, 48.0
_STEP_PX = 2.5


@dataclass(frozen=True)
class Start:
    """A pose found by the coarse search.

    Attributes
    ----------
    matrix : ndarray of float, shape (2, 3)
        Fixed to moving, um.
    score : float
        Correlation of contrasts, summed over the overlap and scaled by the tissue of both.
    """

    matrix: Floats
    score: float


def find_starts(fixed: View, moving: View, number: int = 8) -> tuple[Start, ...]:
    """Find the poses in which two sections look most alike.

    Turns all around, both sides up; shifts by Fourier transform.

    Parameters
    ----------
    fixed, moving : View
        The sections, with tissue on both.
    number : int, optional
        How many poses to return.

    Returns
    -------
    tuple of Start
        The best first; no two of them neighbours.
    """
    mpp = choose_mpp(fixed, moving)
    one, two = shrink_view(fixed, mpp), shrink_view(moving, mpp)
    first, second = flatten_view(one), flatten_view(two)
    side = fft.next_fast_len(_measure_reach(one) + _measure_reach(two) + 4, real=True)
    centre_1, centre_2 = _find_centre(one), _find_centre(two)
    still = _centre_image(first, centre_1, np.eye(2), side)
    spectrum = np.conj(fft.rfft2(still))
    scale = float(np.linalg.norm(still)) * max(float(np.linalg.norm(second)), 1e-9)
    found = []
    radius = max(_measure_reach(one), _measure_reach(two)) / 2
    for linear in _list_poses(_STEP_PX / radius):
        turned = _centre_image(second, centre_2, linear, side)
        surface = fft.irfft2(fft.rfft2(turned) * spectrum, (side, side))
        row, column = np.unravel_index(int(surface.argmax()), surface.shape)
        shift = np.array([column, row], float)
        shift[shift > side / 2] -= side
        found.append((float(surface[row, column]) / scale, linear, shift))
    found.sort(key=lambda item: -item[0])
    starts: list[Start] = []
    scales = one.mpp, two.mpp
    for score, linear, shift in found:
        matrix = _to_um(linear, shift, centre_1, centre_2, scales)
        if all(_differ(matrix, other.matrix, fixed) for other in starts):
            starts.append(Start(matrix, score))
        if len(starts) == number:
            break
    return tuple(starts)


def choose_mpp(fixed: View, moving: View) -> float:
    """Pixel size at which the larger section is about two hundred pixels wide."""
    reach_um = max(_measure_reach(view) * view.mpp for view in (fixed, moving)) / 2
    return float(np.clip(reach_um / _RADIUS_PX, _FINEST_MPP, _COARSEST_MPP))


def _list_poses(step: float) -> list[Floats]:
    turns = np.arange(0, 2 * np.pi, step)
    flip = np.diag([-1.0, 1.0])
    turned = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in turns]
    return [*turned, *(matrix @ flip for matrix in turned)]


def _measure_reach(view: View) -> int:
    """Width of a circle about the middle that holds the tissue, px."""
    rows, columns = np.nonzero(view.tissue)
    centre = _find_centre(view)
    return int(2 * np.hypot(columns - centre[0], rows - centre[1]).max()) + 1


def _find_centre(view: View) -> Floats:
    rows, columns = np.nonzero(view.tissue)
    return np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2


def _centre_image(
    image: npt.NDArray[np.float32], centre: Floats, linear: Floats, side: int
) -> npt.NDArray[np.float32]:
    """Image about its centre, seen through a turn: what lies at `linear @ offset` comes to `offset`."""
    middle = np.array([side // 2, side // 2], float)
    warp = np.column_stack([linear, centre - linear @ middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, warp, (side, side), flags=flags), np.float32)


def _to_um(
    linear: Floats, shift: Floats, centre_1: Floats, centre_2: Floats, mpp: tuple[float, float]
) -> Floats:
    """Pose in pixels to a matrix in um: offset o of the fixed section shows what lies at o + shift."""
    origin = (centre_2 + 0.5) * mpp[1] + linear @ (shift * mpp[1] - (centre_1 + 0.5) * mpp[0])
    return np.column_stack([linear, origin])


def _differ(one: Floats, two: Floats, view: View) -> bool:
    """Whether two poses put the section at different places: 100 um or more apart somewhere."""
    height, width = (side * view.mpp for side in view.tissue.shape)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    return bool(np.hypot(*(corners @ (one - two).T).T).max() > 100)
