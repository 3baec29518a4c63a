# This module touches files: it opens slides and a run's folder.
"""The widget Open: a slide with its pixel size, or a section of a run, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit, FloatSpinBox, PushButton
from napari.layers import Layer

from histoquant.errors import HistoquantError
from napari_histoquant.choosing import offer_choices, require_path, take_path
from napari_histoquant.messages import guard
from napari_histoquant.reader import read_layers
from napari_histoquant.slides import KEY

_FILES = "*.svs *.ndpi *.mrxs *.scn *.bif *.vms *.vmu *.svslide *.dcm *.tif *.tiff *.png *.jpg *.jpeg"


class OpenWidget(Container):
    """Open a slide or a section of a run.

    Parameters
    ----------
    napari_viewer : Viewer
        Where the layers go.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        self.slide = FileEdit(label="slide", filter=f"Slides ({_FILES})", nullable=True)
        self.mpp = FloatSpinBox(
            label="pixel size (um)",
            value=0.0,
            min=0.0,
            max=1.1,
            step=0.01,
            tooltip="Size of a pixel in micrometres, where the slide does not tell it; 0: as the slide says.",
        )
        self.open_slide = PushButton(text="Open slide")
        self.run = FileEdit(label="run", mode="d", nullable=True, tooltip="Folder of a run.")
        self.section = ComboBox(label="section", choices=[], tooltip="Sections measured in the run.")
        self.open_section = PushButton(text="Open section")
        super().__init__(
            widgets=[self.slide, self.mpp, self.open_slide, self.run, self.section, self.open_section]
        )
        self.open_slide.changed.connect(guard(self._open_slide))
        self.run.changed.connect(guard(self._list_sections))
        self.open_section.changed.connect(guard(self._open_section))

    def _open_slide(self) -> None:
        add_layers(self.viewer, require_path(self.slide, "slide", "Open"), self.mpp.value or None)

    def _list_sections(self) -> None:
        from napari_histoquant.sections import is_run, list_measured

        run = take_path(self.run)
        offer_choices(self.section, list_measured(run) if run and is_run(run) else [])

    def _open_section(self) -> None:
        from napari_histoquant.sections import list_measured

        measured = list_measured(require_path(self.run, "run", "Open"))
        if self.section.value not in measured:
            raise HistoquantError("no section is chosen", "Open", "choose a run, then a section")
        replace_layers(self.viewer, measured[self.section.value])


def add_layers(viewer: Any, place: Path, mpp: float | None = None) -> list[Any]:
    """Open a slide, run or section in a viewer.

    Parameters
    ----------
    viewer : ViewerModel
        Where the layers go; its scale bar is shown.
    place : Path
        As for `read_layers`.
    mpp : float, optional
        Pixel size, um/px.

    Returns
    -------
    list of Layer
        The new layers.
    """
    layers = [Layer.create(*layer) for layer in read_layers(place, mpp)]
    viewer.layers.extend(layers)
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.reset_view()
    return layers


def replace_layers(viewer: Any, place: Path) -> list[Any]:
    """Open a section in the place of another: layers of other sections go, the user's own stay."""
    old = [layer for layer in viewer.layers if "section" in layer.metadata.get(KEY, {})]
    layers = add_layers(viewer, place)
    for layer in old:
        viewer.layers.remove(layer)
    return layers
