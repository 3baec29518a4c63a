"""A field in a blinded reading as layers: its picture, its edge, the reader's marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histoquant.errors import HistoquantError
from histoquant.geometry import Field, Patch
from histoquant.reading import KINDS, FieldReading, Kind, Mark
from napari_histoquant.layers import outline_box
from napari_histoquant.slides import KEY, UNITS, LayerData

PICTURE, EDGE, MARKS = "picture", "edge of the field", "marks"
_COLORS = {"fiber": "#009e73", "positive": "#d55e00", "negative": "#0072b2", "uncertain": "#f0e442"}
_SYMBOLS = {"fiber": "square", "positive": "disc", "negative": "diamond", "uncertain": "x"}
_SIZE_UM = 7.0
_REACH_UM = 15.0


def show_picture(patch: Patch) -> LayerData:
    """Show the picture of a field; the world's origin is the field's center."""
    properties = {
        "name": PICTURE,
        "rgb": True,
        "scale": (patch.mpp, patch.mpp),
        "translate": (patch.y_um + patch.mpp / 2, patch.x_um + patch.mpp / 2),
        "units": UNITS,
        "metadata": {KEY: {"kind": PICTURE}},
    }
    return patch.pixels, properties, "image"


def show_edge(field: Field) -> LayerData:
    """Show the edge of a field."""
    properties = {
        "name": EDGE,
        "ndim": 2,
        "shape_type": "ellipse" if field.shape == "circle" else "rectangle",
        "face_color": "transparent",
        "edge_color": "black",
        "edge_width": 1,
        "units": UNITS,
        "metadata": {KEY: {"kind": EDGE}},
    }
    return [outline_box(field)], properties, "shapes"


def show_marks(marks: Sequence[Mark]) -> LayerData:
    """Show the marks: each kind has a colour and a symbol of its own."""
    kinds = [mark.kind for mark in marks]
    properties = {
        "name": MARKS,
        "ndim": 2,
        "features": pd.DataFrame({"kind": np.array(kinds, object)}),
        "size": _SIZE_UM,
        "symbol": [_SYMBOLS[kind] for kind in kinds] if kinds else "disc",
        "face_color": [_COLORS[kind] for kind in kinds] if kinds else "transparent",
        "border_color": "black",  # yellow with a white one is lost on pale tissue
        "border_width": 0.1,
        "units": UNITS,
        "metadata": {KEY: {"kind": MARKS}},
    }
    return np.array([(mark.y_um, mark.x_um) for mark in marks], float).reshape(-1, 2), properties, "points"


def add_mark(marks: Sequence[Mark], field: Field, kind: Kind, x_um: float, y_um: float) -> tuple[Mark, ...]:
    """Add a mark; a fiber may be marked beside the field's edge, of which it then lies mostly inside.

    Raises
    ------
    HistoquantError
        A cell lies outside the field.
    """
    mark = Mark(kind, round(x_um, 2), round(y_um, 2))
    reach = _REACH_UM if kind == "fiber" else 0.0
    if not _holds(field, mark, reach):
        raise HistoquantError("that is outside the field", "Read blinded", "mark what lies inside its edge")
    return (*marks, mark)


def remove_mark(marks: Sequence[Mark], x_um: float, y_um: float) -> tuple[Mark, ...]:
    """Remove the mark nearest to a place.

    Raises
    ------
    HistoquantError
        There is none near it.
    """
    away = [np.hypot(mark.x_um - x_um, mark.y_um - y_um) for mark in marks]
    if not away or min(away) > _REACH_UM:
        raise HistoquantError("no mark is near the pointer", "Read blinded", "point at a mark")
    nearest = int(np.argmin(away))
    return tuple(mark for number, mark in enumerate(marks) if number != nearest)


def describe_marks(reading: FieldReading, fibers: bool) -> str:
    """Say how much is marked.

    Examples
    --------
    >>> describe_marks(FieldReading((Mark("fiber", 0, 0), Mark("positive", 1, 1))), True)
    'fiber: 1, positive: 1, negative: 0, uncertain: 0'
    """
    kinds = [mark.kind for mark in reading.marks]
    shown = [f"{kind}: {kinds.count(kind)}" for kind in KINDS if fibers or kind != "fiber"]
    return ", ".join(shown) + ("; done" if reading.done else "")


def _holds(field: Field, mark: Mark, reach_um: float) -> bool:
    if field.shape == "circle":
        return bool(np.hypot(mark.x_um, mark.y_um) < field.width_um / 2 + reach_um)
    return abs(mark.x_um) < field.width_um / 2 + reach_um and abs(mark.y_um) < field.height_um / 2 + reach_um
