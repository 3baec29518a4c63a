"""Pictures: what was counted, drawn over what was seen; and the fields over the whole section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import simplejpeg

from histoquant.compiled import Compiled
from histoquant.errors import HistoquantError
from histoquant.geometry import Field, Patch, rasterize_field

Picture = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Color = tuple[int, int, int]

# Okabe & Ito (2008): told apart with every common form of colour blindness.
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
BLUE: Color = (0, 114, 178)
SKY: Color = (86, 180, 233)
GREEN: Color = (0, 158, 115)
YELLOW: Color = (240, 228, 66)
VERMILLION: Color = (213, 94, 0)
# Not theirs, so dark that lightness alone tells them from the others, whoever looks and on whatever tissue.
PURPLE: Color = (90, 10, 90)
GREY: Color = (70, 70, 70)


class Style(NamedTuple):
    """How one kind of outline is drawn; line and colour both tell it apart.

    Attributes
    ----------
    name : str
        For the legend.
    color : tuple of int
        RGB.
    width : int
        1 thin, 2 thick (times the line width of the picture).
    line : {"solid", "dashed", "dotted"}
        Kind of line.
    """

    name: str
    color: Color
    width: int
    line: str


STYLES = {
    "fiber": Style("fiber inside the field, counted", GREEN, 1, "solid"),
    "cell": Style("cell inside the field, not positive", SKY, 1, "solid"),
    "straddling_in": Style("cut by the field’s edge, more than half inside: counted", BLUE, 2, "solid"),
    "straddling_out": Style("cut by the field’s edge, not counted", PURPLE, 2, "dashed"),
    "outside": Style("not counted: outside the field, without nucleus, or longitudinal", GREY, 1, "dotted"),
}
"""Outlines by kind of object; a positive cell adds a dot, a positive fiber a diamond."""

_KINDS = tuple(STYLES)
# Pixels from stroke to stroke, and of a stroke, along a row twice as fast as down a column.
_PERIODS = {"solid": (1, 1), "dashed": (24, 14), "dotted": (12, 4)}
_STROKES = np.array([(style.width, *_PERIODS[style.line], *style.color) for style in STYLES.values()])
_NICE = np.array([1, 2, 5])


def draw_overlay(
    patch: Patch, fibers: Labels, cells: Labels, objects: pd.DataFrame, field: Field, line_px: int = 2
) -> Picture:
    """Draw what was counted over the image of a field.

    Parameters
    ----------
    patch : Patch
        Image of the field with its margin; it is resized to the grid of the labels.
    fibers, cells : ndarray of int32, shape (rows, columns)
        Labels, 0 = background.
    objects : DataFrame
        One row per object: kind ("fiber" or "cell"), label, x_um, y_um, counted, straddling, positive.
        A label without a row is drawn as not counted.
    field : Field
        The field.
    line_px : int, optional
        Width of a thin line.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB. Styles are in `STYLES`.

    Raises
    ------
    HistoquantError
        The two label images differ in shape.
    """
    if fibers.shape != cells.shape:
        raise HistoquantError(
            f"labels of fibers {fibers.shape} and cells {cells.shape} differ in shape",
            f"field {field.number}",
            "segment both on the same grid",
        )
    rows, columns = fibers.shape
    mpp = patch.mpp * patch.pixels.shape[1] / columns
    picture = np.asarray(cv2.resize(patch.pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    inside = rasterize_field(field, fibers.shape, patch.x_um, patch.y_um, mpp)
    picture = _pale_outside(picture, inside)
    for kind, labels in (("fiber", fibers), ("cell", cells)):
        _paint_outlines(picture, labels, objects[objects["kind"] == kind], kind, line_px)
    _paint_field(picture, field, patch.x_um, patch.y_um, mpp, line_px)
    _paint_marks(picture, objects, patch.x_um, patch.y_um, mpp, line_px)
    _paint_scale_bar(picture, mpp)
    return picture


def draw_field_thumbnail(patch: Patch, objects: pd.DataFrame, field: Field, size_px: int = 104) -> Picture:
    """Draw a field alone, small, with a dot on every counted positive cell.

    Parameters
    ----------
    patch : Patch
        Image of the field, any resolution.
    objects : DataFrame
        Columns kind, x_um, y_um, counted, positive.
    field : Field
        The field; what lies outside is white.
    size_px : int, optional
        Long side of the picture.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB.
    """
    tile = _crop(patch, field.left_um, field.top_um, field.width_um, field.height_um)
    tile = _shrink(tile, size_px)
    picture = tile.pixels.copy()
    shape = picture.shape[:2]
    picture[~rasterize_field(field, shape, tile.x_um, tile.y_um, tile.mpp)] = 255
    _paint_field(picture, field, tile.x_um, tile.y_um, tile.mpp, 1)
    counted = objects[(objects["kind"] == "cell") & objects["counted"].astype(bool)]
    for center in _centers(counted[counted["positive"].astype(bool)], tile.x_um, tile.y_um, tile.mpp):
        _paint_dot(picture, center, max(2, size_px // 60))
    return picture


def draw_fields_thumbnail(
    overview: Patch, fields: Sequence[Field], tissue: npt.NDArray[np.bool_], size_px: int = 380
) -> Picture:
    """Draw the section small, with its tissue outlined and its fields numbered.

    Parameters
    ----------
    overview : Patch
        The whole slide, coarse.
    fields : sequence of Field
        The fields drawn.
    tissue : ndarray of bool, shape (rows, columns)
        Tissue on the overview, or on any grid over the same area.
    size_px : int, optional
        Longest side of the picture; glass around the tissue is cut away.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB.
    """
    left, top, width, height = _frame(overview, fields, tissue)
    tile = _shrink(_crop(overview, left, top, width, height), size_px, grow=True)
    picture = tile.pixels.copy()
    _paint_tissue(picture, tile, overview, tissue)
    for field in fields:
        _paint_field(picture, field, tile.x_um, tile.y_um, tile.mpp, 1)
    for field in fields:
        _paint_number(picture, field, tile)
    _paint_scale_bar(picture, tile.mpp)
    return picture


def encode_jpeg(picture: Picture, quality: int = 85) -> bytes:
    """Encode an RGB picture as JPEG.

    Parameters
    ----------
    picture : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    quality : int, optional
        1 to 100.

    Returns
    -------
    bytes

    Examples
    --------
    >>> encode_jpeg(np.zeros((8, 8, 3), np.uint8))[:3]
    b'\\xff\\xd8\\xff'
    """
    whole = np.ascontiguousarray(picture)
    return bytes(simplejpeg.encode_jpeg(whole, quality, colorspace="RGB", colorsubsampling="420"))


def encode_webp(picture: Picture, quality: int = 40) -> bytes:
    """Encode an RGB picture as WebP: a quarter smaller than JPEG where many small ones share a page.

    Parameters
    ----------
    picture : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    quality : int, optional
        1 to 100.

    Returns
    -------
    bytes

    Examples
    --------
    >>> encode_webp(np.zeros((8, 8, 3), np.uint8))[8:12]
    b'WEBP'
    """
    options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    return cv2.imencode(".webp", picture[..., ::-1], options)[1].tobytes()


def classify_objects(objects: pd.DataFrame, kind: str) -> npt.NDArray[np.str_]:
    """Name the style in which every object is drawn.

    Parameters
    ----------
    objects : DataFrame
        Columns counted and straddling.
    kind : {"fiber", "cell"}
        Style of an object that lies inside whole.

    Returns
    -------
    ndarray of str, shape (objects,)
        Keys of `STYLES`.

    Examples
    --------
    >>> table = pd.DataFrame({"counted": [1, 1, 0, 0], "straddling": [0, 1, 1, 0]})
    >>> classify_objects(table, "cell").tolist()
    ['cell', 'straddling_in', 'straddling_out', 'outside']
    """
    counted = objects["counted"].to_numpy(dtype=bool)
    straddling = objects["straddling"].to_numpy(dtype=bool)
    cut = np.where(counted, "straddling_in", "straddling_out")
    return np.where(straddling, cut, np.where(counted, kind, "outside"))


def _pale_outside(picture: Picture, inside: npt.NDArray[np.bool_]) -> Picture:
    pale = cv2.addWeighted(picture, 0.45, np.full_like(picture, 255), 0.55, 0)
    return np.asarray(cv2.copyTo(picture, inside.view(np.uint8), pale), np.uint8)


def _paint_outlines(picture: Picture, labels: Labels, objects: pd.DataFrame, kind: str, line_px: int) -> None:
    """Paint the inner border of every label."""
    names = classify_objects(objects, kind)
    kinds = np.full(int(max(labels.max(initial=0), objects["label"].max() if len(objects) else 0)) + 1, -1)
    kinds[1:] = _KINDS.index("outside")
    kinds[objects["label"].to_numpy(dtype=np.int64)] = [_KINDS.index(name) for name in names]
    kinds[0] = -1
    scale = line_px if kind == "fiber" else max(1, line_px // 2)
    meetings = _find_meetings(np.ascontiguousarray(labels))
    thin, thick = (_find_near(meetings, width * scale) for width in (1, 2))
    _paint_lines(picture, np.ascontiguousarray(labels), thin, thick, kinds, _STROKES)


def _find_near(meetings: Bytes, width_px: int) -> Bytes:
    """Pixels nearer than `width_px` to where labels meet."""
    kernel = np.ones((2 * width_px,) * 2, np.uint8)
    return np.asarray(cv2.dilate(meetings, kernel, anchor=(width_px, width_px)), np.uint8)


@Compiled
def _find_meetings(labels: Labels) -> Bytes:
    """By upper left corner, squares of 2 x 2 pixels, cut at the border, in which more than one label meet."""
    rows, columns = labels.shape
    meetings = np.zeros((rows, columns), np.uint8)
    for row in range(rows):
        own, below, found = labels[row], labels[min(row + 1, rows - 1)], meetings[row]
        for column in range(columns - 1):
            across = (own[column] != own[column + 1]) | (below[column] != below[column + 1])
            found[column] = across | (own[column] != below[column])
        if columns:
            found[columns - 1] = own[columns - 1] != below[columns - 1]
    return meetings


@Compiled
def _paint_lines(
    picture: Picture, labels: Labels, thin: Bytes, thick: Bytes, kinds: Ints, strokes: Ints
) -> None:
    """Paint what is near the border of objects in the picture, each in the stroke of its kind (-1: none)."""
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if thick[row, column] == 0:
                continue
            kind = kinds[labels[row, column]]
            if kind < 0 or (strokes[kind, 0] == 1 and thin[row, column] == 0):
                continue
            # Lines of any direction are broken: bands along (2, 1) meet no outline for long.
            if (row + 2 * column) % strokes[kind, 1] < strokes[kind, 2]:
                for channel in range(3):
                    picture[row, column, channel] = strokes[kind, 3 + channel]


def _centers(objects: pd.DataFrame, x_um: float, y_um: float, mpp: float) -> list[tuple[int, int]]:
    """Pixel (x, y) of every object."""
    places = (objects[["x_um", "y_um"]].to_numpy(dtype=float) - (x_um, y_um)) / mpp
    return [(int(x), int(y)) for x, y in places]


def _paint_marks(
    picture: Picture, objects: pd.DataFrame, x_um: float, y_um: float, mpp: float, line_px: int
) -> None:
    """Mark positive objects: cells by a dot (hollow if not counted), fibers by a diamond."""
    positive = objects[objects["positive"].astype(bool)]
    size = max(3, round(2.4 / mpp))
    for (kind, counted), group in positive.groupby(["kind", positive["counted"].astype(bool)]):
        for center in _centers(group, x_um, y_um, mpp):
            if kind == "fiber":
                for color, width in ((BLACK, 2 * line_px + 1), (YELLOW, line_px)):
                    cv2.drawMarker(picture, center, color, cv2.MARKER_DIAMOND, 4 * size, width, cv2.LINE_AA)
            elif counted:
                _paint_dot(picture, center, size)
            else:
                cv2.circle(picture, center, size, BLACK, line_px, cv2.LINE_AA)


def _paint_dot(picture: Picture, center: tuple[int, int], radius: int) -> None:
    cv2.circle(picture, center, radius + 1, BLACK, -1, cv2.LINE_AA)
    cv2.circle(picture, center, radius, YELLOW, -1, cv2.LINE_AA)


def _paint_field(picture: Picture, field: Field, x_um: float, y_um: float, mpp: float, width: int) -> None:
    """Paint the field's edge, dark on light, seen on any ground."""
    x, y = (field.center_x_um - x_um) / mpp, (field.center_y_um - y_um) / mpp
    half_x, half_y = field.width_um / mpp / 2, field.height_um / mpp / 2
    for color, thickness in ((WHITE, width + 2), (BLACK, width)):
        if field.shape == "circle":
            cv2.circle(picture, (round(x), round(y)), round(half_x), color, thickness, cv2.LINE_AA)
        else:
            start, end = (round(x - half_x), round(y - half_y)), (round(x + half_x), round(y + half_y))
            cv2.rectangle(picture, start, end, color, thickness, cv2.LINE_AA)


