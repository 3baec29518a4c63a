"""The plugin in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.layers import Layer
from napari_histoquant.layers import show_points
from napari_histoquant.opening import add_layers
from npe2 import PluginManager, PluginManifest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from histoquant.pictures import GREY, VERMILLION
from plugin.conftest import wait_for

ROOT = Path(__file__).parents[2]


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    manifest = PluginManifest.from_file(ROOT / "plugins" / "napari_histoquant" / "napari.yaml")
    manifest.validate_imports()
    manager = PluginManager.instance()
    manager.discover()
    assert manifest.name in manager


def test_a_section_dragged_in_shows_with_a_scale_bar(viewer: Any, measured_run: Path) -> None:
    viewer.open(str(measured_run), plugin="histoquant")
    assert [layer.name for layer in viewer.layers] == [
        *("P01-CD19", "fibers", "cells", "positive cells", "fields")
    ]
    assert viewer.canvas.overlays.scale_bar.visible
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert picture[..., :3].std() > 10


@pytest.mark.parametrize("width_um", [30_000.0, 3_000.0, 300.0])
def test_positive_cells_are_seen_from_afar_and_from_near(viewer: Any, width_um: float) -> None:
    places = pd.DataFrame({"x_um": [0.0, 9000.0], "y_um": 100.0, "counted": [True, False]})
    names = ("object", "field", "straddling", "dab_od", "confidence", "nucleus", "place", "fiber", "reason")
    cells = places.assign(kind="cell", positive=True, **dict.fromkeys(names, 0))
    viewer.layers.append(Layer.create(*show_points(cells)))
    viewer.scene.camera.zoom = min(viewer.canvas.size) / width_um
    for x, color in ((0.0, VERMILLION), (9000.0, GREY)):
        viewer.scene.camera.center = (0.0, 100.0, x)
        QTest.qWait(200)
        picture = viewer.screenshot(canvas_only=True, flash=False, scale=1)[..., :3]
        # From afar it is blended with the black canvas, by a quarter at most.
        light = picture.max(axis=-1, keepdims=True) / max(color)
        found = (np.abs(picture - light * color) < 8).all(axis=-1) & (light[..., 0] > 0.7)
        rows, columns = np.nonzero(found)
        assert len(rows) >= 2, "it is seen"
        middle = (picture.shape[0] / 2, picture.shape[1] / 2)
        assert (rows.mean(), columns.mean()) == pytest.approx(middle, abs=2)


def test_the_widget_opens_what_is_chosen(
    viewer: Any, measured_run: Path, study: Path, messages: list[str]
) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Open")
    widget.open_slide.native.click()
    widget.open_section.native.click()
    assert [text.splitlines()[0] for text in messages] == ["No slide is chosen.", "No run is chosen."]
    widget.slide.value = study / "slides" / "P01-BAFF-R.svs"
    widget.open_slide.native.click()
    widget.run.value = measured_run
    assert widget.section.choices == ("P01-CD19",)
    widget.open_section.native.click()
    assert len(viewer.layers) == 6
    assert len(messages) == 2
    assert widget.section.choices == ("P01-CD19",), "layers have come: the choice stays"


def test_a_marker_of_the_protocol_stays_a_choice(viewer: Any, study: Path, tmp_path: Path) -> None:
    _, draw = viewer.window.add_plugin_dock_widget("histoquant", "Draw fields")
    (tmp_path / "P.toml").write_text('[markers.Ki67]\ncompartment = "nucleus"\n', encoding="utf-8")
    draw.protocol.value = tmp_path / "P.toml"
    draw.marker.value = "Ki67"
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    assert draw.marker.value == "Ki67"


def test_fields_are_drawn_by_clicks(viewer: Any, study: Path, tmp_path: Path, messages: list[str]) -> None:
    _, annotate = viewer.window.add_plugin_dock_widget("histoquant", "Annotate")
    _, draw = viewer.window.add_plugin_dock_widget("histoquant", "Draw fields")
    for button in (annotate.keep, annotate.tissue, annotate.load, draw.feasible, draw.draw):
        button.native.click()
    assert [text.splitlines()[0] for text in messages] == [
        *("No slide is open.", "No slide is open.", "No GeoJSON file is chosen.", "No slide is open."),
        "No slide is open.",
    ]
    messages.clear()
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    draw.draw.native.click()
    wait_for(lambda: messages and draw.draw.enabled)
    assert messages == ["No patient is given.\nWhere: Draw fields\nWhat to do: name the patient."]
    draw.patient.value, draw.group.value, draw.marker.value = "P01", "refractory", "CD19"
    draw.run.value, draw.protocol.value = tmp_path / "out", study / "PROTOCOL.toml"
    assert (draw.count.value, draw.width_um.value) == (2, 200.0)
    annotate.exclude.native.click()
    viewer.layers["regions"].add_polygons(np.array([[0.0, 0.0], [0.0, 300.0], [200.0, 300.0]]))
    viewer.layers["regions"].mode = "pan_zoom"
    draw.feasible.native.click()
    wait_for(lambda: "feasible centers" in viewer.layers)
    annotate.tissue.native.click()
    wait_for(lambda: "tissue" in viewer.layers)
    draw.draw.native.click()
    wait_for(lambda: "fields" in viewer.layers)
    assert draw.about.value.startswith("2 fields, drawn from")
    viewer.layers.selection.active = viewer.layers["P01-CD19.svs"]
    canvas = viewer.window._qt_viewer.canvas.native
    for key, number in ((Qt.Key.Key_Period, 0), (Qt.Key.Key_Period, 1), (Qt.Key.Key_Comma, 0)):
        QTest.keyClick(canvas, key)
        center = viewer.layers["fields"].data[number].mean(axis=0)
        assert viewer.scene.camera.center[1:] == pytest.approx(center)
    draw.protocol.value = tmp_path / "absent.toml"
    assert len(messages) == 2 and "Cannot be read" in messages[-1]


def test_widgets_fit_a_laptop(viewer: Any) -> None:
    for name in ("Open", "Annotate", "Draw fields"):
        _, widget = viewer.window.add_plugin_dock_widget("histoquant", name)
        hint = widget.native.sizeHint()
        assert hint.height() <= 620 and hint.width() <= 460, name
