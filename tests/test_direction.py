"""Fibers cut along their length: flagged, not counted, and told; fibers cut across are left alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from histoquant.annotations import Annotations
from histoquant.counts import count_field
from histoquant.direction import LONGITUDINAL, find_longitudinal, measure_longitudinal, tell_direction
from histoquant.feret import measure_feret
from histoquant.fibers import get_segmenter
from histoquant.geometry import Field, Patch
from histoquant.objects import find_inside, list_objects
from histoquant.protocol import CellSettings, FiberSettings, MarkerSettings
from histoquant.publish import _note_longitudinal, compare_rules
from histoquant.stains import Stains, separate_stains
from histoquant.synthetic import LayoutSettings, RenderSettings, render_section

SETTINGS = FiberSettings()
MUSCLE = Path(__file__).parents[2] / "shared" / "data" / "muscle"


@pytest.mark.parametrize(
    ("width", "length", "along"),
    [
        (50, 150, False),
        (50, 151, True),
        (51, 151, False),
        (20, 149, False),
        (20, 151, True),
        (120, 300, False),
    ],
)
def test_width_and_length_decide_together(width: float, length: float, along: bool) -> None:
    assert find_longitudinal([width], [length], SETTINGS).tolist() == [along]


def draw_field() -> tuple[pd.DataFrame, Field]:
    """Three fibers across, and one of 20 by 200 um along; the field ends 100 um down the last."""
    fibers = np.zeros((500, 400), np.int32)
    for label, left in ((1, 10), (2, 110), (3, 210)):
        fibers[10:90, left : left + 80] = label
    fibers[40:440, 320:360] = 4
    nothing = np.zeros(fibers.shape, np.float32)
    stains = Stains(nothing, nothing, nothing, 0.0, 0.0, 0.5)
    field = Field(1, "rectangle", 100.0, 62.5, 200.0, 125.0)
    inside = find_inside(field, Annotations(None, None, ()), stains)
    no_cells = np.zeros(fibers.shape, np.int32)
    objects = list_objects(1, fibers, no_cells, stains, inside, MarkerSettings(), CellSettings(), SETTINGS)
    return objects, field


def test_a_longitudinal_fiber_is_reported_and_not_counted() -> None:
    objects, field = draw_field()
    assert objects["reason"].tolist() == ["", "", "", LONGITUDINAL]
    assert objects["counted"].tolist() == [True, True, True, False]
    assert objects.loc[3, "fraction_in_field"] > 0.5
    assert count_field(objects)["fibers"] == 3
    stored = objects.assign(section="A", countable=objects["reason"].eq(""))
    place = {"center_x_um": field.center_x_um, "center_y_um": field.center_y_um}
    place |= {"width_um": field.width_um, "height_um": field.height_um}
    fields = pd.DataFrame([{"section": "A", "field": 1, "status": "ok", "shape": field.shape, **place}])
    rules = compare_rules(stored, fields)
    assert rules is not None and rules["fibers"].eq(3).all()
    assert _note_longitudinal(stored) == ["Fibers cut along their length, not counted: 1."]
    assert _note_longitudinal(stored[:3]) == []


def test_the_field_says_how_much_of_it_is_longitudinal() -> None:
    objects, _ = draw_field()
    # Of 3 x 1600 um2 across and 20 x 105 um2 along.
    assert measure_longitudinal(objects) == pytest.approx(2100 / 6900)
    said = tell_direction(objects, SETTINGS)
    assert said == "30 % of the fiber area is longitudinal: fiber counts are not valid here"
    assert tell_direction(objects, FiberSettings(longitudinal_share=0.31)) == ""
    assert tell_direction(objects[:3], SETTINGS) == ""
    assert tell_direction(objects[:0], SETTINGS) == ""


def measure_share(labels: np.ndarray, mpp: float) -> float:
    """Share of the fibers' area that is longitudinal."""
    widths = measure_feret(labels) * mpp
    area = np.bincount(labels.ravel())[widths.index]
    along = find_longitudinal(widths["min_feret_px"], widths["max_feret_px"], SETTINGS)
    return float(area[along].sum() / area.sum())


@pytest.mark.parametrize(("times", "low", "high"), [(1, 0.0, 0.0), (5, 0.7, 1.0)])
def test_rendered_sections_stretched_and_not(times: float, low: float, high: float) -> None:
    layout = LayoutSettings(rim_um=20, fascicle_um=400, stretch=times)
    made = render_section(np.random.default_rng(7), RenderSettings(size_um=(700, 500), layout=layout))
    assert low <= measure_share(made.labels, made.labels_mpp) <= high
    stains = separate_stains(Patch(made.pixels, 0.0, 0.0, made.mpp), (243.0, 241.0, 239.0))
    assert low <= measure_share(get_segmenter(SETTINGS)(stains), stains.mpp) <= high


@pytest.mark.skipif(not MUSCLE.is_dir(), reason="photographs are not here")
def test_photographs_of_fibers_cut_across_are_not_flagged() -> None:
    for name in ("01", "02"):
        labels = cv2.imread(str(MUSCLE / "he" / f"{name}_fibers.png"), cv2.IMREAD_UNCHANGED)
        assert labels is not None and labels.max() > 20
        assert measure_share(labels.astype(np.int32), 0.4) == 0
