"""The table of a field's objects: what was found, where it lies, and whether it counts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.annotations import Annotations, labels_to_features, make_properties, rasterize_area
from histoquant.direction import LONGITUDINAL
from histoquant.geometry import Field, rasterize_field
from histoquant.inclusion import count_half_area, share_field
from histoquant.measure import describe_cells, describe_fibers
from histoquant.protocol import CellSettings, FiberSettings, MarkerSettings
from histoquant.spans import list_spans
from histoquant.stains import Stains

OBJECT_COLUMNS = (
    *("field", "object", "kind", "label", "x_um", "y_um", "area_um2"),
    *("min_feret_um", "max_feret_um", "fraction_in_field", "counted", "straddling"),
    *("positive", "dab_od", "confidence", "nucleus", "place", "fiber", "reason"),
)
# One set of types, whatever a field holds, so that files do not depend on which field came first.
_TYPES: dict[Hashable, Any] = {
    **dict.fromkeys(("field", "label"), "int64"),
    **dict.fromkeys(("object", "kind", "place", "reason"), "str"),
    **dict.fromkeys(("x_um", "y_um", "area_um2", "min_feret_um", "max_feret_um"), "float64"),
    **dict.fromkeys(("fraction_in_field", "dab_od", "confidence"), "float64"),
    **dict.fromkeys(("counted", "straddling", "positive"), "bool"),
    "nucleus": "boolean",
    "fiber": "Int64",
}
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Column = npt.NDArray[Any]
_FIBERS = FiberSettings()
_COLORS = {"fiber": (0, 114, 178), "cell": (213, 94, 0)}


def find_inside(field: Field, annotations: Annotations, stains: Stains) -> Mask:
    """Pixels in which objects count: the field, within regions kept, without regions excluded.

    Parameters
    ----------
    field : Field
        The field.
    annotations : Annotations
        Regions in um.
    stains : Stains
        Gives the grid.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
    """
    place = (stains.dab.shape, stains.x_um, stains.y_um, stains.mpp)
    inside = rasterize_field(field, *place)
    if annotations.keep is not None:
        inside &= rasterize_area(annotations.keep, *place)
    if annotations.exclude is not None:
        inside &= ~rasterize_area(annotations.exclude, *place)
    return inside


def list_objects(
    number: int,
    fibers: Labels,
    cells: Labels,
    stains: Stains,
    inside: Mask,
    marker: MarkerSettings,
    settings: CellSettings,
    fiber_settings: FiberSettings = _FIBERS,
) -> pd.DataFrame:
    """Measure every object of a field and its margin, and say which count by the half-area rule.

    Everything comes from the label maps, so that an edited map goes back in here.

    Parameters
    ----------
    number : int
        Of the field.
    fibers, cells : ndarray of int32, shape (rows, columns)
        Labels on the grid of `stains`.
    stains : Stains
        The field and its margin.
    inside : ndarray of bool, same shape
        See `find_inside`.
    marker : MarkerSettings
        What makes a cell positive, and whether one without a nucleus counts.
    settings : CellSettings
        Of cells.
    fiber_settings : FiberSettings, optional
        Of fibers.

    Returns
    -------
    DataFrame
        Columns `OBJECT_COLUMNS`, one row per object, counted or not.
    """
    spans = list_spans(fibers), list_spans(cells)
    # All of all labels, ascending.
    parts = (
        describe_fibers(spans[0], cells, stains, marker, fiber_settings) | share_field(spans[0], inside),
        describe_cells(cells, spans[1], fibers, stains, marker, settings) | share_field(spans[1], inside),
    )
    columns = {name: _stack(parts, name) for name in OBJECT_COLUMNS if name in {*parts[0], *parts[1]}}
    columns["field"] = np.full(len(columns["label"]), number)
    named = zip(columns["kind"], columns["label"].tolist(), strict=True)
    columns["object"] = np.array([f"{number}{kind[0]}{label}" for kind, label in named], object)
    countable = _may_count(columns["kind"], columns["nucleus"] != np.False_, columns["reason"], marker)
    columns["counted"] = count_half_area(columns["fraction_in_field"]) & countable
    return pd.DataFrame({name: _fit(columns[name], _TYPES[name]) for name in OBJECT_COLUMNS})


def _stack(parts: Sequence[Mapping[str, Column]], name: str) -> Column:
    """A column of one part below that of the other; None where a part has none."""
    return np.concatenate([part.get(name, np.full(len(part["label"]), None)) for part in parts])


def _fit(values: Column, kind: Any) -> Any:
    return values.astype(kind) if kind in ("int64", "float64", "bool") else pd.array(values, kind)


def select_countable(objects: pd.DataFrame, marker: MarkerSettings) -> pd.Series[bool]:
    """Objects that may count: no longitudinal fibers, and cells without a nucleus only if the marker says so.

    Parameters
    ----------
    objects : DataFrame
        Columns kind, nucleus and, where fibers matter, reason.
    marker : MarkerSettings
        Whether cells without a nucleus count.

    Returns
    -------
    Series of bool
    """
    # Who asks about cells alone need not read the reasons.
    reasons = objects["reason"].tolist() if "reason" in objects else [""] * len(objects)
    nucleus = objects["nucleus"].to_numpy(bool, na_value=True)
    return pd.Series(_may_count(objects["kind"].to_numpy(object), nucleus, reasons, marker), objects.index)


def _may_count(kind: Column, nucleus: Mask, reasons: Iterable[Any], marker: MarkerSettings) -> Mask:
    along = (kind == "fiber") & np.array([LONGITUDINAL in str(reason) for reason in reasons], bool)
    hidden = (kind == "cell") & ~nucleus
    return np.asarray(~along if marker.count_without_nucleus else ~along & ~hidden)


def outline_objects(
    objects: pd.DataFrame,
    fibers: Labels,
    cells: Labels,
    stains: Stains,
    slide_mpp: float,
    origin_px: tuple[int, int] = (0, 0),
) -> list[dict[str, Any]]:
    """Outline fibers and positive cells that lie in the field at least in part, as GeoJSON features.

    Negative cells are in the object table and the label maps only: they would make files of
    hundreds of megabytes.

    Parameters
    ----------
    objects : DataFrame
        See `list_objects`.
    fibers, cells : ndarray of int32, shape (rows, columns)
        Labels on the grid of `stains`.
    stains : Stains
        Gives the grid.
    slide_mpp : float
        Pixel size of the slide's level 0, um/px.
    origin_px : tuple of int, optional
        Column and row of level 0 from which positions count.

    Returns
    -------
    list of dict
        Features in level-0 pixels of the slide.
    """
    features: list[dict[str, Any]] = []
    place = (stains.x_um - origin_px[0] * slide_mpp, stains.y_um - origin_px[1] * slide_mpp)
    shown = objects[objects["fraction_in_field"].gt(0)]
    for kind, labels in (("fiber", fibers), ("cell", cells)):
        rows = shown[shown["kind"].eq(kind)]
        if kind == "cell":
            rows = rows[rows["positive"].astype(bool)]
        properties = {int(row["label"]): _describe(row) for row in rows.to_dict("records")}
        features += labels_to_features(labels, *place, stains.mpp, slide_mpp, properties, properties)
    return features


def _describe(row: Mapping[Hashable, Any]) -> dict[str, object]:
    """Properties of an object as QuPath shows them."""
    name = "Fiber" if row["kind"] == "fiber" else "Positive cell"
    name = name if row["counted"] else f"{name}, not counted"
    numbers = {
        key: float(row[key])
        for key in ("area_um2", "min_feret_um", "fraction_in_field", "dab_od")
        if pd.notna(row[key])
    }
    return {"name": row["object"], **make_properties("detection", name, _COLORS[row["kind"]], numbers)}
