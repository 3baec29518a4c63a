"""Pictures of a block: tissues laid over one another, sections side by side, cells of two markers in one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.geometry import Field, Patch
from histoquant.pictures import BLUE, GREY, VERMILLION, WHITE, Color, Picture
from histoquant.serial.transform import Transform, map_points
from histoquant.serial.views import View

Floats = npt.NDArray[np.float64]
SIZE_PX = 620
COLORS: tuple[Color, Color] = (BLUE, VERMILLION)


def lay_over(fixed: View, warped: View, size_px: int = SIZE_PX) -> Picture:
    """Lay two sections over one another: green where only the first is dense, magenta only the second.

    Parameters
    ----------
    fixed, warped : View
        On one grid.
    size_px : int, optional
        Longest side.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB; grey where both are alike.
    """
    parts = []
    for view in (fixed, warped):
        high = float(np.quantile(view.density[view.tissue], 0.98)) if view.tissue.any() else 1.0
        dark = np.clip(view.density / max(high, 1e-3), 0, 1) * (view.density > 0.02)
        parts.append(255 * (1 - 0.85 * dark))
    picture = np.dstack([parts[0], parts[1], parts[0]]).astype(np.uint8)
    return _shrink(picture, size_px)


def warp_picture(patch: Patch, transform: Transform, box: Sequence[float], mpp: float) -> Picture:
    """A section as it lies on the reference's ground.

    Parameters
    ----------
    patch : Patch
        Of the section.
    transform : Transform
        From the reference to it.
    box : sequence of float
        Left, top, width and height on the reference, um.
    mpp : float
        Pixel size of the picture.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB; white where the slide does not reach.
    """
    left, top, width, height = box
    shape = max(round(height / mpp), 1), max(round(width / mpp), 1)
    rows, columns = np.indices(shape)
    points = np.column_stack([columns.ravel(), rows.ravel()]).astype(float) * mpp + (
        left + mpp / 2,
        top + mpp / 2,
    )
    place = (map_points(transform, points) - (patch.x_um, patch.y_um)) / patch.mpp - 0.5
    x, y = (place[:, axis].reshape(shape).astype(np.float32) for axis in (0, 1))
    warped = cv2.remap(
        patch.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=WHITE
    )
    return np.asarray(warped, np.uint8)


def mark_fields(picture: Picture, fields: Sequence[Field], mpp: float) -> Picture:
    """Number the matched fields on a picture of the reference's ground."""
    marked = picture.copy()
    for field in fields:
        centre = round(field.center_x_um / mpp), round(field.center_y_um / mpp)
        for color, width in ((WHITE, 4), ((0, 0, 0), 2)):
            cv2.circle(marked, centre, round(field.width_um / mpp / 2), color, width, cv2.LINE_AA)
        for color, width in ((WHITE, 5), ((0, 0, 0), 2)):
            cv2.putText(
                marked, str(field.number), (centre[0] - 8, centre[1] + 8),
                cv2.FONT_HERSHEY_SIMPLEX, 0.8, color, width, cv2.LINE_AA,
            )  # fmt: skip
    return marked


def mark_cells(
    picture: Picture,
    groups: Sequence[Floats],
    corner_um: tuple[float, float],
    mpp: float,
    radius_um: float = 8,
) -> Picture:
    """Mark cells of two markers: the first by blue discs, the second by vermillion rings.

    Parameters
    ----------
    picture : ndarray of uint8, shape (rows, columns, 3)
        RGB; it is paled.
    groups : sequence of ndarray of float, shape (n, 2)
        x and y, um, of either marker.
    corner_um : tuple of float
        Upper left corner of the picture.
    mpp : float
        Its pixel size.
    radius_um : float, optional
        Of a disc.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
    """
    marked = cv2.addWeighted(picture, 0.5, np.full_like(picture, 255), 0.5, 0)
    radius = max(round(radius_um / mpp), 3)
    for number, (points, color) in enumerate(zip(groups, COLORS, strict=False)):
        places = (points[np.isfinite(points).all(1)] - corner_um) / mpp
        for x, y in places.round().astype(int).tolist():
            if number == 0:
                cv2.circle(marked, (x, y), radius, color, -1, cv2.LINE_AA)
            else:
                cv2.circle(marked, (x, y), radius + 1, color, 1, cv2.LINE_AA)
    return np.asarray(marked, np.uint8)


def join_pictures(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one height, side by side with a grey line between."""
    line = np.full((pictures[0].shape[0], 4, 3), GREY, np.uint8)
    parts = [part for picture in pictures for part in (line, picture)]
    return np.hstack(parts[1:])


def _shrink(picture: Picture, size_px: int) -> Picture:
    factor = size_px / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
