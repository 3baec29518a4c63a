"""The blinded reading in a real window, by keys and clicks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from napari_histoquant.blinding import add_mark, remove_mark
from napari_histoquant.opening import add_layers
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from histoquant.errors import HistoquantError
from histoquant.geometry import Field
from histoquant.reading import Mark, open_reading, read_reading
from plugin.conftest import wait_for


@pytest.fixture
def run(measured_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured_run, tmp_path / "run")
    return tmp_path / "run"


def read_marks(run: Path, number: int) -> list[tuple[str, float, float]]:
    path = run / "readings" / "Li" / "fields" / f"{number + 1}.json"
    marks = json.loads(path.read_text(encoding="utf-8"))["marks"] if path.exists() else []
    return [(mark["kind"], mark["x_um"], mark["y_um"]) for mark in marks]


def list_texts(widget: Any) -> str:
    labels = (widget.where, widget.counts, widget.how)
    return " ".join([one.text() for one in labels] + [one.text() for one in widget.buttons.values()])


def test_fields_are_read_blinded_by_keys_and_clicks(viewer: Any, run: Path, messages: list[str]) -> None:
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Read blinded")
    canvas = viewer.window._qt_viewer.canvas.native
    assert widget.sizeHint().height() <= 620 and widget.sizeHint().width() <= 460
    widget.begin.click()
    widget.run.value = run
    add_layers(viewer, run)
    widget.begin.click()
    viewer.layers.clear()
    widget.begin.click()
    assert [text.splitlines()[0] for text in messages] == [
        "No run is chosen.",
        "Other layers are open, which may tell whose fields these are.",
        "'' is no reviewer's name.",
    ]
    assert len(viewer.layers) == 0
    messages.clear()
    widget.reader.setText("Li")
    widget.begin.click()
    assert [layer.name for layer in viewer.layers] == ["picture", "edge of the field", "marks"]
    assert widget.where.text() == "field 1 of 2; 0 done"
    told = list_texts(widget) + " ".join(repr(layer.metadata) for layer in viewer.layers)
    assert "P01" not in told and "CD19" not in told and "refractory" not in told

    def press(key: Any, place: tuple[float, float] | None = None, modifier: Any = None) -> None:
        viewer.mouse_over_canvas = place is not None
        if place is not None:
            viewer.cursor.position = (place[1], place[0])
        QTest.keyClick(canvas, key, modifier or Qt.KeyboardModifier.NoModifier)
        QApplication.processEvents()

    press(Qt.Key.Key_P, (10.0, 20.0))
    press(Qt.Key.Key_O, (-30.0, 0.0))
    press(Qt.Key.Key_U, (0.0, 40.0))
    press(Qt.Key.Key_F, (50.0, 50.0))
    assert read_marks(run, 0) == [
        *(("positive", 10.0, 20.0), ("negative", -30.0, 0.0), ("uncertain", 0.0, 40.0)),
        ("fiber", 50.0, 50.0),
    ]
    assert widget.counts.text() == "fiber: 1, positive: 1, negative: 1, uncertain: 1"
    assert len(viewer.layers["marks"].data) == 4
    press(Qt.Key.Key_P, (500.0, 0.0))
    assert messages[-1].startswith("That is outside the field.")
    press(Qt.Key.Key_X, (-32.0, 3.0))
    assert len(read_marks(run, 0)) == 3
    press(Qt.Key.Key_Z, (0.0, 0.0), Qt.KeyboardModifier.ControlModifier)
    assert len(read_marks(run, 0)) == 4
    # a click marks what the last key marked
    messages.clear()
    press(Qt.Key.Key_F)
    assert len(read_marks(run, 0)) == 4 and widget.how.text().startswith("A click marks: fiber")
    viewer.scene.camera.center = (0.0, 0.0, 0.0)
    wait_for(lambda: canvas.width() > 100)
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=QPoint(canvas.width() // 2, canvas.height() // 2))
    QApplication.processEvents()
    kind, x, y = read_marks(run, 0)[-1]
    assert kind == "fiber" and abs(x) < 3 and abs(y) < 3
    press(Qt.Key.Key_N)
    assert widget.where.text() == "field 2 of 2; 1 done" and len(viewer.layers["marks"].data) == 0
    press(Qt.Key.Key_Z, (0.0, 0.0), Qt.KeyboardModifier.ControlModifier)
    assert messages[-1].startswith("There is nothing to undo in this field.")
    press(Qt.Key.Key_B)
    assert widget.where.text().startswith("field 1 of 2") and "done" in widget.counts.text()
    assert len(viewer.layers["marks"].data) == 5
    press(Qt.Key.Key_N)
    press(Qt.Key.Key_N)
    assert "All fields are read" in messages[-1]
    counts, points = read_reading(run, "Li")
    assert sorted(counts["fibers"]) == [0.0, 2.0] and sorted(counts["positive_cells"]) == [0, 1]
    assert len(points) == 3
    assert isinstance(pd.read_csv(run / "readings" / "Li" / "Li.csv"), pd.DataFrame)
    # the dock is closed: another window may read
    viewer.window.remove_dock_widget(dock)
    assert widget.reading is None
    with open_reading(run, "Li") as reading:
        assert reading.done == 2


def test_a_reading_without_fibers_refuses_them_and_ends_with_its_picture(
    viewer: Any, run: Path, messages: list[str]
) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Read blinded")
    widget.run.value = run
    widget.reader.setText("Li")
    widget.fibers.setChecked(False)
    widget.begin.click()
    widget.buttons["fiber"].click()
    assert messages[-1].startswith("Fibers are not counted in this reading.")
    assert widget.counts.text() == "positive: 0, negative: 0, uncertain: 0"
    viewer.layers.remove("picture")
    assert widget.reading is None and "The reading ends" in messages[-1]
    with open_reading(run, "Li") as reading:
        assert not reading.fibers


def test_closing_the_dock_of_a_review_lets_its_trail_go(viewer: Any, run: Path) -> None:
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Review")
    add_layers(viewer, run)
    widget.reviewer.setText("Li")
    widget.begin.click()
    wait_for(lambda: widget.review is not None)
    viewer.window.remove_dock_widget(dock)
    assert widget.review is None
    _, other = viewer.window.add_plugin_dock_widget("histoquant", "Review")
    other.reviewer.setText("Li")
    other.begin.click()
    wait_for(lambda: other.review is not None)


def test_marks_lie_in_the_field_and_the_nearest_goes() -> None:
    circle = Field(0, "circle", 0.0, 0.0, 100.0, 100.0)
    oblong = Field(0, "rectangle", 0.0, 0.0, 100.0, 40.0)
    marks = add_mark((), circle, "fiber", 60.0, 0.0)
    assert add_mark(marks, oblong, "positive", 45.0, 19.0)[-1] == Mark("positive", 45.0, 19.0)
    for field, kind, x in ((circle, "positive", 50.0), (circle, "fiber", 66.0), (oblong, "negative", 51.0)):
        with pytest.raises(HistoquantError, match="outside the field"):
            add_mark(marks, field, kind, x, 0.0)
    marks = add_mark(marks, circle, "positive", 40.0, 0.0)
    assert remove_mark(marks, 45.0, 0.0) == (Mark("fiber", 60.0, 0.0),)
    for there in ((), marks):
        with pytest.raises(HistoquantError, match="no mark is near"):
            remove_mark(there, 0.0, 0.0)
