# This module touches files: it reads and writes GeoJSON through the library.
"""Regions to keep and to exclude: drawn in napari, exchanged with QuPath, classes kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from histoquant.annotations import Region, encode_regions, judge_area
from histoquant.errors import AnnotationError
from histoquant.pictures import GREEN, VERMILLION
from histoquant.results import write_bytes
from napari_histoquant.slides import KEY, UNITS, LayerData

REGIONS = "regions"
KEEP, EXCLUDE = "Keep", "Exclude"
_BETWEEN = ": "  # as QuPath writes a class derived from another
_AREAS = ("polygon", "rectangle", "ellipse")
_ELLIPSE_CORNERS = 128
Points = npt.NDArray[np.float64]


def show_regions(regions: Sequence[Region] = ()) -> LayerData:
    """Show regions as polygons with their class.

    Parameters
    ----------
    regions : sequence of Region
        In um.

    Returns
    -------
    tuple
        Data, properties, `shapes`. Polygons of one region share the feature `region`; a hole is joined
        to its outline by a line there and back.
    """
    parts = [
        (number, region, polygon)
        for number, region in enumerate(regions, start=1)
        for polygon in shapely.get_parts(region.geometry)
    ]
    names = [_BETWEEN.join(region.names) for _, region, _ in parts]
    properties: dict[str, Any] = {
        "name": REGIONS,
        "ndim": 2,
        "features": pd.DataFrame(
            {
                "class": np.array(names, object),
                "region": np.array([number for number, _, _ in parts], np.int64),
            }
        ),
        "edge_width": 6,
        "face_color": "transparent",
        "units": UNITS,
        "metadata": {KEY: {"kind": REGIONS}},
    }
    if parts:
        properties["shape_type"] = "polygon"
        properties["edge_color"] = [color_class(name) for name in names]
    return [_join_rings(polygon)[:, ::-1] for _, _, polygon in parts], properties, "shapes"


def color_class(name: str) -> npt.NDArray[np.float64]:
    """Colour of a class, RGBA: one for what is kept, one for what is excluded."""
    return np.array([*(VERMILLION if judge_area([name]) == "exclude" else GREEN), 255]) / 255


def prepare_drawing(layer: Any, name: str) -> None:
    """Let the next shape that is drawn be of a class."""
    layer.selected_data = set()
    layer.feature_defaults = {"class": name, "region": 0}
    layer.current_edge_color = color_class(name)
    layer.mode = "add_polygon"


def collect_regions(layer: Any) -> list[Region]:
    """Regions of a layer of shapes.

    Parameters
    ----------
    layer : Shapes
        Rectangles, ellipses (as polygons of 128 corners) and polygons; lines are left out.

    Returns
    -------
    list of Region
        In um, of valid geometry.

    Raises
    ------
    AnnotationError
        A shape has no area.
    """
    groups: dict[tuple[str, int], list[BaseGeometry]] = {}
    rows = layer.features.to_dict("records")
    for index, (points, kind, row) in enumerate(zip(layer.data, layer.shape_type, rows, strict=True)):
        if kind not in _AREAS:
            continue
        number = int(row.get("region") or 0) or -index - 1  # each shape drawn here is one of its own
        key = (str(row.get("class") or ""), number)
        groups.setdefault(key, []).append(_make_area(np.asarray(points, float), kind, index))
    return [
        Region(tuple(name.split(_BETWEEN)) if name else (), shapely.union_all(areas))
        for (name, _), areas in groups.items()
    ]


def save_regions(layer: Any | None, path: Path, mpp: float) -> int:
    """Write the regions of a layer as GeoJSON that QuPath opens; return their number.

    Raises
    ------
    AnnotationError
        There is nothing to write, or a shape has no area.
    StorageError
        The folder cannot be written.
    """
    regions = [] if layer is None else collect_regions(layer)
    if not regions:
        raise AnnotationError("no region is drawn", fix="draw one, or go on without regions")
    write_bytes(path, encode_regions(regions, mpp))
    return len(regions)


def _make_area(points: Points, kind: str, index: int) -> BaseGeometry:
    corners = _trace_ellipse(points) if kind == "ellipse" else points
    area = shapely.make_valid(shapely.Polygon(corners[:, ::-1]))
    polygons = [part for part in _list_polygons(area) if part.area > 0]
    if not polygons:
        raise AnnotationError("has no area", f"shape {index + 1}", "delete it, or draw it again")
    return shapely.union_all(polygons)


def _list_polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if part.geom_type == "Polygon"]


def _trace_ellipse(box: Points) -> Points:
    """Corners of the ellipse in a box, which may be turned."""
    center = box.mean(axis=0)
    along, across = (box[1] - box[0]) / 2, (box[2] - box[1]) / 2
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    return np.asarray(center + np.cos(turn) * along + np.sin(turn) * across)


def _join_rings(polygon: shapely.Polygon) -> Points:
    """One ring (x, y) of a polygon with holes: there and back to each hole."""
    ring = shapely.get_coordinates(polygon.exterior)[:-1]
    for hole in polygon.interiors:
        inner = shapely.get_coordinates(hole)[:-1]
        distance = np.linalg.norm(ring[:, None] - inner[None], axis=2)
        outer, start = np.unravel_index(np.argmin(distance), distance.shape)
        turned = np.roll(inner, -int(start), axis=0)
        ring = np.concatenate([ring[: outer + 1], turned, turned[:1], ring[outer:]])
    return ring
