# This module touches files: it has the library measure and opens what was measured.
"""The widget Measure: counts in the fields drawn, in the background, with progress and a way to stop."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import Container, ProgressBar, PushButton
from qtpy.QtCore import QTimer

from histoquant.batch import COMPILING
from histoquant.compiled import Compiled
from napari_histoquant.background import start
from napari_histoquant.drawing import describe_drawn, find_drawn
from napari_histoquant.layers import FIELDS
from napari_histoquant.measuring import Measurement, Result, describe_result
from napari_histoquant.messages import guard, show_info
from napari_histoquant.notes import make_note
from napari_histoquant.opening import replace_layers
from napari_histoquant.scene import find_layer, get_kind
from napari_histoquant.slides import KEY

_LOOK_MS = 100


class MeasureWidget(Container):
    """Measure the fields drawn.

    Parameters
    ----------
    napari_viewer : Viewer
        With the slide and its fields.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        self.measurement: Measurement | None = None
        self.go = PushButton(
            text="Measure", tooltip="Find fibers and positive cells in the fields and count."
        )
        self.stop = PushButton(
            text="Stop", enabled=False, tooltip="After the field under way; the results are then as before."
        )
        self.what = ""
        self.bar = ProgressBar(value=0, min=0, max=1)
        self.about = make_note()
        super().__init__(widgets=[self.go, self.stop, self.bar, self.about])
        self.go.changed.connect(guard(self._measure))
        self.stop.changed.connect(self._stop)
        self.timer = QTimer(self.native)
        self.timer.timeout.connect(self._show_progress)

    def _measure(self) -> None:
        drawn = find_drawn(self.viewer)
        self.measurement = Measurement(drawn)
        self.what = f"measuring {drawn.section.id}: {describe_drawn(drawn)}"
        self.about.value = self.what
        self.go.enabled, self.stop.enabled = False, True
        self.timer.start(_LOOK_MS)
        start(self.measurement.run_until_stopped, self._accept, self._finish)

    def _stop(self) -> None:
        if self.measurement is not None:
            self.measurement.stop()
            self.stop.enabled = False
            self.about.value = "stopping after this field …"

    def _show_progress(self) -> None:
        if self.measurement is not None:
            self.bar.value, self.bar.max = self.measurement.progress
            if self.about.value in (self.what, COMPILING):  # not where it stops
                self.about.value = COMPILING if Compiled.under_way else self.what

    def _accept(self, result: Result | None) -> None:
        if result is None:
            show_info("Stopped. The results are as they were before.")
            return
        drawn = find_layer(self.viewer, FIELDS)
        self.about.value = describe_result(result)
        show_info(f"{describe_result(result)}.\nReport: {result.report}")
        add_result(self.viewer, result, drawn)

    def _finish(self) -> None:
        self.timer.stop()
        self._show_progress()
        self.measurement = None
        self.go.enabled, self.stop.enabled = True, False
        if self.about.value.startswith(("measuring", "compiling", "stopping")):
            self.about.value = ""


def add_result(viewer: Any, result: Result, drawn: Any | None) -> None:
    """Show what was measured; the fields drawn give their place to the fields measured."""
    about = None if drawn is None else dict(drawn.metadata)
    if drawn is not None and drawn in viewer.layers:
        # Before the new ones come, which else could not have its name.
        viewer.layers.remove(drawn)
    for layer in replace_layers(viewer, result.folder):
        if about is not None and get_kind(layer) == FIELDS:
            # So that the same fields can be measured again.
            layer.metadata[KEY]["drawn"] = about[KEY].get("drawn")
