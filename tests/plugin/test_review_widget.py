"""The review in a real window, by clicks and keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari_histoquant.opening import add_layers, replace_layers
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from plugin.conftest import move, wait_for

NAME = "P01-CD19"
CONTROL = Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def run(measured_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured_run, tmp_path / "run")
    return tmp_path / "run"


def read_lines(run: Path, reviewer: str = "Li") -> list[dict[str, Any]]:
    path = run / "sections" / NAME / "edits" / f"{reviewer}.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def point_at(viewer: Any, y_um: float, x_um: float) -> None:
    """As if the mouse were there."""
    viewer.cursor.position = (y_um, x_um)
    viewer.mouse_over_canvas = True


def test_a_section_is_reviewed_by_keys_and_clicks(viewer: Any, run: Path, messages: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Review")
    canvas = viewer.window._qt_viewer.canvas.native
    assert widget.sizeHint().height() <= 620 and widget.sizeHint().width() <= 460
    widget.begin.click()
    assert messages[-1].splitlines()[0] == "No measured section is open."
    add_layers(viewer, run)
    widget.begin.click()
    assert "is no reviewer's name" in messages[-1]
    widget.reviewer.setText("Li")
    widget.begin.click()
    wait_for(lambda: widget.review is not None)
    assert widget.field and "No object is chosen" in widget.about.text()
    assert set(viewer.layers["fields"].edge_width) == {0.7}, "an edge hides nothing that it cuts"
    messages.clear()

    def press(key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        QTest.keyClick(canvas, key, modifier)
        QApplication.processEvents()

    press(Qt.Key.Key_A)
    assert messages == [
        "No object is chosen.\nWhere: Review\nWhat to do: click one, or take the next of the queue."
    ]
    # fields first, then objects
    for _ in range(3):
        press(Qt.Key.Key_N)
    first = widget.object
    assert first is not None and widget.queue.currentRow() == 2
    press(Qt.Key.Key_B)
    press(Qt.Key.Key_N)
    assert widget.object == first
    press(Qt.Key.Key_A)
    assert read_lines(run)[-1]["action"] == "accept" and read_lines(run)[-1]["object"] == first
    assert widget.object not in (None, first)  # on to the next
    widget.reason.setText("precipitate")
    press(Qt.Key.Key_X)
    assert read_lines(run)[-1]["reason"] == "precipitate" and widget.reason.text() == ""
    row = widget.review.find_row(widget.field)
    place = (row["center_y_um"], row["center_x_um"])
    before = row["positive_cells"]
    point_at(viewer, *place)
    press(Qt.Key.Key_C)
    new = widget.object
    assert new is not None and widget.review.find_row(widget.field)["positive_cells"] == before + 1
    assert f"<b>{before + 1}</b>" in widget.counts.text()
    press(Qt.Key.Key_O)
    assert widget.review.find_row(widget.field)["positive_cells"] == before
    press(Qt.Key.Key_P)
    press(Qt.Key.Key_Z, CONTROL)
    assert widget.review.find_row(widget.field)["positive_cells"] == before
    press(Qt.Key.Key_Y, CONTROL)
    assert widget.review.find_row(widget.field)["positive_cells"] == before + 1
    assert [line["action"] for line in read_lines(run)] == [
        *("accept", "reject", "add", "call", "call", "undo", "redo")
    ]
    press(Qt.Key.Key_E)
    assert "A field is excluded for a reason" in messages[-1]
    widget.reason.setText("a fold")
    widget.buttons["exclude"].click()
    assert read_lines(run)[-1]["action"] == "exclude"
    widget.buttons["exclude"].click()
    assert read_lines(run)[-1]["action"] == "include"
    widget.sign.click()
    assert "Signed" in widget.last.text()
    widget.begin.click()
    assert widget.review is None and not widget.sign.isEnabled()
    assert set(viewer.layers["fields"].edge_width) == {4.0}


def test_objects_are_drawn_with_the_mouse(viewer: Any, run: Path, messages: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Review")
    canvas = viewer.window._qt_viewer.canvas.native
    add_layers(viewer, run)
    widget.reviewer.setText("Li")
    widget.begin.click()
    wait_for(lambda: widget.review is not None)
    review, number = widget.review, widget.field
    objects = review.list_objects().query(f"field == {number} and kind == 'fiber' and counted")
    fiber = objects.sort_values("area_um2").iloc[-1]
    x, y = float(fiber["x_um"]), float(fiber["y_um"])
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0.0, y, x), 4.0
    wait_for(lambda: canvas.width() > 100)
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)

    def click(right: int, down: int) -> None:
        move(canvas, middle + QPoint(right, down))
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(right, down))
        QApplication.processEvents()

    viewer.layers["cells"].visible = False
    click(0, 0)
    name = widget.object
    assert name is not None
    if name[1] == "c":  # a nucleus in the middle of the fiber
        widget._mean(fiber["object"])
    # cut: drag a line from top to bottom
    widget.buttons["split"].click()
    top, bottom = middle - QPoint(0, 150), middle + QPoint(0, 150)
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=top)
    for step in range(1, 11):
        move(canvas, top + (bottom - top) * step / 10, Qt.MouseButton.LeftButton)
        QApplication.processEvents()
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=bottom)
    wait_for(lambda: len(read_lines(run)) == 1)
    line = read_lines(run)[0]
    assert (line["action"], line["object"]) == ("split", fiber["object"])
    # merge: the part under the pointer
    part = review.describe(line["after"]["part"])
    widget._mean(fiber["object"])
    viewer.mouse_over_canvas = False
    widget.buttons["merge"].click()
    assert widget.about.text() == "Click the place in the picture."
    widget.wanted((float(part["y_um"]), float(part["x_um"])))
    assert read_lines(run)[-1]["after"] == {"parts": [line["after"]["part"]]}
    # outline: its corners, a double click at the last
    widget._mean(fiber["object"])
    widget.buttons["redraw"].click()
    for right, down in ((-60, -60), (60, -60), (60, 60), (-60, 60)):
        click(right, down)
    QTest.mouseDClick(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(-60, 60))
    wait_for(lambda: len(read_lines(run)) == 3)
    assert read_lines(run)[-1]["action"] == "redraw"
    drawn = review.describe(fiber["object"])
    assert drawn["area_um2"] == pytest.approx(30 * 30, rel=0.15)
    assert drawn["x_um"] == pytest.approx(x, abs=2) and drawn["y_um"] == pytest.approx(y, abs=2)
    assert viewer.layers["drawing"].nshapes == 0
    assert messages == []
    # another section opened: the review of this one ends
    replace_layers(viewer, run / "sections" / NAME)
    assert widget.review is None or np.all([layer.name != "under review" for layer in viewer.layers])
