"""From a slide to a signed count in a real window, by clicks and keys: as the command line counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from napari_histoquant.regions import collect_regions
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from histoquant.annotations import rasterize_area
from histoquant.cli.measure import run
from histoquant.cli.publish import report
from histoquant.geometry import rasterize_field
from histoquant.inclusion import count_half_area, measure_inclusion
from histoquant.protocol import load_protocol
from histoquant.results import read_labels, read_objects
from histoquant.validation.pairs import make_field
from plugin.conftest import move, wait_for

NAME = "P01-CD19"
TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")


class Hand:
    """The mouse and the keys of who sits before the window."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.canvas = viewer.window._qt_viewer.canvas.native
        wait_for(lambda: self.canvas.width() > 100)

    def dock(self, name: str) -> Any:
        """Open a widget in the place of all others, as the menu does."""
        self.viewer.window.remove_dock_widget("all")
        _, widget = self.viewer.window.add_plugin_dock_widget("histoquant", name)
        QApplication.processEvents()
        return widget

    def find(self, y_um: float, x_um: float) -> QPoint:
        """Where a place of the section lies on the canvas."""
        camera = self.viewer.scene.camera
        down, right = (np.array([y_um, x_um]) - camera.center[1:]) * camera.zoom
        return QPoint(self.canvas.width() // 2 + round(right), self.canvas.height() // 2 + round(down))

    def click(self, y_um: float, x_um: float, twice: bool = False) -> None:
        place = self.find(y_um, x_um)
        move(self.canvas, place)
        press = QTest.mouseDClick if twice else QTest.mouseClick
        press(self.canvas, Qt.MouseButton.LeftButton, pos=place)
        QApplication.processEvents()

    def press(self, key: Any) -> None:
        QTest.keyClick(self.canvas, key)
        QApplication.processEvents()


@pytest.fixture
def hand(viewer: Any) -> Hand:
    return Hand(viewer)


def test_from_a_slide_to_a_signed_count(hand: Hand, study: Path, tmp_path: Path, messages: list[str]) -> None:
    viewer, out = hand.viewer, tmp_path / "results"

    opening = hand.dock("Open")
    opening.slide.value = study / "slides" / "P01-CD19.svs"
    opening.open_slide.native.click()
    assert [layer.name for layer in viewer.layers] == ["P01-CD19.svs"]

    annotate = hand.dock("Annotate")
    viewer.reset_view()
    annotate.exclude.native.click()
    corners = [(20.0, 20.0), (20.0, 160.0), (240.0, 160.0), (240.0, 20.0)]
    for corner in corners:
        hand.click(*corner)
    hand.click(*corners[-1], twice=True)
    wait_for(lambda: viewer.layers["regions"].nshapes == 1)
    viewer.layers["regions"].mode = "pan_zoom"
    (drawn,) = collect_regions(viewer.layers["regions"])
    assert drawn.geometry.symmetric_difference(shapely.box(20, 20, 160, 240)).area < 0.05 * 140 * 220
    annotate.file.value = tmp_path / "regions.geojson"
    annotate.save.native.click()
    annotate.load.native.click()
    assert annotate.about.value == "1 regions opened"

    draw = hand.dock("Draw fields")
    draw.patient.value, draw.group.value, draw.marker.value = "P01", "refractory", "CD19"
    draw.run.value, draw.protocol.value = out, study / "PROTOCOL.toml"
    draw.draw.native.click()
    wait_for(lambda: "fields" in viewer.layers and draw.draw.enabled)

    tune = hand.dock("Tune")
    tune.preview.native.click()
    wait_for(lambda: tune.tuned is not None and tune.preview.enabled)
    assert not tune.about.value.startswith("field 1: 0 positive cells")
    tune.threshold.value = 0.6
    assert tune.about.value.startswith("field 1: 0 positive cells")
    tune.threshold.value = 0.08
    tune.file.value = tmp_path / "tuned.toml"
    tune.save.native.click()
    assert load_protocol(tmp_path / "tuned.toml").markers["CD19"].threshold_od == 0.08

    draw = hand.dock("Draw fields")
    draw.patient.value, draw.group.value, draw.marker.value = "P01", "refractory", "CD19"
    draw.run.value, draw.protocol.value = out, tmp_path / "tuned.toml"
    draw.draw.native.click()
    wait_for(lambda: draw.about.value.startswith("2 fields") and draw.draw.enabled)

    measure = hand.dock("Measure")
    measure.go.native.click()
    wait_for(lambda: "fibers" in viewer.layers and measure.go.enabled, seconds=120)

    review = hand.dock("Review")
    review.reviewer.setText("Li")
    review.begin.click()
    wait_for(lambda: review.review is not None)
    for _ in range(3):
        hand.press(Qt.Key.Key_N)
    hand.press(Qt.Key.Key_X)
    row = review.review.find_row(review.field)
    review._look((row["center_y_um"], row["center_x_um"]), 250.0)
    move(hand.canvas, hand.find(row["center_y_um"], row["center_x_um"]))
    wait_for(lambda: viewer.mouse_over_canvas)
    viewer.cursor.position = (row["center_y_um"], row["center_x_um"])
    hand.press(Qt.Key.Key_C)
    hand.press(Qt.Key.Key_P)
    review.sign.click()
    assert "Signed" in review.last.text()
    shown, machine = review.review.summarise(), review.review.summarise(machine=True)
    review.begin.click()
    edits = out / "sections" / NAME / "edits"
    lines = [json.loads(line) for line in (edits / "Li.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["action"] for line in lines] == ["reject", "add", "call", "sign"]
    assert not [text for text in messages if "What to do" in text]

    # The same by the command line: of the same table, protocol and edits.
    script = tmp_path / "script"
    words = {"protocol": tmp_path / "tuned.toml", "workers": 1, "quiet": True}
    assert run(out / "study.csv", out=script, **words) == 0
    shutil.copytree(edits, script / "sections" / NAME / "edits")
    for folder in (out, script):
        assert report(folder, edits="Li") == 0
    for name in (*TABLES, *(f"reviewed/Li/{name}" for name in TABLES)):
        assert (out / name).read_bytes() == (script / name).read_bytes(), name
    for table, told in (("sections.csv", machine), ("reviewed/Li/sections.csv", shown)):
        written = pd.read_csv(out / table).iloc[0]
        for column in ("positive_cells", "fibers"):
            assert written[column] == told[column]
        assert written["cells_per_fiber"] == pytest.approx(told["cells_per_fiber"], abs=1e-4)
    assert shown["cells_per_fiber"] != machine["cells_per_fiber"]


def test_objects_count_the_same_after_the_way_through_geojson(measured_run: Path) -> None:
    folder = measured_run / "sections" / NAME
    features = json.loads((folder / "objects.geojson").read_text(encoding="utf-8"))["features"]
    objects = read_objects(folder / "objects.parquet").set_index("object")
    rows = pd.read_csv(measured_run / "fields.csv").query("section == @NAME").to_dict("records")
    shapes = {one["properties"]["name"]: shapely.geometry.shape(one["geometry"]) for one in features}
    classes = {one["properties"]["name"]: one["properties"]["classification"]["name"] for one in features}
    mpp = float(json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["mpp"])
    assert len(rows) == 2 and set(objects.loc[list(shapes), "field"]) == {1, 2}
    for row in rows:
        field, counts = make_field({str(key): value for key, value in row.items()}), {}
        for kind, name in (("fiber", "Fiber"), ("cell", "Positive cell")):
            grid, *place = read_labels(folder / "fields" / f"{field.number}_{kind}s.tif")
            inside, fractions = rasterize_field(field, grid.shape, *place), {}
            for one in (one for one in shapes if one.startswith(f"{field.number}{kind[0]}")):
                area = shapely.transform(shapes[one], lambda xy: xy * mpp)
                mask = rasterize_area(area, grid.shape, *place)
                fractions[one] = measure_inclusion(mask.astype(np.int32), inside)["fraction_in_field"].iloc[0]
            stored = objects.loc[list(fractions), "fraction_in_field"]
            assert np.allclose(stored, list(fractions.values()), rtol=0, atol=1e-4)
            half = count_half_area(list(fractions.values()))
            counts[name] = sum(
                more and classes[one] == name for one, more in zip(fractions, half, strict=True)
            )
        assert counts == {"Fiber": row["fibers"], "Positive cell": row["positive_cells"]}
