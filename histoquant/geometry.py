"""Where things are: regions read from a slide, and fields. Micrometres, x right, y down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

PLAUSIBLE_MPP = (0.1, 1.1)
"""Pixel sizes of light microscopy, um/px; outside, metadata is not believed (72 dpi is 352.8)."""
_BAND_ROWS = 64


@dataclass(frozen=True)
class Patch:
    """Pixels of a region of a slide.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    x_um, y_um : float
        Upper left corner, micrometres from the slide's upper left corner.
    mpp : float
        Pixel size, um/px.
    """

    pixels: npt.NDArray[np.uint8]
    x_um: float
    y_um: float
    mpp: float


@dataclass(frozen=True)
class Field:
    """A field in which objects are counted.

    Attributes
    ----------
    number : int
        From 1, in the order drawn.
    shape : {"circle", "square", "rectangle"}
        Circle of diameter `width_um`; otherwise `width_um` x `height_um`.
    center_x_um, center_y_um, width_um, height_um : float
        Place and size.
    """

    number: int
    shape: Literal["circle", "square", "rectangle"]
    center_x_um: float
    center_y_um: float
    width_um: float
    height_um: float

    @property
    def left_um(self) -> float:
        """Left edge."""
        return self.center_x_um - self.width_um / 2

    @property
    def top_um(self) -> float:
        """Upper edge."""
        return self.center_y_um - self.height_um / 2

    @property
    def area_um2(self) -> float:
        """Area of the field."""
        box = self.width_um * self.height_um
        return box * np.pi / 4 if self.shape == "circle" else box


def crop_to_field(patch: Patch, field: Field) -> Patch:
    """The part of a patch that a field's box covers, on the patch's own pixels.

    Parameters
    ----------
    patch : Patch
        Pixels around the field.
    field : Field
        The field.

    Examples
    --------
    >>> patch = Patch(np.zeros((10, 10, 3), np.uint8), 100.0, 100.0, 0.5)
    >>> box = crop_to_field(patch, Field(1, "circle", 102.0, 103.0, 2.0, 2.0))
    >>> box.pixels.shape, box.x_um, box.y_um
    ((4, 4, 3), 101.0, 102.0)
    """
    x, y = (field.left_um - patch.x_um) / patch.mpp, (field.top_um - patch.y_um) / patch.mpp
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = round(x + field.width_um / patch.mpp), round(y + field.height_um / patch.mpp)
    pixels = patch.pixels[top:bottom, left:right]
    return Patch(pixels, patch.x_um + left * patch.mpp, patch.y_um + top * patch.mpp, patch.mpp)


def rasterize_field(
    field: Field, shape: tuple[int, int], x_um: float, y_um: float, mpp: float
) -> npt.NDArray[np.bool_]:
    """Pixels whose center lies inside a field.

    Parameters
    ----------
    field : Field
        The field.
    shape : tuple of int
        Rows and columns of the image.
    x_um, y_um, mpp : float
        Upper left corner and pixel size of the image, um.

    Returns
    -------
    ndarray of bool, shape `shape`

    Examples
    --------
    >>> rasterize_field(Field(1, "square", 1.0, 1.0, 2.0, 2.0), (3, 3), 0.0, 0.0, 1.0).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 0]])
    """
    x = x_um + (np.arange(shape[1]) + 0.5) * mpp
    y = y_um + (np.arange(shape[0]) + 0.5) * mpp
    inside, reach = np.zeros(shape, bool), max(field.width_um, field.height_um) / 2
    # Of the margin, which is most of a region, nothing can lie inside.
    rows, columns = (
        np.flatnonzero(np.abs(at - center) <= reach)
        for at, center in ((y, field.center_y_um), (x, field.center_x_um))
    )
    # By bands, whose distances stay in the processor's cache.
    for top in range(0, rows.size if columns.size else 0, _BAND_ROWS):
        band = rows[top : top + _BAND_ROWS]
        box = slice(band[0], band[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside[box] = contains_points(field, x[None, box[1]], y[box[0], None])
    return inside


def contains_points(
    field: Field, x_um: npt.NDArray[np.floating[Any]], y_um: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.bool_]:
    """Points that lie inside a field; a rectangle is half-open, so that a partition shares no point.

    Parameters
    ----------
    field : Field
        The field.
    x_um, y_um : ndarray of float
        Coordinates; they are broadcast against each other.

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> contains_points(Field(1, "circle", 0.0, 0.0, 2.0, 2.0), np.array([0.9, 1.0]), np.array([0.0, 0.0]))
    array([ True, False])
    """
    x, y = x_um - field.center_x_um, y_um - field.center_y_um
    if field.shape == "circle":
        return np.asarray(x**2 + y**2 < (field.width_um / 2) ** 2)
    half_x, half_y = field.width_um / 2, field.height_um / 2
    return np.asarray((x >= -half_x) & (x < half_x) & (y >= -half_y) & (y < half_y))


def frame_mask(mask: npt.NDArray[np.bool_], around_px: float = 0.0, grid_px: int = 1) -> tuple[slice, slice]:
    """The box of all that is true in a mask, widened as far as the image goes.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns)
        What is to be framed; the whole image if nothing is true.
    around_px : float, optional
        By how much the box is wider on each side.
    grid_px : int, optional
        The box begins at a multiple of this, so that coarser grids in it are those of the image.

    Returns
    -------
    tuple of slice

    Examples
    --------
    >>> frame_mask(np.array([[0, 0, 0, 0], [0, 0, 1, 0]], bool), 1.0)
    (slice(0, 2, None), slice(1, 4, None))
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return frame_places(rows, columns, mask.shape, around_px, grid_px)


def frame_places(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    shape: tuple[int, ...],
    around_px: float = 0.0,
    grid_px: int = 1,
) -> tuple[slice, slice]:
    """The box of rows and columns in an image, as `frame_mask` has it.

    Examples
    --------
    >>> frame_places(np.array([1]), np.array([2, 2]), (2, 4), 1.0)
    (slice(0, 2, None), slice(1, 4, None))
    """
    if not len(rows):
        return slice(0, shape[0]), slice(0, shape[1])
    reach = int(np.ceil(around_px))
    top, left = (max(int(at.min()) - reach, 0) // grid_px * grid_px for at in (rows, columns))
    bottom, right = (min(int(at.max()) + 1 + reach, n) for at, n in zip((rows, columns), shape, strict=True))
    return slice(top, bottom), slice(left, right)
