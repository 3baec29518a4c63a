# This module touches files: it keeps landmarks in a run's folder.
"""Landmarks: places that a person found on two sections of a block, and the map that they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from histoquant.errors import RegistrationError
from histoquant.results import open_run, read_json, write_json
from histoquant.serial.register import TOLERANCE_UM, Registration
from histoquant.serial.transform import make_affine, map_points

Floats = npt.NDArray[np.float64]
STORE = "landmarks.json"
LEAST = 4
"""Pairs below which none can be predicted from the others, so that no error is known."""
_GRID_UM = 200.0
_MOST_STRETCH = 1.5


@dataclass(frozen=True)
class Landmarks:
    """What a person marked in a block.

    Attributes
    ----------
    reference : str
        ID of the section to which the others are registered.
    pairs : dict of str to tuple of ndarray of float, shape (n, 2)
        By section: places (x, y) on the reference and the same on the section, um from each slide's corner.
    """

    reference: str
    pairs: dict[str, tuple[Floats, Floats]]


def fit_landmarks(fixed: npt.ArrayLike, moving: npt.ArrayLike) -> Registration:
    """Register a section by landmarks: the affine map that fits them best.

    Parameters
    ----------
    fixed, moving : array_like of float, shape (n, 2)
        Places (x, y) on the reference and on the section, um; four at least.

    Returns
    -------
    Registration
        Its errors are those of each landmark, predicted from the others. The median one holds for all
        places between the landmarks.

    Raises
    ------
    RegistrationError
        They are too few, lie on a line, or would stretch the tissue by more than half.

    Examples
    --------
    >>> corners = [[0, 0], [1000, 0], [0, 1000], [1000, 1000]]
    >>> found = fit_landmarks(corners, [[50, 0], [1050, 0], [50, 1000], [1050, 1000]])
    >>> found.error_um < 1e-6, found.landmarks
    (True, 4)
    """
    one, two = (np.asarray(places, float).reshape(-1, 2) for places in (fixed, moving))
    if len(one) < LEAST or len(one) != len(two):
        raise RegistrationError(
            f"{min(len(one), len(two))} pairs of landmarks are too few",
            fix=f"mark {LEAST} places or more on both sections, far apart",
        )
    matrix = _fit(one, two)
    others = [np.arange(len(one)) != held for held in range(len(one))]
    predicted = np.array(
        [map_points(make_affine(_fit(one[kept], two[kept])), one[~kept])[0] for kept in others]
    )
    errors = np.hypot(*(predicted - two).T)
    typical = float(np.median(errors))
    between = _list_between(one)
    return Registration(
        make_affine(matrix),
        error_um=typical,
        error_90_um=float(np.quantile(errors, 0.9)),
        near=float((errors < TOLERANCE_UM).mean()),
        blocks=len(one),
        points=np.concatenate([one, between]),
        errors_um=np.concatenate([errors, np.full(len(between), typical)]),
        landmarks=len(one),
    )


def read_landmarks(folder: Path) -> dict[str, Landmarks]:
    """Read the landmarks kept in `serial/` of a run's folder, by title of the block; none if there are none.

    Raises
    ------
    RegistrationError
        The file is damaged.
    """
    path = folder / STORE
    if not path.exists():
        return {}
    stored = read_json(path)
    try:
        return {str(title): _decode(values) for title, values in stored.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RegistrationError(
            "is damaged", path, "restore it, or remove it and mark the landmarks again"
        ) from error


def save_landmarks(run: Path, title: str, landmarks: Landmarks) -> None:
    """Keep the landmarks of a block, for the next `histoquant serial` of the folder.

    Parameters
    ----------
    run : Path
        A run's folder.
    title : str
        Of the block.
    landmarks : Landmarks
        In the place of older ones; sections without a pair are left to the program again.

    Raises
    ------
    RegistrationError
        Those of a section give no map; nothing is written.
    ResultsError
        Another run holds the folder.
    StorageError
        The disk is full or the folder is gone.
    """
    pairs = {key: places for key, places in landmarks.pairs.items() if len(places[0])}
    for places in pairs.values():
        fit_landmarks(*places)
    with open_run(run):
        folder = run / "serial"
        folder.mkdir(exist_ok=True)
        kept = {key: encode_landmarks(one) for key, one in read_landmarks(folder).items() if key != title}
        if pairs:
            kept[title] = encode_landmarks(Landmarks(landmarks.reference, pairs))
        write_json(folder / STORE, kept)


def encode_landmarks(landmarks: Landmarks) -> dict[str, Any]:
    """Write landmarks as plain values."""
    return {
        "reference": landmarks.reference,
        "pairs_um": {
            key: {"reference": fixed.round(2).tolist(), "section": moving.round(2).tolist()}
            for key, (fixed, moving) in landmarks.pairs.items()
        },
    }


def _decode(values: Mapping[str, Any]) -> Landmarks:
    pairs = {}
    for key, places in values["pairs_um"].items():
        fixed, moving = (np.array(places[side], float).reshape(-1, 2) for side in ("reference", "section"))
        if len(fixed) != len(moving):
            raise ValueError(f"{key} has {len(fixed)} places on the reference and {len(moving)} of its own")
        pairs[str(key)] = (fixed, moving)
    return Landmarks(str(values["reference"]), pairs)


def _fit(fixed: Floats, moving: Floats) -> Floats:
    """Least squares; shape (2, 3)."""
    middle = fixed.mean(axis=0)
    places = np.column_stack([fixed - middle, np.ones(len(fixed))])
    if _is_line(fixed):
        raise RegistrationError("the landmarks lie on a line", fix="mark places far apart in all directions")
    solved = np.linalg.lstsq(places, moving, rcond=None)[0]
    linear = solved[:2].T
    stretch = np.linalg.svd(linear, compute_uv=False)
    if stretch.max() > _MOST_STRETCH or stretch.min() < 1 / _MOST_STRETCH:
        raise RegistrationError(
            f"the landmarks would stretch the tissue {stretch.max():.2f} and {stretch.min():.2f} times",
            fix="look which pair is not the same place, and remove it",
        )
    return np.column_stack([linear, solved[2] - linear @ middle])


def _is_line(points: Floats) -> bool:
    wide = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(wide[-1] < 0.05 * wide[0])


def _list_between(points: Floats) -> Floats:
    """A grid over what the landmarks enclose."""
    low, high = points.min(axis=0), points.max(axis=0)
    axes = (np.arange(low[axis], high[axis], _GRID_UM) for axis in (0, 1))
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    inside = shapely.intersects_xy(shapely.MultiPoint(points).convex_hull, *grid.T)
    return np.asarray(grid[inside], float)
