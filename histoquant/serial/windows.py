"""Windows: where two sections were both measured, with the cells of each, on the first one's ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import fft

from histoquant.geometry import Field, contains_points
from histoquant.serial.spaces import FINE_UM, Classes, Spaces, lay_spaces, restore_missed
from histoquant.serial.transform import Transform, map_points, unmap_points

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PIXEL_UM = 5.0
"""Pixel size of a window's mask."""
LEAST_MM2 = 0.02
"""Smaller windows are left out."""
_FINE = round(PIXEL_UM / FINE_UM)


@dataclass(frozen=True)
class Window:
    """A place that is a measured field on two sections.

    Attributes
    ----------
    block : str
        Of the biopsy; windows of one block are compared among each other.
    mask : ndarray of bool, shape (rows, columns)
        The place, at `PIXEL_UM`.
    first, second : ndarray of float, shape (n, 2)
        Every cell of either section, x and y, um from the mask's upper left corner.
    first_positive, second_positive : ndarray of bool, shape (n,)
        Which of them are positive.
    spaces : pair of ndarray of uint8, shape of the mask at `FINE_UM`, or None
        Classes of either section's ground by its distance to fibers; None where fibers are not known.
    """

    block: str
    mask: Mask
    first: Floats
    second: Floats
    first_positive: Mask
    second_positive: Mask
    spaces: tuple[Classes, Classes] | None = None

    @property
    def area_um2(self) -> float:
        """Area of the window."""
        return float(self.mask.sum()) * PIXEL_UM**2

    @property
    def positive(self) -> tuple[Floats, Floats]:
        """Positive cells of either section."""
        return self.first[self.first_positive], self.second[self.second_positive]


def make_window(
    block: str,
    mask: Mask,
    first: Floats,
    second: Floats,
    first_positive: Mask,
    second_positive: Mask,
    spaces: tuple[Classes, Classes] | None = None,
) -> Window:
    """Make a window of the cells that lie in its mask."""
    one, two = contains(mask, first), contains(mask, second)
    return Window(block, mask, first[one], second[two], first_positive[one], second_positive[two], spaces)


def contains(mask: Mask, points: Floats) -> Mask:
    """Whether points, um from the mask's corner, lie in it."""
    known = np.asarray(np.isfinite(points).all(axis=1))
    column, row = np.floor(np.where(known[:, None], points, -1) / PIXEL_UM).astype(int).T
    inside = known & (row >= 0) & (column >= 0) & (row < mask.shape[0]) & (column < mask.shape[1])
    return np.asarray(inside & mask[row * inside, column * inside])


def list_windows(
    block: str,
    fields: tuple[Sequence[Field], Sequence[Field]],
    cells: tuple[pd.DataFrame, pd.DataFrame],
    transforms: tuple[Transform, Transform],
    grounds: tuple[Mapping[int, Spaces], Mapping[int, Spaces]] = ({}, {}),
) -> list[Window]:
    """List where fields of two sections cover the same place.

    Parameters
    ----------
    block : str
        Name of the block.
    fields : pair of sequences of Field
        Measured fields of either section.
    cells : pair of DataFrame
        field, x_um, y_um, positive of every cell, on its own section.
    transforms : pair of Transform
        From the block's reference to either section.
    grounds : pair of mapping of int to Spaces, optional
        Spaces between fibers, by field.

    Returns
    -------
    list of Window
        On the ground of the reference.
    """
    boxes = [_find_box(one, transforms[0]) for one in fields[0]]
    places = [_map_cells(table, transform) for table, transform in zip(cells, transforms, strict=True)]
    windows = []
    for one, (left, top, shape) in zip(fields[0], boxes, strict=True):
        x, y = left + (np.arange(shape[1]) + 0.5) * PIXEL_UM, top + (np.arange(shape[0]) + 0.5) * PIXEL_UM
        grid = np.column_stack([np.tile(x, shape[0]), np.repeat(y, shape[1])])
        inside = _covers(one, transforms[0], grid)
        for two in fields[1]:
            mask = (inside & _covers(two, transforms[1], grid)).reshape(shape)
            if mask.sum() * PIXEL_UM**2 < LEAST_MM2 * 1e6:
                continue
            own = [_choose(table, field) for table, field in zip(places, (one, two), strict=True)]
            corner = np.array([left, top])
            points = [table[["x", "y"]].to_numpy(float) - corner for table in own]
            positive = [table["positive"].to_numpy(bool) for table in own]
            numbers = one.number, two.number
            fine = shape[0] * _FINE, shape[1] * _FINE
            laid = [
                lay_spaces(known[number], transform, left, top, fine)
                for known, number, transform in zip(grounds, numbers, transforms, strict=True)
                if number in known
            ]
            spaces = restore_missed(*laid) if len(laid) == 2 else None
            windows.append(make_window(block, mask, points[0], points[1], positive[0], positive[1], spaces))
    return windows


def measure_pairs(one: Floats, two: Floats, radii: Floats) -> Floats:
    """Integrals of a window's cross-covariances over discs: pairs expected of densities, by um4 of theirs.

    Parameters
    ----------
    one, two : ndarray of float, shape (rows, columns)
        Densities of both markers in the window, 0 outside, at `PIXEL_UM`; its mask for unit densities.
    radii : ndarray of float, shape (n,)
        Of the discs, um.

    Returns
    -------
    ndarray of float, shape (3, n)
        First with second, first with itself, second with itself.
    """
    shape = [fft.next_fast_len(2 * side, real=True) for side in one.shape]
    first, second = (fft.rfft2(np.asarray(part, float), shape) for part in (one, two))
    products = (first * second.conj(), np.abs(first) ** 2, np.abs(second) ** 2)
    covariances = np.array([fft.irfft2(product, shape).ravel() for product in products])
    rows, columns = (fft.fftfreq(side, 1 / side) * PIXEL_UM for side in shape)
    away = np.hypot(rows[:, None], columns[None, :]).ravel()
    # A pixel on the rim of a disc counts by how much of it lies inside, about.
    shares = np.clip((radii[:, None] - away) / PIXEL_UM + 0.5, 0, 1)
    return np.asarray(covariances @ shares.T * PIXEL_UM**4)


def _find_box(field: Field, transform: Transform) -> tuple[float, float, tuple[int, int]]:
    """A box on the reference that holds a field of a section."""
    x = field.center_x_um + np.array([-1, 1, -1, 1]) * field.width_um * 0.55
    y = field.center_y_um + np.array([-1, -1, 1, 1]) * field.height_um * 0.55
    corners = unmap_points(transform, np.column_stack([x, y]))
    if not np.isfinite(corners).any():
        return 0.0, 0.0, (1, 1)
    (left, top), (right, bottom) = np.nanmin(corners, 0), np.nanmax(corners, 0)
    return (
        float(left),
        float(top),
        (int((bottom - top) / PIXEL_UM) + 1, int((right - left) / PIXEL_UM) + 1),
    )


def _covers(field: Field, transform: Transform, points: Floats) -> Mask:
    x, y = map_points(transform, points).T
    return contains_points(field, x, y)


def _map_cells(cells: pd.DataFrame, transform: Transform) -> pd.DataFrame:
    place = unmap_points(transform, cells[["x_um", "y_um"]].to_numpy(float))
    return cells.assign(x=place[:, 0], y=place[:, 1])


def _choose(cells: pd.DataFrame, field: Field) -> pd.DataFrame:
    return cells[cells["field"].eq(field.number)]
