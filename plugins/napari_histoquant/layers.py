"""What the library yields, as napari layers in micrometres: data, properties and type, no viewer.

The slide's upper left corner is the origin of the world, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.geometry import Field
from histoquant.pictures import GREY, STYLES, VERMILLION, classify_objects
from napari_histoquant.slides import KEY, UNITS, LayerData, place_image

FIELDS, POSITIVE, FIBERS, CELLS = "fields", "positive cells", "fibers", "cells"
EDGE_UM = 4.0
_CELL_UM = 8.0
_POINT_COLUMNS = (
    *("object", "field", "counted", "straddling", "dab_od", "confidence", "nucleus", "place", "fiber"),
    "reason",
)


def show_fields(fields: Sequence[Field], rows: pd.DataFrame | None = None) -> LayerData:
    """Show fields as ellipses and rectangles with their numbers.

    Parameters
    ----------
    fields : sequence of Field
        In world micrometres.
    rows : DataFrame, optional
        One row per field, in the same order, that becomes the layer's features.

    Returns
    -------
    tuple
        Data, properties, `shapes`.
    """
    features = pd.DataFrame({"field": [field.number for field in fields]})
    if rows is not None:
        features = features.join(rows.drop(columns="field").reset_index(drop=True))
    kinds = ["ellipse" if field.shape == "circle" else "rectangle" for field in fields]
    properties: dict[str, Any] = {
        "name": FIELDS,
        "ndim": 2,
        "features": features,
        "face_color": "transparent",
        "edge_color": "black",
        "edge_width": EDGE_UM,
        "units": UNITS,
        "metadata": {KEY: {"kind": FIELDS}},
    }
    if fields:
        properties["shape_type"] = kinds
        properties["text"] = {
            "string": "{field}",
            "anchor": "upper_left",
            "color": "black",
            "size": 12,
        }
    return [outline_box(field) for field in fields], properties, "shapes"


def outline_box(field: Field) -> npt.NDArray[np.float64]:
    """Corners (y, x) of the box round a field, um, shape (4, 2)."""
    left, top = field.left_um, field.top_um
    right, bottom = left + field.width_um, top + field.height_um
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def show_points(objects: pd.DataFrame) -> LayerData:
    """Show positive cells as points with what was measured of them.

    Parameters
    ----------
    objects : DataFrame
        Rows of the objects' table, positions in world micrometres.

    Returns
    -------
    tuple
        Data, properties, `points`. Cells that do not count are grey.
    """
    cells = objects[objects["kind"].eq("cell") & objects["positive"].astype(bool)].reset_index(drop=True)
    counted = cells["counted"].to_numpy(bool)[:, None]
    color = np.where(counted, np.array([*VERMILLION, 255]), np.array([*GREY, 255])) / 255
    properties = {
        "name": POSITIVE,
        "ndim": 2,
        "features": _plain(cells[list(_POINT_COLUMNS)]),
        "size": _CELL_UM,
        "face_color": color if len(cells) else "transparent",
        "border_color": color if len(cells) else "transparent",
        # Without a graphics card, smooth edges and borders take half the time of a frame; so does napari's
        # own limit of 2 px, below which every point has a border that is painted over 6 x 6 px.
        "border_width": 0.0,
        "antialiasing": 0,
        "canvas_size_limits": (1.5, 10_000),
        "units": UNITS,
        "metadata": {KEY: {"kind": POSITIVE}},
    }
    return cells[["y_um", "x_um"]].to_numpy(float), properties, "points"


def show_labels(
    levels: Sequence[Any], objects: pd.DataFrame, name: str, x_um: float, y_um: float, mpp: float
) -> LayerData:
    """Show fibers or cells as labels coloured by whether they count.

    Parameters
    ----------
    levels : sequence of array of int32
        From fine to coarse; label n is row n - 1 of `objects`.
    objects : DataFrame
        Rows of the objects' table, all of one kind.
    name : str
        `fibers` or `cells`.
    x_um, y_um, mpp : float
        Upper left corner and pixel size of the finest level, um.

    Returns
    -------
    tuple
        Data, properties, `labels`.
    """
    features = _plain(objects.drop(columns=["x_um", "y_um"])).reset_index(drop=True)
    # napari takes row n as what is shown of label n.
    features = pd.concat([features.iloc[:0].reindex([0]), features.set_axis(features.index + 1)])
    styles = classify_objects(objects, name.removesuffix("s"))
    colors: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colors |= {
        number: np.array([*STYLES[style].color, 255], np.float32) / np.float32(255)
        for number, style in enumerate(styles, start=1)
    }
    properties = {
        "name": name,
        "multiscale": True,
        "features": features,
        "colormap": colors,
        "opacity": 0.45,
        "metadata": {KEY: {"kind": name}},
        **place_image(x_um, y_um, mpp),
    }
    return list(levels), properties, "labels"


def show_mask(mask: npt.NDArray[np.bool_], name: str, color: str, mpp: float) -> LayerData:
    """Show an overview's mask whose upper left corner is the slide's; the name is its kind."""
    properties = {
        "name": name,
        "colormap": {None: "transparent", 0: "transparent", 1: color},
        "opacity": 0.35,
        "metadata": {KEY: {"kind": name}},
        **place_image(0.0, 0.0, mpp),
    }
    return mask.astype(np.uint8), properties, "labels"


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Features that napari shows and compares: nothing nullable, no text of a type of its own."""
    plain = {
        name: column.astype(object).where(column.notna(), None)
        if isinstance(column.dtype, pd.StringDtype | pd.BooleanDtype)
        else column.astype("float64")
        if isinstance(column.dtype, pd.Int64Dtype)
        else column
        for name, column in table.items()
    }
    return pd.DataFrame(plain, index=table.index)
