# This module touches files: it has a drawn field read and a protocol written.
"""The widget Tune: stains and threshold tried on one drawn field, kept as a protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import Container, FileEdit, FloatSpinBox, LineEdit, PushButton, SpinBox

from histoquant.errors import ProtocolError
from histoquant.protocol import MarkerSettings, Protocol, load_protocol
from napari_histoquant.background import start
from napari_histoquant.choosing import require_path
from napari_histoquant.drawing import find_drawn
from napari_histoquant.histogram import Histogram
from napari_histoquant.messages import guard, show_info
from napari_histoquant.notes import make_note
from napari_histoquant.scene import find_layer, put_layer
from napari_histoquant.tuning import (
    CANDIDATES,
    Tuned,
    call_cells,
    change_protocol,
    color_calls,
    describe_calls,
    describe_stain,
    list_candidates,
    save_protocol,
    show_candidates,
    show_stains,
    tune_field,
)

_HIGHEST_OD = 0.6


class TuneWidget(Container):
    """Tune stains and threshold on one field.

    Parameters
    ----------
    napari_viewer : Viewer
        With fields drawn.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        self.protocol: Protocol | None = None
        self.marker = ""
        self.tuned: Tuned | None = None
        self.field = SpinBox(label="field", value=1, min=1, max=1000, tooltip="One of the fields drawn.")
        self.white = LineEdit(
            label="white point", value="auto", tooltip="Red, green and blue of empty glass, or auto."
        )
        self.haematoxylin = LineEdit(
            label="haematoxylin",
            value="default",
            tooltip="Its density in red, green and blue; or default; or auto, for both stains.",
        )
        self.dab = LineEdit(label="DAB", value="default", tooltip=self.haematoxylin.tooltip)
        self.threshold = FloatSpinBox(
            label="threshold (OD)",
            value=MarkerSettings().threshold_od,
            min=0.01,
            max=_HIGHEST_OD,
            step=0.005,
            tooltip=MarkerSettings.model_fields["threshold_od"].description or "",
        )
        self.preview = PushButton(text="Preview", tooltip="Measure the field with these settings.")
        self.about = make_note(6)
        self.file = FileEdit(label="protocol", mode="w", filter="Protocol (*.toml)", nullable=True)
        self.load = PushButton(text="Load protocol", tooltip="The laboratory's settings.")
        self.save = PushButton(text="Save protocol", tooltip="For Draw fields, and for --protocol.")
        super().__init__(
            widgets=[
                *(self.field, self.white, self.haematoxylin, self.dab, self.threshold, self.preview),
                *(self.about, self.file, self.load, self.save),
            ]
        )
        self.histogram = Histogram(_HIGHEST_OD)
        self.native.layout().addWidget(self.histogram)
        self.histogram.show_threshold(self.threshold.value)
        self.preview.changed.connect(guard(self._preview))
        self.threshold.changed.connect(guard(self._call))
        self.load.changed.connect(guard(self._load))
        self.save.changed.connect(guard(self._save))

    def choose_protocol(self) -> Protocol:
        """The settings on the screen.

        Raises
        ------
        HistoquantError
            No fields are drawn, or a value cannot be used.
        """
        request = find_drawn(self.viewer).request
        base = (self.protocol or request.protocol).model_copy(update={"fields": request.protocol.fields})
        if request.marker not in base.markers:
            raise ProtocolError(
                f"has no marker {request.marker}", "Tune", "load the protocol that the fields were drawn with"
            )
        if self.marker != request.marker:  # the slider has the threshold of another marker
            self.marker = request.marker
            self.threshold.value = min(base.markers[request.marker].threshold_od, _HIGHEST_OD)
        stain = (self.white.value.strip(), self.haematoxylin.value.strip(), self.dab.value.strip())
        return change_protocol(base, request.marker, self.threshold.value, *stain)

    def _preview(self) -> None:
        drawn, protocol, number = find_drawn(self.viewer), self.choose_protocol(), self.field.value
        self.preview.enabled, self.about.value = False, "measuring …"
        start(lambda: tune_field(drawn, number, protocol), self._accept, self._finish)

    def _accept(self, tuned: Tuned) -> None:
        for data in (*show_stains(tuned), show_candidates(tuned)):
            put_layer(self.viewer, data)
        self.tuned = tuned
        self.histogram.show_values(list_candidates(tuned)["dab_od"].to_numpy(float))
        self._call()

    def _finish(self) -> None:
        self.preview.enabled = True
        if self.about.value == "measuring …":
            self.about.value = ""

    def _call(self) -> None:
        """Call the cells by the threshold on the screen."""
        self.histogram.show_threshold(self.threshold.value)
        if self.tuned is None:
            return
        self.tuned = call_cells(self.tuned, self.threshold.value)
        self.about.value = describe_calls(self.tuned)
        layer = find_layer(self.viewer, CANDIDATES)
        if layer is not None and len(layer.data):
            layer.border_color = color_calls(self.tuned)

    def _require_file(self) -> Path:
        return require_path(self.file, "protocol file", "Tune")

    def _load(self) -> None:
        self.protocol = load_protocol(self._require_file())
        self.white.value, self.haematoxylin.value, self.dab.value = describe_stain(self.protocol)
        self.marker = ""
        self.choose_protocol()

    def _save(self) -> None:
        path = self._require_file()
        save_protocol(self.choose_protocol(), path)
        show_info(f"{path.name} is saved. Choose it in Draw fields, or give it to --protocol.")