def _paint_tissue(picture: Picture, tile: Patch, overview: Patch, tissue: npt.NDArray[np.bool_]) -> None:
    contours, _ = cv2.findContours(tissue.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    grid = overview.mpp * overview.pixels.shape[1] / tissue.shape[1]
    shift = (overview.x_um - tile.x_um, overview.y_um - tile.y_um)
    for contour in contours:
        points = np.round(((contour + 0.5) * grid + shift) / tile.mpp).astype(np.int32)
        cv2.polylines(picture, [points], True, BLUE, 1, cv2.LINE_AA)


def _paint_number(picture: Picture, field: Field, tile: Patch) -> None:
    x, y = (field.center_x_um - tile.x_um) / tile.mpp, (field.center_y_um - tile.y_um) / tile.mpp
    _paint_text(picture, str(field.number), (round(x), round(y)), 0.45)


def _paint_text(picture: Picture, text: str, center: tuple[int, int], scale: float) -> None:
    """Write black on a white halo, centered."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    start = (center[0] - width // 2, center[1] + height // 2)
    thickness = max(1, round(2.5 * scale))
    for color, extra in ((WHITE, 3), (BLACK, 0)):
        cv2.putText(
            picture, text, start, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness + extra, cv2.LINE_AA
        )


def _paint_scale_bar(picture: Picture, mpp: float) -> None:
    """Paint a bar of a round length, about an eighth of the picture, lower left, on what shows through."""
    rows, columns = picture.shape[:2]
    length_um = _round_length(columns * mpp / 8)
    text = f"{length_um / 1000:g} mm"
    length_px, pad, bar = round(length_um / mpp), max(6, columns // 50), max(3, columns // 200)
    scale = max(0.4, columns / 2200)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    box = (max(length_px, width) + 2 * pad, height + bar + 3 * pad)
    corner = picture[rows - box[1] :, : box[0] + 1]
    corner[:] = (corner.astype(np.uint16) + 2 * 255) // 3
    cv2.rectangle(picture, (pad, rows - pad - bar), (pad + length_px, rows - pad), BLACK, -1)
    _paint_text(picture, text, (box[0] // 2, rows - 2 * pad - bar - height // 2), scale)


def _round_length(length_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that fits."""
    power = 10.0 ** np.floor(np.log10(length_um))
    return float(power * _NICE[_NICE * power <= length_um * (1 + 1e-9)].max())


def _frame(
    overview: Patch, fields: Sequence[Field], tissue: npt.NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    """Left, top, width and height of what is worth showing: tissue and fields, a little glass around."""
    rows, columns = np.nonzero(tissue)
    grid = overview.mpp * overview.pixels.shape[1] / tissue.shape[1]
    x = [overview.x_um + at * grid for at in (columns.min(), columns.max() + 1)] if len(columns) else []
    y = [overview.y_um + at * grid for at in (rows.min(), rows.max() + 1)] if len(rows) else []
    for field in fields:
        x += [field.left_um, field.left_um + field.width_um]
        y += [field.top_um, field.top_um + field.height_um]
    if not x:
        height, width = (side * overview.mpp for side in overview.pixels.shape[:2])
        return overview.x_um, overview.y_um, width, height
    glass = 0.04 * max(max(x) - min(x), max(y) - min(y))
    return min(x) - glass, min(y) - glass, max(x) - min(x) + 2 * glass, max(y) - min(y) + 2 * glass


def _crop(patch: Patch, left_um: float, top_um: float, width_um: float, height_um: float) -> Patch:
    """The part of a patch that a box covers, on the patch's own pixels."""
    rows, columns = patch.pixels.shape[:2]
    x = np.clip(np.round((np.array([left_um, left_um + width_um]) - patch.x_um) / patch.mpp), 0, columns)
    y = np.clip(np.round((np.array([top_um, top_um + height_um]) - patch.y_um) / patch.mpp), 0, rows)
    (x0, x1), (y0, y1) = x.astype(int), y.astype(int)
    if x1 <= x0 or y1 <= y0:
        return patch
    pixels = patch.pixels[y0:y1, x0:x1]
    return Patch(pixels, patch.x_um + x0 * patch.mpp, patch.y_um + y0 * patch.mpp, patch.mpp)


def _shrink(patch: Patch, size_px: int, grow: bool = False) -> Patch:
    """Resize so that the longer side has `size_px`; a small image grows only if asked."""
    rows, columns = patch.pixels.shape[:2]
    factor = size_px / max(rows, columns)
    if factor >= 1 and not grow:
        return patch
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(patch.pixels, size, interpolation=method)
    return Patch(np.asarray(pixels, np.uint8), patch.x_um, patch.y_um, patch.mpp * columns / size[0])
