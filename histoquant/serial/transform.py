"""Where a place of one section lies on another: an affine map and what bends beside it. Micrometres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from histoquant.errors import RegistrationError

Floats = npt.NDArray[np.float64]
_ROUNDS = 30


@dataclass(frozen=True)
class Transform:
    """Places of the fixed section to places of the moving one.

    Attributes
    ----------
    matrix : ndarray of float, shape (2, 3)
        Affine part: linear map of x and y, and shift, um.
    bend : ndarray of float, shape (rows, columns, 2)
        Added to it, um: x and y on a square grid over the fixed section; no rows if there is none.
    left_um, top_um, step_um : float
        First grid point and distance of grid points. Beyond the grid its rim goes on.
    """

    matrix: Floats
    bend: Floats
    left_um: float = 0.0
    top_um: float = 0.0
    step_um: float = 1.0

    @property
    def flips(self) -> bool:
        """Whether one section lies upside down against the other."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def angle_deg(self) -> float:
        """Turn of the moving section against the fixed one, after a flip of x if there is one."""
        x, y = self.matrix[:, 1] if self.flips else self.matrix[:, 0]
        return float(np.degrees(np.arctan2(-x, y) if self.flips else np.arctan2(y, x)))


def make_affine(matrix: npt.ArrayLike) -> Transform:
    """Make a transform without bend.

    Examples
    --------
    >>> shift = make_affine([[1, 0, 5], [0, 1, -2]])
    >>> map_points(shift, np.array([[1.0, 1.0]]))
    array([[ 6., -1.]])
    """
    return Transform(np.asarray(matrix, float), np.empty((0, 0, 2)))


def map_points(transform: Transform, points: Floats) -> Floats:
    """Map places of the fixed section to the moving one.

    Parameters
    ----------
    transform : Transform
        Between them.
    points : ndarray of float, shape (n, 2)
        x and y, um.

    Returns
    -------
    ndarray of float, shape (n, 2)
    """
    points = np.asarray(points, float).reshape(-1, 2)
    straight = points @ transform.matrix[:, :2].T + transform.matrix[:, 2]
    return np.asarray(straight + _bend_at(transform, points))


def unmap_points(transform: Transform, points: Floats) -> Floats:
    """Map places of the moving section back to the fixed one, by iteration to 0.01 um.

    Parameters
    ----------
    transform : Transform
        Between them.
    points : ndarray of float, shape (n, 2)
        x and y on the moving section, um.

    Returns
    -------
    ndarray of float, shape (n, 2)
        nan where the bend folds over itself and no place is found.
    """
    points = np.asarray(points, float).reshape(-1, 2)
    inverse = np.linalg.inv(transform.matrix[:, :2])
    straight = (points - transform.matrix[:, 2]) @ inverse.T
    found = straight
    for _ in range(_ROUNDS):
        found = straight - _bend_at(transform, found) @ inverse.T
    away = np.hypot(*(map_points(transform, found) - points).T) if len(points) else np.empty(0)
    return np.where((away < 0.5)[:, None], found, np.nan)


def encode_transform(transform: Transform) -> dict[str, Any]:
    """Write a transform as plain values."""
    return {
        "matrix": transform.matrix.round(6).tolist(),
        "bend_um": transform.bend.round(2).tolist(),
        **{name: getattr(transform, name) for name in ("left_um", "top_um", "step_um")},
    }


def decode_transform(values: Mapping[str, Any]) -> Transform:
    """Read a transform from plain values.

    Raises
    ------
    RegistrationError
        They are not those of a transform.
    """
    try:
        matrix = np.array(values["matrix"], float).reshape(2, 3)
        bend = np.array(values["bend_um"], float)
        bend = bend if bend.size else np.empty((0, 0, 2))
        grid = (float(values[name]) for name in ("left_um", "top_um", "step_um"))
        if bend.ndim != 3 or bend.shape[2] != 2:
            raise ValueError(f"bend_um has the shape {bend.shape}")
        return Transform(matrix, bend, *grid)
    except (LookupError, TypeError, ValueError) as error:
        raise RegistrationError(f"holds no transform ({error})", fix="register the sections again") from error


def _bend_at(transform: Transform, points: Floats) -> Floats:
    if not transform.bend.size or not len(points):
        return np.zeros_like(points)
    corner = np.array([transform.left_um, transform.top_um])
    column, row = ((points - corner) / transform.step_um).T
    parts = [
        map_coordinates(transform.bend[..., axis], [row, column], order=1, mode="nearest") for axis in (0, 1)
    ]
    return np.column_stack(parts)
