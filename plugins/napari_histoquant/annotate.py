# This module touches files: it opens the slide and reads and writes GeoJSON.
"""The widget Annotate: regions to keep and to exclude, the tissue they leave, GeoJSON in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import Container, FileEdit, PushButton

from histoquant.annotations import Annotations, join_regions, read_regions
from histoquant.errors import AnnotationError
from histoquant.prepare import Survey, survey_slide
from histoquant.protocol import Protocol
from histoquant.slide import open_slide
from napari_histoquant.background import start
from napari_histoquant.choosing import require_path
from napari_histoquant.layers import show_mask
from napari_histoquant.messages import guard, show_warning
from napari_histoquant.notes import make_note
from napari_histoquant.regions import (
    EXCLUDE,
    KEEP,
    REGIONS,
    collect_regions,
    prepare_drawing,
    save_regions,
    show_regions,
)
from napari_histoquant.scene import OpenSlide, find_layer, find_slide, put_layer

TISSUE, FEASIBLE = "tissue", "feasible centers"
_GREEN, _YELLOW = "#009e73", "#f0e442"


class AnnotateWidget(Container):
    """Annotate a slide.

    Parameters
    ----------
    napari_viewer : Viewer
        With the slide.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        self.keep = PushButton(
            text="Draw a region to keep",
            tooltip="Fields are drawn and objects counted within such regions only.",
        )
        self.exclude = PushButton(
            text="Draw a region to exclude", tooltip="A fold, an artefact, other tissue: no field touches it."
        )
        self.tissue = PushButton(
            text="Show tissue",
            tooltip="What is taken for tissue, less what is excluded; correct it by regions.",
        )
        self.file = FileEdit(label="GeoJSON", mode="w", filter="GeoJSON (*.geojson *.json)", nullable=True)
        self.load = PushButton(text="Open GeoJSON", tooltip="Regions as QuPath exports them.")
        self.save = PushButton(
            text="Save GeoJSON", tooltip="For QuPath, and for the column `annotations` of a study table."
        )
        self.about = make_note()
        super().__init__(
            widgets=[self.keep, self.exclude, self.tissue, self.file, self.load, self.save, self.about]
        )
        self.keep.changed.connect(guard(lambda: start_region(self.viewer, KEEP)))
        self.exclude.changed.connect(guard(lambda: start_region(self.viewer, EXCLUDE)))
        self.tissue.changed.connect(guard(self._show_tissue))
        self.load.changed.connect(guard(self._load))
        self.save.changed.connect(guard(self._save))

    def _load(self) -> None:
        self.about.value = open_regions(self.viewer, self._require_file())

    def _save(self) -> None:
        slide, path = find_slide(self.viewer), self._require_file()
        number = save_regions(find_layer(self.viewer, REGIONS), path, slide.mpp)
        self.about.value = f"{number} regions saved"

    def _require_file(self) -> Path:
        return require_path(self.file, "GeoJSON file", "Annotate")

    def _show_tissue(self) -> None:
        slide, annotations = find_slide(self.viewer), read_screen(self.viewer)
        self.about.value = "looking for tissue …"
        start(lambda: survey(slide, annotations, Protocol()), self._accept)

    def _accept(self, found: Survey) -> None:
        show_tissue(self.viewer, found)
        self.about.value = f"tissue: {found.tissue_mm2:.2f} mm²"


def start_region(viewer: Any, name: str) -> Any:
    """Let the next polygon drawn on the slide be a region of a class; return the layer."""
    find_slide(viewer)
    layer = find_layer(viewer, REGIONS) or put_layer(viewer, show_regions())
    viewer.layers.selection.active = layer
    prepare_drawing(layer, name)
    return layer


def open_regions(viewer: Any, path: Path) -> str:
    """Show the regions of a GeoJSON file in the place of those on the screen; say how many there are."""
    slide = find_slide(viewer)
    regions, notes = read_regions(path, slide.mpp)
    for note in notes:
        show_warning(f"{path.name}: {note}")
    if not regions:
        raise AnnotationError("holds no area", path, "draw polygons, rectangles or ellipses")
    put_layer(viewer, show_regions(regions))
    return f"{len(regions)} regions opened"


def read_screen(viewer: Any) -> Annotations:
    """Regions on the screen."""
    layer = find_layer(viewer, REGIONS)
    return join_regions([] if layer is None else collect_regions(layer))


def survey(slide: OpenSlide, annotations: Annotations, protocol: Protocol) -> Survey:
    """Find where fields may lie on the slide of the screen."""
    with open_slide(slide.path, slide.mpp) as opened:
        return survey_slide(opened, annotations, protocol)


def show_tissue(viewer: Any, found: Survey) -> Any:
    """Show what is tissue."""
    return put_layer(viewer, show_mask(found.tissue, TISSUE, _GREEN, found.mpp))


def show_feasible(viewer: Any, found: Survey) -> Any:
    """Show where the center of a field may lie."""
    return put_layer(viewer, show_mask(found.feasible, FEASIBLE, _YELLOW, found.mpp))
