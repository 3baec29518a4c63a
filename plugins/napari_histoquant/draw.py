# This module touches files: it has the library draw fields and log the draw.
"""The widget Draw fields: number, size, shape and seed, the feasible area, and the reason for a redraw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    FloatSpinBox,
    LineEdit,
    PushButton,
    SpinBox,
)

from histoquant.prepare import Survey
from histoquant.protocol import FieldSettings, Protocol
from napari_histoquant.annotate import read_screen, show_feasible, survey
from napari_histoquant.background import start
from napari_histoquant.choosing import offer_choices, take_path
from napari_histoquant.drawing import (
    Drawn,
    Request,
    choose_protocol,
    describe_drawn,
    draw_fields,
    show_drawn,
    step_field,
)
from napari_histoquant.messages import guard, show_warning
from napari_histoquant.notes import make_note
from napari_histoquant.regions import REGIONS, collect_regions
from napari_histoquant.scene import find_layer, find_slide

_KEYS = {".": 1, ",": -1}


class DrawWidget(Container):
    """Draw fields at random.

    Parameters
    ----------
    napari_viewer : Viewer
        With the slide.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        about = {name: field.description or "" for name, field in FieldSettings.model_fields.items()}
        usual = FieldSettings()
        self.patient = LineEdit(label="patient", tooltip="As in your list of patients; no names.")
        self.group = LineEdit(label="group", tooltip="refractory, say.")
        self.marker = ComboBox(label="marker", choices=sorted(Protocol().markers))
        self.run = FileEdit(label="results", mode="d", nullable=True, tooltip="Folder for the results.")
        self.protocol = FileEdit(
            label="protocol", filter="Protocol (*.toml)", nullable=True, tooltip="The laboratory's settings."
        )
        self.count = SpinBox(label="fields", value=usual.count, min=1, max=1000, tooltip=about["count"])
        self.shape = ComboBox(
            label="shape", choices=["circle", "square"], value=usual.shape, tooltip=about["shape"]
        )
        self.width_um = FloatSpinBox(
            label="width (um)", value=usual.width_um, min=50, max=5000, tooltip=about["width_um"]
        )
        self.seed = SpinBox(
            label="seed", value=0, min=0, max=2**31 - 1, tooltip="The same seed, the same fields."
        )
        self.feasible = PushButton(text="Show feasible area", tooltip="Where the center of a field may lie.")
        self.reason = LineEdit(
            label="reason", tooltip="Why other fields are drawn though the section was counted; it is logged."
        )
        self.draw = PushButton(text="Draw fields")
        self.previous = PushButton(text="Previous field (,)")
        self.next = PushButton(text="Next field (.)")
        self.about = make_note()
        super().__init__(
            widgets=[
                *(self.patient, self.group, self.marker, self.run, self.protocol),
                *(self.count, self.shape, self.width_um, self.seed),
                *(self.feasible, self.reason, self.draw, self.previous, self.next, self.about),
            ]
        )
        self.protocol.changed.connect(guard(self._read_protocol))
        self.feasible.changed.connect(guard(self._show_feasible))
        self.draw.changed.connect(guard(self._draw))
        self.previous.changed.connect(lambda: step_field(self.viewer, -1))
        self.next.changed.connect(lambda: step_field(self.viewer, 1))
        for key, step in _KEYS.items():
            self.viewer.bind_key(key, lambda viewer, step=step: _step(viewer, step), overwrite=True)

    def request(self) -> Request:
        """What the widget asks for."""
        names = (self.patient.value.strip(), self.group.value.strip(), self.marker.value)
        return Request(self.run.value or Path(), *names, self.seed.value, self._choose_protocol())

    def _choose_protocol(self) -> Protocol:
        fields = {"count": self.count.value, "shape": self.shape.value, "width_um": self.width_um.value}
        return choose_protocol(take_path(self.protocol), **fields)

    def _read_protocol(self) -> None:
        settings = choose_protocol(take_path(self.protocol))
        offer_choices(self.marker, sorted(settings.markers))
        self.count.value, self.shape.value = settings.fields.count, settings.fields.shape
        self.width_um.value = settings.fields.width_um

    def _show_feasible(self) -> None:
        slide, annotations, protocol = (
            find_slide(self.viewer),
            read_screen(self.viewer),
            self._choose_protocol(),
        )
        self.about.value = "looking for tissue …"
        start(lambda: survey(slide, annotations, protocol), self._accept_survey)

    def _accept_survey(self, found: Survey) -> None:
        show_feasible(self.viewer, found)
        self.about.value = f"feasible: {found.feasible_mm2:.2f} of {found.tissue_mm2:.2f} mm² of tissue"

    def _draw(self) -> None:
        slide, request, reason = find_slide(self.viewer), self.request(), self.reason.value
        layer = find_layer(self.viewer, REGIONS)
        regions = [] if layer is None else collect_regions(layer)
        self.draw.enabled, self.about.value = False, "drawing …"
        start(lambda: draw_fields(slide, regions, request, reason), self._accept, self._finish)

    def _accept(self, drawn: Drawn) -> None:
        show_drawn(self.viewer, drawn)
        self.about.value, self.reason.value = describe_drawn(drawn), ""
        if len(drawn.fields) < drawn.prepared.fields_asked:
            show_warning(describe_drawn(drawn))

    def _finish(self) -> None:
        self.draw.enabled = True
        if self.about.value == "drawing …":
            self.about.value = ""


def _step(viewer: Any, step: int) -> None:
    step_field(viewer, step)
