"""napari killed in the middle of a review: what was edited is there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from napari_histoquant.reviewing import Review

NAME = "P01-CD19"
PROGRAM = """
import sys
from pathlib import Path

import napari
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_histoquant.opening import add_layers

viewer = napari.Viewer(show=True)
_, widget = viewer.window.add_plugin_dock_widget("histoquant", "Review")
add_layers(viewer, Path(sys.argv[1]))
widget.reviewer.setText("Li")
widget.begin.click()
while widget.review is None:
    QTest.qWait(20)
cells = widget.review.list_objects().query("kind == 'cell' and counted")
widget._show_field(int(cells["field"].iloc[0]))
widget._mean(cells["object"].iloc[0])
canvas = viewer.window._qt_viewer.canvas.native
number = 0
while True:
    QTest.keyClick(canvas, Qt.Key.Key_O if number % 2 else Qt.Key.Key_P)
    QTest.qWait(1)
    number += 1
    print(number, len(widget.review.history.lines), flush=True)
"""


def test_a_window_that_is_killed_loses_at_most_the_last_edit(measured_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured_run, run)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as window:
        assert window.stdout is not None and window.stderr is not None
        pressed = kept = 0
        while pressed < 12:
            line = window.stdout.readline()
            if not line:
                pytest.fail(window.stderr.read())
            pressed, kept = map(int, line.split())
        window.send_signal(signal.SIGKILL)
        rest = [line.split() for line in window.stdout.read().splitlines() if len(line.split()) == 2]
        pressed, kept = map(int, rest[-1]) if rest else (pressed, kept)
    assert window.returncode == -signal.SIGKILL
    assert kept == pressed, "every key is an edit"
    review = Review(run, NAME, "Li")  # the lock is gone with the process
    try:
        lines = review.history.lines
        assert kept <= len(lines) <= kept + 1
        assert [line.action for line in lines] == ["call"] * len(lines)
        assert len({line.object for line in lines}) == 1
        review.prepare()
        called = review.describe(str(lines[-1].object))
        assert called is not None and called["positive"] == getattr(lines[-1].after, "positive")  # noqa: B009
    finally:
        review.close()
