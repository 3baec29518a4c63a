"""The object table: what counts, where objects lie, and their outlines."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from histoquant.annotations import Annotations
from histoquant.geometry import Field
from histoquant.objects import OBJECT_COLUMNS, find_inside, list_objects, outline_objects
from histoquant.protocol import CellSettings, MarkerSettings
from histoquant.stains import Stains

MPP = 0.5
NOTHING = Annotations(None, None, ())


def draw_disc(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def make_field() -> tuple[np.ndarray, np.ndarray, Stains]:
    """A fiber inside, one across the right edge, a positive cell, and a ring without nucleus."""
    shape = (200, 300)
    fibers = np.zeros(shape, np.int32)
    fibers[20:100, 20:100] = 1
    fibers[20:100, 160:260] = 2
    cells = np.zeros(shape, np.int32)
    blue, brown = np.full(shape, 0.05, np.float32), np.zeros(shape, np.float32)
    for label, column in ((1, 60), (2, 130)):
        cells[draw_disc(shape, 150, column, 10)] = label
        brown[draw_disc(shape, 150, column, 10) & ~draw_disc(shape, 150, column, 6)] = 0.6
    blue[draw_disc(shape, 150, 60, 7)] = 0.6
    return fibers, cells, Stains(blue, brown, np.zeros(shape, np.float32), 10.0, 20.0, MPP)


def list_all(**marker: object) -> tuple[object, ...]:
    fibers, cells, stains = make_field()
    field = Field(3, "square", 60.0, 70.0, 100.0, 100.0)
    inside = find_inside(field, NOTHING, stains)
    settings = MarkerSettings.model_validate(marker)
    objects = list_objects(3, fibers, cells, stains, inside, settings, CellSettings())
    return objects.set_index("object"), fibers, cells, stains


def test_columns_ids_and_half_area() -> None:
    objects, *_ = list_all()
    assert [objects.index.name, *objects.columns] == [
        "object",
        *(name for name in OBJECT_COLUMNS if name != "object"),
    ]
    assert objects.index.tolist() == ["3f1", "3f2", "3c1", "3c2"]
    assert objects["field"].eq(3).all()
    assert objects.loc["3f1", "fraction_in_field"] == 1 and objects.loc["3f1", "counted"]
    # Columns 160 to 259, of which the field's edge at 110 um leaves 160 to 199 inside.
    assert objects.loc["3f2", "fraction_in_field"] == 0.4
    assert objects.loc["3f2", "straddling"] and not objects.loc["3f2", "counted"]
    assert objects.loc["3f1", ["x_um", "y_um"]].tolist() == [10 + 60 * MPP, 20 + 60 * MPP]


@pytest.mark.parametrize("left_out", [(), ("fiber",), ("cell",), ("fiber", "cell")])
def test_columns_have_their_types_whatever_a_field_holds(left_out: tuple[str, ...]) -> None:
    whole, *_ = list_all()
    fibers, cells, stains = make_field()
    fibers, cells = (labels * (kind not in left_out) for kind, labels in (("fiber", fibers), ("cell", cells)))
    inside = np.ones(fibers.shape, bool)
    objects = list_objects(3, fibers, cells, stains, inside, MarkerSettings(), CellSettings())
    assert objects.set_index("object").dtypes.equals(whole.dtypes)
    assert objects["kind"].tolist() == [
        kind for kind in ("fiber", "cell") for _ in "12" if kind not in left_out
    ]
    of_fibers, of_cells = (objects[objects["kind"].eq(kind)] for kind in ("fiber", "cell"))
    assert of_fibers[["confidence", "nucleus", "place", "fiber"]].isna().all(axis=None)
    assert of_cells[["min_feret_um", "max_feret_um"]].isna().all(axis=None)


def test_a_ring_without_nucleus_counts_only_if_the_protocol_says_so() -> None:
    objects, *_ = list_all()
    assert objects.loc["3c1", "positive"] and objects.loc["3c1", "nucleus"] and objects.loc["3c1", "counted"]
    assert objects.loc["3c2", "positive"] and not objects.loc["3c2", "nucleus"]
    assert not objects.loc["3c2", "counted"]
    asked, *_ = list_all(count_without_nucleus=True)
    assert asked.loc["3c2", "counted"]


def test_regions_kept_and_excluded_bound_what_counts() -> None:
    _, _, stains = make_field()
    field = Field(1, "square", 60.0, 70.0, 100.0, 100.0)
    kept = Annotations(shapely.box(0, 0, 60, 200), shapely.box(0, 0, 30, 200), ())
    inside = find_inside(field, kept, stains)
    columns = np.flatnonzero(inside.any(axis=0)) * MPP + stains.x_um
    assert columns.min() == 30 and columns.max() == 60 - MPP


def test_outlines_lie_in_pixels_of_the_slide() -> None:
    objects, fibers, cells, stains = list_all()
    features = outline_objects(objects.reset_index(), fibers, cells, stains, 0.25)
    names = {feature["properties"]["name"]: feature for feature in features}
    assert set(names) == {"3f1", "3f2", "3c1", "3c2"}
    bounds = shapely.geometry.shape(names["3f1"]["geometry"]).bounds
    assert bounds == ((10 + 10) / 0.25, (20 + 10) / 0.25, (10 + 50) / 0.25, (20 + 50) / 0.25)
    assert names["3f2"]["properties"]["classification"]["name"] == "Fiber, not counted"
    shifted = outline_objects(objects.reset_index(), fibers, cells, stains, 0.25, (8, 4))[0]
    assert shapely.geometry.shape(shifted["geometry"]).bounds == (80 - 8, 120 - 4, 240 - 8, 280 - 4)
