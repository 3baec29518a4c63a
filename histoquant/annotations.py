# This module touches files: it reads GeoJSON.
"""Areas drawn by people, and outlines of objects, as QuPath exchanges them (GeoJSON)."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import mapping
from shapely.geometry import shape as make_geometry
from shapely.geometry.base import BaseGeometry

from histoquant.errors import AnnotationError
from histoquant.spans import list_spans
from histoquant.tracing import trace_rings

MAX_FILE_BYTES = 256_000_000
"""Larger files are refused."""
MAX_COORDINATE_PX = 1e7
"""Coordinates beyond are no pixels of a slide."""

_FIX = "export the annotations again as GeoJSON"
_GEOMETRIES = {
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
}
_DIGITS = 3
_COLORS = {"keep": (0, 158, 115), "exclude": (213, 94, 0)}


@dataclass(frozen=True)
class Annotations:
    """Areas to keep and to exclude, micrometres from the slide's upper left corner.

    Attributes
    ----------
    keep : shapely geometry or None
        Union of the areas to keep; None if none was drawn: the whole slide.
    exclude : shapely geometry or None
        Union of the areas to exclude.
    notes : tuple of str
        What was ignored or repaired, one sentence each.
    """

    keep: BaseGeometry | None
    exclude: BaseGeometry | None
    notes: tuple[str, ...]


def read_annotations(
    path: str | Path, mpp: float, bounds_offset_px: tuple[float, float] = (0.0, 0.0)
) -> Annotations:
    """Read areas to keep and to exclude.

    Class `Exclude`, or any whose name ends in `*`, excludes; any other area keeps.

    Parameters
    ----------
    path : str or Path
        A feature collection, a list of features, one feature, or one geometry, in level-0 pixels.
    mpp : float
        Pixel size of level 0, um/px.
    bounds_offset_px : tuple of float, optional
        Added to the coordinates, for files that count from the corner of the scanned area.

    Returns
    -------
    Annotations

    Raises
    ------
    AnnotationError
        The file cannot be read, is no GeoJSON, or a coordinate is not a pixel of a slide.
    """
    regions, notes = read_regions(Path(path), mpp, bounds_offset_px)
    return join_regions(regions, notes)


class Region(NamedTuple):
    """One area drawn by a person.

    Attributes
    ----------
    names : tuple of str
        Its class; several names where QuPath derives one class from another, none without a class.
    geometry : shapely geometry
        Valid polygon or multipolygon, micrometres from the slide's upper left corner.
    """

    names: tuple[str, ...]
    geometry: BaseGeometry


def read_regions(
    path: Path, mpp: float, bounds_offset_px: tuple[float, float] = (0.0, 0.0)
) -> tuple[list[Region], tuple[str, ...]]:
    """Read areas one by one with their classes, and what was ignored or repaired.

    Parameters, errors and notes are those of `read_annotations`, which joins what is read here.
    """
    regions: list[Region] = []
    notes: list[str] = []
    try:
        for index, feature in enumerate(_list_features(_load_json(path), path)):
            where = f"{path}, feature {index + 1}"
            area, found = _read_area(feature.get("geometry"), where)
            notes += [f"Feature {index + 1}: {note}." for note in found]
            if area is not None:
                names = _read_class(feature, where)
                regions.append(Region(names, _to_um(area, mpp, bounds_offset_px)))
    except RecursionError as error:
        raise AnnotationError("is nested too deeply", path, _FIX) from error
    return regions, tuple(notes)


def join_regions(regions: Sequence[Region], notes: Sequence[str] = ()) -> Annotations:
    """Join regions by what they do, see `judge_area`."""
    areas: dict[str, list[BaseGeometry]] = {"keep": [], "exclude": []}
    for region in regions:
        areas[judge_area(region.names)].append(region.geometry)
    keep, exclude = (shapely.union_all(areas[key]) if areas[key] else None for key in ("keep", "exclude"))
    return Annotations(keep, exclude, tuple(notes))


def encode_regions(
    regions: Sequence[Region], mpp: float, bounds_offset_px: tuple[float, float] = (0.0, 0.0)
) -> bytes:
    """Encode regions as GeoJSON that QuPath opens, classes kept; what `read_regions` reads."""
    features = []
    for region in regions:
        pixels = shapely.transform(
            region.geometry, lambda xy: np.round(xy / mpp - np.array(bounds_offset_px), _DIGITS)
        )
        color = _COLORS[judge_area(region.names)]
        name = {"name": region.names[0]} if len(region.names) == 1 else {"names": list(region.names)}
        known = {"classification": {**name, "color": list(color)}} if region.names else {}
        properties = {"objectType": "annotation", **known}
        features.append({"type": "Feature", "geometry": mapping(pixels), "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False).encode()


class Shape(NamedTuple):
    """One drawn point or area, in level-0 pixels.

    Attributes
    ----------
    names : tuple of str
        Its class, several names where QuPath derives one class from another; else its own name, if any.
    geometry : shapely geometry
        Point, valid polygon or multipolygon.
    where : str
        File and feature.
    """

    names: tuple[str, ...]
    geometry: BaseGeometry
    where: str


def read_shapes(path: Path) -> list[Shape]:
    """Read drawn points and areas one by one, with their classes; lines are left out.

    Parameters
    ----------
    path : Path
        As for `read_annotations`.

    Returns
    -------
    list of Shape
        In the file's order; every point of a multipoint is one.

    Raises
    ------
    AnnotationError
        As `read_annotations`.
    """
    shapes = []
    try:
        for index, feature in enumerate(_list_features(_load_json(path), path)):
            where = f"{path}, feature {index + 1}"
            if feature.get("geometry") is None:
                continue
            geometry, _ = _read_geometry(feature["geometry"], where)
            properties = feature.get("properties")
            own = properties.get("name") if isinstance(properties, dict) else None
            names = _read_class(feature, where) or ((own,) if isinstance(own, str) else ())
            parts = list(_flatten(geometry))
            shapes += [Shape(names, part, where) for part in parts if part.geom_type == "Point"]
            areas = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
            shapes += [Shape(names, shapely.union_all(areas), where)] if areas else []
    except RecursionError as error:
        raise AnnotationError("is nested too deeply", path, _FIX) from error
    return shapes


def judge_area(names: Sequence[str]) -> Literal["keep", "exclude"]:
    """Say what an area does, by its class.

    Examples
    --------
    >>> judge_area(["Exclude"]), judge_area(["Artefact*"]), judge_area([])
    ('exclude', 'exclude', 'keep')
    """
    if any(name.strip().casefold() == "exclude" or name.rstrip().endswith("*") for name in names):
        return "exclude"
    return "keep"


def rasterize_area(
    geometry: BaseGeometry, shape: tuple[int, int], x_um: float, y_um: float, mpp: float
) -> npt.NDArray[np.bool_]:
    """Pixels whose center lies inside an area.

    Every ring toggles the pixels to the right of where it crosses the row of their centers, so that
    neighbouring areas share no pixel.

    Parameters
    ----------
    geometry : shapely geometry
        Valid polygon or multipolygon, um.
    shape : tuple of int
        Rows and columns of the image.
    x_um, y_um, mpp : float
        Upper left corner and pixel size of the image, um.

    Returns
    -------
    ndarray of bool, shape `shape`

    Examples
    --------
    >>> rasterize_area(shapely.box(1, 0, 3, 2), (3, 4), 0.0, 0.0, 1.0).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    rows, columns = shape
    start, end = _list_edges(geometry, x_um, y_um, mpp)
    flip = start[:, 1] > end[:, 1]
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    first = np.clip(np.ceil(low[:, 1]), 0, rows).astype(np.int64)
    count = np.clip(np.ceil(high[:, 1]), 0, rows).astype(np.int64) - first
    low, high, first, count = (part[count > 0] for part in (low, high, first, count))
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    crossing = low[edge, 0] + (row - low[edge, 1]) * slope[edge]
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    toggles = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    parity = np.cumsum(toggles.reshape(rows, columns + 1), axis=1) % 2
    return np.asarray(parity[:, :columns] == 1)


