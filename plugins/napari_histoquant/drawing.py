# This module touches files: it writes regions and the log of draws into the run's folder.
"""Fields drawn on the slide of the screen: by the library, logged, and never anew without a reason."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant.annotations import Region, encode_regions
from histoquant.draws import log_draw
from histoquant.errors import HistoquantError, ResultsError, StorageError
from histoquant.geometry import Field
from histoquant.prepare import Prepared, prepare_section
from histoquant.protocol import Protocol, load_protocol, validate_protocol
from histoquant.results import read_json, write_bytes
from histoquant.study import Section, Source
from napari_histoquant.layers import FIELDS, show_fields
from napari_histoquant.scene import OpenSlide, find_layer, put_layer
from napari_histoquant.slides import KEY

STUDY = "study.csv"


@dataclass(frozen=True)
class Request:
    """What is to be drawn and where its results go.

    Attributes
    ----------
    run : Path
        The run's folder.
    patient, group, marker : str
        As in a study table; patient and marker make the section's ID.
    seed : int
        Of the draw.
    protocol : Protocol
        Settings, those of fields among them.
    """

    run: Path
    patient: str
    group: str
    marker: str
    seed: int
    protocol: Protocol


@dataclass(frozen=True)
class Drawn:
    """Fields on the screen, ready to be measured.

    Attributes
    ----------
    request : Request
        What was asked for.
    section : Section
        With the slide and the regions as a file.
    prepared : Prepared
        Fields, receipt.
    """

    request: Request
    section: Section
    prepared: Prepared

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields in the order drawn."""
        return tuple(task.field for task in self.prepared.tasks)


def choose_protocol(path: Path | None, **fields: Any) -> Protocol:
    """Read the laboratory's protocol and give it the number, shape and width of fields on the screen.

    Raises
    ------
    ProtocolError
        The file cannot be used, or a value is out of bounds.
    """
    settings = load_protocol(path)
    data = settings.model_dump(mode="json")
    return validate_protocol({**data, "fields": {**data["fields"], **fields}}, path or "protocol")


def draw_fields(slide: OpenSlide, regions: Sequence[Region], request: Request, reason: str = "") -> Drawn:
    """Draw fields as a run of the same section, seed and protocol does, and log the draw.

    Parameters
    ----------
    slide : OpenSlide
        Of the screen.
    regions : sequence of Region
        To keep and to exclude; they are kept as GeoJSON in the run's folder.
    request : Request
        What to draw.
    reason : str, optional
        Why fields are drawn anew where counts exist.

    Returns
    -------
    Drawn

    Raises
    ------
    HistoquantError
        A name is missing, the folder belongs to another study, no field fits, or a reason is wanting.
    """
    _check(request)
    section = make_section(slide, request)
    place = request.run / "annotations" / f"{section.folder}.geojson"
    aside = place.with_name(f".{place.name}.new")
    try:
        if regions:
            _make_folder(place.parent)
            write_bytes(aside, encode_regions(regions, slide.mpp))
        annotations = aside if regions else None
        drawn = prepare_section(_annotate(section, annotations), request.protocol, request.seed)
        if drawn.receipt.get("drawn", True):
            log_draw(request.run, section.id, section.folder, drawn.receipt, reason)
        if regions:
            aside.replace(place)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return Drawn(request, _annotate(section, place if regions else None), drawn)


def make_section(slide: OpenSlide, request: Request) -> Section:
    """The section of a study that the slide is."""
    source = Source(slide.path.absolute(), 2, slide.mpp)
    name = f"{request.patient}-{request.marker}"
    return Section(name, request.patient, request.group, request.marker, "", "", "", (source,))


def show_drawn(viewer: Any, drawn: Drawn) -> Any:
    """Show fields and remember in their layer how they were drawn; return the layer."""
    tissue = pd.DataFrame(
        {
            "field": [field.number for field in drawn.fields],
            "tissue_fraction": [task.tissue_fraction for task in drawn.prepared.tasks],
        }
    )
    data, properties, kind = show_fields(drawn.fields, tissue)
    properties["metadata"] = {KEY: {"kind": FIELDS, "drawn": drawn}}
    return put_layer(viewer, (data, properties, kind))


def find_drawn(viewer: Any) -> Drawn:
    """The fields drawn on the screen.

    Raises
    ------
    HistoquantError
        None are.
    """
    layer = find_layer(viewer, FIELDS)
    drawn = None if layer is None else layer.metadata[KEY].get("drawn")
    if not isinstance(drawn, Drawn):
        raise HistoquantError("no fields are drawn", fix="draw them in Plugins > histoquant > Draw fields")
    return drawn


def describe_drawn(drawn: Drawn) -> str:
    """Say how many fields were drawn and whether that is what was asked for."""
    got, asked = len(drawn.fields), drawn.prepared.fields_asked
    if got < asked:
        return (
            f"Only {got} of {asked} fields fit on the tissue. Ask for fewer or smaller fields, or measure "
            "these: the section is then called incomplete."
        )
    area = drawn.prepared.receipt.get("feasible_mm2")
    room = "" if area is None else f", drawn from {area:.2f} mm² of feasible centers"
    return f"{got} fields{room}, seed {drawn.request.seed}"


def step_field(viewer: Any, step: int) -> int | None:
    """Bring the next field, or the one before, into view; return its number, None without fields."""
    layer = find_layer(viewer, FIELDS)
    if layer is None or not len(layer.data):
        return None
    about = layer.metadata[KEY]
    about["current"] = index = (about.get("current", -1 if step > 0 else 0) + step) % len(layer.data)
    box = layer.data[index]
    center, size = box.mean(axis=0), box.max(axis=0) - box.min(axis=0)
    viewer.scene.camera.center = (0.0, *center)
    viewer.scene.camera.zoom = 0.9 * min(viewer.canvas.size) / float(size.max())
    return int(layer.features["field"].iloc[index])


def _check(request: Request) -> None:
    for name in ("patient", "group", "marker"):
        if not str(getattr(request, name)).strip():
            raise HistoquantError(f"no {name} is given", "Draw fields", f"name the {name}")
    if request.run == Path():
        raise HistoquantError("no folder is chosen", "Draw fields", "choose a folder for the results")
    about = read_json(request.run / "run.json")
    if (
        isinstance(about, dict)
        and Path(about["study"]["path"]).absolute() != (request.run / STUDY).absolute()
    ):
        raise ResultsError(
            "holds the results of another study", request.run, "choose another folder for the results"
        )


def _annotate(section: Section, path: Path | None) -> Section:
    return replace(section, sources=(replace(section.sources[0], annotations=path),))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot be made ({error.strerror})", folder, "choose another folder for the results"
        ) from error
