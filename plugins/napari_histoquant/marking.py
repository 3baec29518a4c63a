"""A field under review as layers: outlines, calls, what was rejected, the object that is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.pictures import GREY, VERMILLION
from histoquant.revise import RevisedField, StoredField
from napari_histoquant.layers import CELLS, FIBERS, POSITIVE, show_labels
from napari_histoquant.slides import KEY, UNITS, LayerData

REJECTED, MEANT, DRAWING = "rejected", "under review", "drawing"
Points = npt.NDArray[np.float64]
_RING_UM = 16.0
_YELLOW = "#f0e442"


def show_review(
    stored: StoredField, now: RevisedField, rejected: Mapping[str, Points], offset_um: float = 0.0
) -> list[LayerData]:
    """Show a field with its edits.

    Parameters
    ----------
    stored : StoredField
        Says where the label maps lie.
    now : RevisedField
        With the edits.
    rejected : mapping of str to ndarray
        Rejected objects and their places (y, x), um.
    offset_um : float, optional
        x of the image's left edge in the world.

    Returns
    -------
    list of tuple
        Outlines of fibers and of cells, rings round positive cells, crosses on what was rejected.
    """
    objects = now.objects.assign(x_um=now.objects["x_um"] + offset_um)
    place = (stored.x_um + offset_um, stored.y_um, stored.mpp)
    layers = []
    for kind, name, labels in (("fiber", FIBERS, now.fibers), ("cell", CELLS, now.cells)):
        rows = objects[objects["kind"].eq(kind)].reset_index(drop=True)
        table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        known = rows["label"].to_numpy(int)
        table[known] = np.arange(1, len(rows) + 1)
        data, properties, layer = show_labels([table[labels]], rows, name, *place)
        properties["metadata"][KEY]["contour"] = 2 if kind == "fiber" else 1
        properties |= {"multiscale": False, "opacity": 0.9}
        layers.append((data[0], properties, layer))
    offset = np.array([0.0, offset_um])
    return [*layers, show_rings(objects), show_rejected(rejected, offset)]


def show_rings(objects: pd.DataFrame) -> LayerData:
    """Show positive cells as rings that leave the cell to be seen; grey ones do not count."""
    cells = objects[objects["kind"].eq("cell") & objects["positive"].astype(bool)]
    counted = cells["counted"].to_numpy(bool)[:, None]
    color = np.where(counted, np.array([*VERMILLION, 255]), np.array([*GREY, 255])) / 255
    properties = {
        "name": POSITIVE,
        "ndim": 2,
        "features": pd.DataFrame({"object": cells["object"].to_numpy(object)}),
        "size": _RING_UM,
        "face_color": "transparent",
        "border_color": color if len(cells) else "transparent",
        "border_width": 0.08,
        "units": UNITS,
        "metadata": {KEY: {"kind": POSITIVE}},
    }
    return cells[["y_um", "x_um"]].to_numpy(float), properties, "points"


def show_rejected(rejected: Mapping[str, Points], offset: Points) -> LayerData:
    """Show a cross on everything that was rejected."""
    properties = {
        "name": REJECTED,
        "ndim": 2,
        "features": pd.DataFrame({"object": np.array(list(rejected), object)}),
        "symbol": "x",
        "size": _RING_UM / 2,
        "face_color": "black",
        "border_width": 0.0,
        "units": UNITS,
        "metadata": {KEY: {"kind": REJECTED}},
    }
    places = np.array(list(rejected.values()), float).reshape(-1, 2)
    return places + offset, properties, "points"


def show_meant(rings: Sequence[Points], offset_um: float = 0.0) -> LayerData:
    """Show the object that is meant by a thick outline."""
    offset = np.array([0.0, offset_um])
    properties: dict[str, Any] = {
        "name": MEANT,
        "ndim": 2,
        "edge_width": 0.8,
        "edge_color": _YELLOW,
        "face_color": "transparent",
        "units": UNITS,
        "metadata": {KEY: {"kind": MEANT}},
    }
    if rings:
        properties["shape_type"] = "polygon"
    return [ring + offset for ring in rings], properties, "shapes"


def show_drawing() -> LayerData:
    """An empty layer in which an outline or a cut is drawn."""
    properties = {
        "name": DRAWING,
        "ndim": 2,
        "edge_width": 1.5,
        "edge_color": _YELLOW,
        "face_color": "transparent",
        "units": UNITS,
        "metadata": {KEY: {"kind": DRAWING}},
    }
    return [], properties, "shapes"