def labels_to_features(
    labels: npt.NDArray[np.integer[Any]],
    x_um: float,
    y_um: float,
    mpp: float,
    slide_mpp: float,
    properties: Mapping[int, Mapping[str, object]] | None = None,
    only: Container[int] | None = None,
) -> list[dict[str, object]]:
    """Outlines of labelled objects along their pixels' edges, as GeoJSON features.

    Rasterising an outline at the same place and pixel size gives the object back, holes and separate
    pieces included.

    Parameters
    ----------
    labels : ndarray of int, shape (rows, columns)
        0 is background.
    x_um, y_um, mpp : float
        Upper left corner and pixel size of `labels`, um.
    slide_mpp : float
        Pixel size of the slide's level 0, um/px.
    properties : mapping, optional
        Properties of the feature by label; see `make_properties`.
    only : container of int, optional
        Labels to outline; all by default.

    Returns
    -------
    list of dict
        One feature per label, in their order, coordinates in level-0 pixels.

    Examples
    --------
    >>> feature, = labels_to_features(np.array([[0, 7]]), 0.0, 0.0, 0.5, 0.25)
    >>> feature["geometry"]
    {'type': 'Polygon', 'coordinates': [[[4.0, 0.0], [4.0, 2.0], [2.0, 2.0], [2.0, 0.0], [4.0, 0.0]]]}
    """
    offset, scale = np.array([x_um, y_um]) / slide_mpp, mpp / slide_mpp
    known = properties or {}
    spans = list_spans(labels)
    features: list[dict[str, object]] = []
    # One by one in its box: to walk the whole image costs far more than the objects in it.
    for number, box in zip(spans.labels.tolist(), spans.frame(), strict=True):
        if only is not None and number not in only:
            continue
        pieces = cv2.connectedComponents((labels[box] == number).astype(np.uint8), connectivity=4)[1]
        corner = np.array([box[1].start, box[0].start])
        polygons: dict[int, list[list[list[float]]]] = {}
        for piece, corners in trace_rings(np.asarray(pieces, np.int32)):
            ring = np.round((np.vstack([corners, corners[:1]]) + corner) * scale + offset, _DIGITS)
            polygons.setdefault(piece, []).append(ring.tolist())
        outline = _make_polygon(list(polygons.values()))
        features.append({"type": "Feature", "geometry": outline, "properties": dict(known.get(number, {}))})
    return features


