"""Spaces between fibers: how far from the nearest fiber the ground of a field lies."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.serial.transform import Transform, map_points

Classes = npt.NDArray[np.uint8]

EDGES_UM = (-3.0, 0.0, 4.0, 12.0)
"""Distances to the nearest fiber between which ground is told apart; below 0 in fibers."""
FINE_UM = 1.0
"""Pixel size of classes of ground in a window."""


class Spaces(NamedTuple):
    """Classes of a field's ground on its own section.

    Attributes
    ----------
    classes : ndarray of uint8, shape (rows, columns)
        See `class_ground`.
    x_um, y_um, mpp : float
        Upper left corner and pixel size, um.
    """

    classes: Classes
    x_um: float
    y_um: float
    mpp: float


def class_ground(fibers: npt.NDArray[np.int32], mpp: float) -> Classes:
    """Number the ground by its distance to the nearest fiber.

    Parameters
    ----------
    fibers : ndarray of int32, shape (rows, columns)
        Fibers; 0 is background.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
        How many of `EDGES_UM` are reached.

    Examples
    --------
    >>> class_ground(np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0]], np.int32), 1.0)
    array([[0, 1, 1, 1, 2, 2, 2, 3, 3]], dtype=uint8)
    """
    inside = (fibers > 0).astype(np.uint8)
    depth, gap = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (inside, 1 - inside))
    away = np.where(inside > 0, -depth, gap) * mpp
    return np.searchsorted(EDGES_UM, away, side="right").astype(np.uint8)


def restore_missed(one: Classes, two: Classes) -> tuple[Classes, Classes]:
    """Take a wide space of one section for the inside of a fiber where the other section shows that.

    A fiber that was missed looks like a wide space without cells, so that wide spaces seem to hold few.
    Errors of registration are too small to lay one upon the other.

    Parameters
    ----------
    one, two : ndarray of uint8, same shape
        Classes of both sections on the same ground.

    Returns
    -------
    one, two : ndarray of uint8

    Examples
    --------
    >>> restore_missed(np.array([4, 4, 3, 0], np.uint8), np.array([0, 4, 0, 4], np.uint8))
    (array([0, 4, 3, 0], dtype=uint8), array([0, 4, 0, 0], dtype=uint8))
    """
    wide = len(EDGES_UM)
    first = np.where((one == wide) & (two == 0), 0, one)
    second = np.where((two == wide) & (one == 0), 0, two)
    return first.astype(np.uint8), second.astype(np.uint8)


def lay_spaces(
    ground: Spaces, transform: Transform, left_um: float, top_um: float, shape: tuple[int, int]
) -> Classes:
    """Lay the classes of a section's field on a window's ground.

    Parameters
    ----------
    ground : Spaces
        Classes on the section.
    transform : Transform
        From the window's ground to the section.
    left_um, top_um : float
        Upper left corner of the window.
    shape : tuple of int
        Rows and columns, at `FINE_UM`.

    Returns
    -------
    ndarray of uint8
        At `FINE_UM`; the widest space where the section has no ground.
    """
    rows, columns = shape
    x, y = left_um + (np.arange(columns) + 0.5) * FINE_UM, top_um + (np.arange(rows) + 0.5) * FINE_UM
    places = map_points(transform, np.column_stack([np.tile(x, rows), np.repeat(y, columns)]))
    column, row = np.floor((places - (ground.x_um, ground.y_um)) / ground.mpp).astype(int).T
    known = (row >= 0) & (column >= 0) & (row < ground.classes.shape[0]) & (column < ground.classes.shape[1])
    found = np.where(known, ground.classes[row * known, column * known], len(EDGES_UM))
    return np.asarray(found, np.uint8).reshape(rows, columns)
