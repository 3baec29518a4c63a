"""Layers changed in place: napari takes long to add and to remove a layer, not to give it new data."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_histoquant.scene import find_layer, put_layer
from napari_histoquant.slides import KEY, LayerData

REVIEW = "review"
"""Key under which a layer says that it belongs to a review."""


def refresh_layer(viewer: Any, data: LayerData) -> Any:
    """Show a layer of a review: in the one there is of its kind, else in the place of another's.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    data : tuple
        Labels without levels, points, or shapes that are polygons.

    Returns
    -------
    Layer
        With the visibility and opacity that its user gave it.
    """
    values, properties, kind = data
    about = properties["metadata"][KEY]
    about[REVIEW] = True
    layer = find_layer(viewer, about["kind"])
    if layer is None or not layer.metadata[KEY].get(REVIEW):
        layer = _put(viewer, data)
    elif kind == "labels":
        _refresh_labels(layer, values, properties)
    elif kind == "points":
        _refresh_points(layer, values, properties)
    else:
        _refresh_shapes(layer, values)
    layer.metadata[KEY].update(about)
    if kind == "labels":
        layer.metadata[KEY]["colors"] = _list_colors(properties)
    return layer


def _put(viewer: Any, data: LayerData) -> Any:
    """A new layer in the list's place of the one it replaces, which keeps its order."""
    old = find_layer(viewer, data[1]["metadata"][KEY]["kind"])
    index = len(viewer.layers) if old is None else viewer.layers.index(old)
    layer = put_layer(viewer, data)
    if old is not None:
        viewer.layers.move(len(viewer.layers) - 1, index)
    if data[2] == "labels":
        # napari takes the width of outlines only from a layer that exists.
        layer.contour = data[1]["metadata"][KEY].get("contour", 0)
    return layer


def _refresh_labels(layer: Any, values: Any, properties: dict[str, Any]) -> None:
    layer.features = properties["features"]
    if not np.array_equal(layer.metadata[KEY].get("colors"), _list_colors(properties)):
        layer.colormap = properties["colormap"]
    if not np.array_equal(layer.translate, properties["translate"]):
        layer.translate = properties["translate"]
    if not np.array_equal(layer.data, values):
        layer.data = values


def _refresh_points(layer: Any, values: Any, properties: dict[str, Any]) -> None:
    layer.data = values
    layer.features = properties["features"]
    for name in ("symbol", "face_color", "border_color"):
        if len(values) and not isinstance(properties.get(name, ""), str):  # one for each point
            setattr(layer, name, properties[name])


def _refresh_shapes(layer: Any, values: Any) -> None:
    layer.selected_data = set(range(layer.nshapes))
    layer.remove_selected()
    if len(values):
        layer.add_polygons(list(values))
    layer.selected_data = set()


def _list_colors(properties: dict[str, Any]) -> Any:
    colors = [color for label, color in properties["colormap"].items() if label]
    return np.array(colors, float) if colors else np.empty((0, 4))