def make_properties(
    object_type: str, class_name: str, color: tuple[int, int, int], measurements: Mapping[str, float]
) -> dict[str, object]:
    """Properties of a feature as QuPath reads them.

    Parameters
    ----------
    object_type : str
        `detection` or `annotation`.
    class_name : str
        Name of the class.
    color : tuple of int
        Red, green, blue, 0 to 255.
    measurements : mapping
        Numbers by name.

    Returns
    -------
    dict

    Examples
    --------
    >>> make_properties("detection", "Fiber", (0, 114, 178), {})["classification"]
    {'name': 'Fiber', 'color': [0, 114, 178]}
    """
    return {
        "objectType": object_type,
        "classification": {"name": class_name, "color": list(color)},
        "measurements": dict(measurements),
    }


def _load_json(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise AnnotationError(
                f"has {size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f}", path, "export areas only"
            )
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(f"cannot be read ({error.strerror})", path, "check the path") from error
    except ValueError as error:
        raise AnnotationError(f"is not JSON ({error})", path, _FIX) from error


def _list_features(data: Any, path: Path) -> list[dict[str, Any]]:
    """Features of whatever form of GeoJSON; a bare geometry is a feature without a class."""
    if isinstance(data, dict) and data.get("type") == "FeatureCollection":
        data = data.get("features")
        if not isinstance(data, list):
            raise AnnotationError("FeatureCollection has no list of features", path, _FIX)
    found = []
    for index, one in enumerate(data if isinstance(data, list) else [data]):
        kind = one.get("type") if isinstance(one, dict) else None
        if isinstance(kind, str) and kind in _GEOMETRIES:
            one = {"geometry": one}
        elif kind != "Feature":
            raise AnnotationError(
                "is neither a GeoJSON feature nor a geometry", f"{path}, feature {index + 1}", _FIX
            )
        found.append(one)
    return found


def _read_area(geometry: Any, where: str) -> tuple[BaseGeometry | None, list[str]]:
    """Area of a geometry in pixels, or None, and what was ignored or repaired."""
    if geometry is None:
        return None, ["no geometry, ignored"]
    found, notes = _read_geometry(geometry, where)
    parts = list(_flatten(found))
    areas = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
    if not areas:
        return None, [f"{found.geom_type} is no area, ignored"]
    if len(areas) < len(parts) and not notes:
        notes.append("its lines and points are ignored")
    return shapely.union_all(areas), notes


def _read_geometry(geometry: Any, where: str) -> tuple[BaseGeometry, list[str]]:
    """A valid geometry in pixels, and what was repaired."""
    if not isinstance(geometry, dict) or geometry.get("type") not in _GEOMETRIES:
        raise AnnotationError("has a geometry of unknown type", where, _FIX)
    try:
        with np.errstate(invalid="ignore"):  # nan is reported below
            found = shapely.force_2d(make_geometry(geometry))
    except RecursionError:
        raise
    except Exception as error:  # shapely lets any error of a malformed structure through
        raise AnnotationError(f"has a malformed geometry ({error})", where, _FIX) from error
    coordinates = shapely.get_coordinates(found)
    if not np.all(np.abs(coordinates) <= MAX_COORDINATE_PX):  # also catches nan
        raise AnnotationError("has a coordinate that is not a pixel of a slide", where, _FIX)
    notes = []
    if not found.is_valid:
        found = shapely.make_valid(found)
        notes.append("outline crosses itself, repaired")
    return found, notes


def _flatten(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    if hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from _flatten(part)
    else:
        yield geometry


def _read_class(feature: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names of a feature's class."""
    properties = feature.get("properties") or {}
    found = properties.get("classification") if isinstance(properties, dict) else properties
    if isinstance(found, dict):
        found = found.get("name", found.get("names"))
    names = found if isinstance(found, list) else [found]
    if not all(name is None or isinstance(name, str) for name in names):
        raise AnnotationError("has a class that is no name", where, _FIX)
    return tuple(name for name in names if name)


def _to_um(area: BaseGeometry, mpp: float, offset_px: tuple[float, float]) -> BaseGeometry:
    return shapely.transform(area, lambda xy: (xy + np.array(offset_px)) * mpp)


def _list_edges(
    geometry: BaseGeometry, x_um: float, y_um: float, mpp: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Start and end (x, y) of every edge, in pixels counted from the first pixel's center."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = (points - np.array([x_um, y_um])) / mpp - 0.5
    same = ring[1:] == ring[:-1]
    return points[:-1][same], points[1:][same]


def _make_polygon(parts: list[Any]) -> dict[str, object]:
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}
