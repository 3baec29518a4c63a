"""Wrong input in every dialog: a message that says what to do, and nothing raised in the window."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari_histoquant.opening import add_layers
from PIL import Image
from qtpy.QtWidgets import QApplication, QPushButton

from plugin.conftest import wait_for

ALL = (*("Open", "Annotate", "Draw fields", "Tune", "Measure", "Review", "Read blinded", "Serial sections"),)


@pytest.fixture
def run(measured_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured_run, tmp_path / "run")
    return tmp_path / "run"


def dock(viewer: Any, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("histoquant", name)[1]


def list_buttons(widget: Any) -> list[QPushButton]:
    """All that do not ask the system for a file."""
    found = getattr(widget, "native", widget).findChildren(QPushButton)
    return [button for button in found if not button.text().startswith(("Select", "Choose"))]


def read_first(messages: list[str]) -> list[str]:
    shown = [text.splitlines()[0] for text in messages]
    messages.clear()
    return shown


def test_every_button_without_a_slide(viewer: Any, messages: list[str]) -> None:
    for name in ALL:
        buttons = list_buttons(dock(viewer, name))
        assert buttons, name
        for button in buttons:
            enabled = button.isEnabled()
            button.click()
            QApplication.processEvents()
            assert not any("unexpected" in text for text in messages), (name, button.text(), messages)
            steps = button.text().startswith(("Previous field", "Next field", "Stop"))
            assert bool(messages) == (enabled and not steps), (name, button.text(), messages)
            messages.clear()
    assert len(viewer.layers) == 0


def test_a_slide_without_pixel_size(viewer: Any, tmp_path: Path, study: Path, messages: list[str]) -> None:
    Image.fromarray(np.full((400, 600, 3), 200, np.uint8)).save(tmp_path / "camera.png")
    add_layers(viewer, tmp_path / "camera.png")
    assert read_first(messages) == ["camera.png: The file does not tell its pixel size."]
    annotate, draw = dock(viewer, "Annotate"), dock(viewer, "Draw fields")
    draw.patient.value, draw.group.value, draw.run.value = "P01", "a", tmp_path / "out"
    annotate.file.value = tmp_path / "regions.geojson"
    for button in (
        *(annotate.keep, annotate.exclude, annotate.tissue, annotate.load, annotate.save),
        *(draw.feasible, draw.draw),
    ):
        button.native.click()
        assert read_first(messages) == ["The pixel size is not known, so that nothing can be measured."], (
            button.text
        )
    # Given one, it is measured as any other.
    opening = dock(viewer, "Open")
    viewer.layers.clear()
    opening.slide.value, opening.mpp.value = tmp_path / "camera.png", 0.4
    opening.open_slide.native.click()
    annotate.keep.native.click()
    assert messages == [] and "regions" in viewer.layers


def test_fields_that_do_not_fit(viewer: Any, study: Path, tmp_path: Path, messages: list[str]) -> None:
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    draw = dock(viewer, "Draw fields")
    draw.patient.value, draw.group.value, draw.run.value = "P01", "a", tmp_path / "out"
    draw.marker.value = "CD19"
    draw.count.value, draw.width_um.value = 10, 250.0
    draw.draw.native.click()
    wait_for(lambda: messages and draw.draw.enabled)
    (text,) = messages
    assert text.startswith("Only ") and "of 10 fields fit" in text
    assert 0 < len(viewer.layers["fields"].data) < 10
    messages.clear()
    draw.width_um.value = 3000.0
    for button in (draw.feasible, draw.draw):
        button.native.click()
        wait_for(lambda: (messages or not draw.about.value.endswith("…")) and draw.draw.enabled)
    assert messages and "Something unexpected" not in messages[-1]
    assert not (tmp_path / "out" / "sections").exists()


def test_folders_that_cannot_be_written(
    viewer: Any, run: Path, study: Path, tmp_path: Path, messages: list[str]
) -> None:
    """A file lies where a folder is wanted, since to root no folder is read-only."""
    (tmp_path / "file").write_text("")
    annotate, draw, tune = dock(viewer, "Annotate"), dock(viewer, "Draw fields"), dock(viewer, "Tune")
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    annotate.keep.native.click()
    viewer.layers["regions"].add_polygons(np.array([[0.0, 0.0], [0.0, 700.0], [700.0, 700.0], [700.0, 0.0]]))
    viewer.layers["regions"].mode = "pan_zoom"
    annotate.file.value = tmp_path / "file" / "regions.geojson"
    annotate.save.native.click()
    draw.patient.value, draw.group.value, draw.marker.value = "P01", "a", "CD19"
    draw.protocol.value, draw.run.value = study / "PROTOCOL.toml", tmp_path / "file" / "out"
    draw.draw.native.click()
    wait_for(lambda: len(messages) == 2 and draw.draw.enabled)
    shown = read_first(messages)
    assert shown[0].startswith("Cannot be written") and shown[1].startswith("Cannot be made")
    draw.run.value = tmp_path / "out"
    draw.draw.native.click()
    wait_for(lambda: "fields" in viewer.layers and draw.draw.enabled)
    tune.file.value = tmp_path / "file" / "P.toml"
    tune.save.native.click()
    assert read_first(messages)[0].startswith("Cannot be written")
    measure = dock(viewer, "Measure")
    (tmp_path / "out" / ".lock").mkdir()
    measure.go.native.click()
    wait_for(lambda: messages and measure.go.enabled)
    assert read_first(messages)[0].startswith("Is not writable")
    viewer.layers.clear()
    (run / "sections" / "P01-CD19" / "edits").write_text("")
    (run / "readings").write_text("")
    review, blinded = dock(viewer, "Review"), dock(viewer, "Read blinded")
    blinded.run.value = run
    blinded.reader.setText("Li")
    blinded.begin.click()
    assert read_first(messages)[0].startswith("Is not writable")
    add_layers(viewer, run)
    review.reviewer.setText("Li")
    review.begin.click()
    assert read_first(messages)[0].startswith("Is not writable")
    assert review.review is None and blinded.reading is None


def test_a_protocol_of_a_newer_version(
    viewer: Any, run: Path, study: Path, tmp_path: Path, messages: list[str]
) -> None:
    newer = tmp_path / "NEWER.toml"
    newer.write_text("version = 2\n", encoding="utf-8")
    draw, tune = dock(viewer, "Draw fields"), dock(viewer, "Tune")
    draw.protocol.value = newer
    assert read_first(messages) == ["Has version 2."]
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    for button in (draw.feasible, draw.draw):
        button.native.click()
        assert read_first(messages) == ["Has version 2."], button.text
    tune.file.value = newer
    tune.load.native.click()
    assert read_first(messages) == ["Has version 2."]
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    about["protocol"]["version"] = 2
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
    viewer.layers.clear()
    review, blinded, serial = (dock(viewer, name) for name in ("Review", "Read blinded", "Serial sections"))
    blinded.run.value = run
    blinded.reader.setText("Li")
    blinded.begin.click()
    assert read_first(messages) == ["Has version 2."] and len(viewer.layers) == 0
    serial.run.value = run
    assert read_first(messages) == ["Has version 2."]
    add_layers(viewer, run)
    review.reviewer.setText("Li")
    review.begin.click()
    assert read_first(messages) == ["Has version 2."]
    assert review.review is None and review.begin.isEnabled()
