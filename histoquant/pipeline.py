"""The order of the stages: slide, tissue, fields (in `prepare`); then stains to counts, here.

slide -> tissue -> fields -> stains -> fibers, cells -> measure -> inclusion -> counts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from histoquant import pictures
from histoquant.cells import find_cells_of_field
from histoquant.counts import count_field
from histoquant.direction import tell_direction
from histoquant.fibers import cross_check_fibers, get_segmenter
from histoquant.geometry import Field, Patch
from histoquant.objects import Labels, Mask, find_inside, list_objects, outline_objects
from histoquant.prepare import FieldTask, Prepared, measure_quality, prepare_section, read_field
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.qc.judge import judge_quality
from histoquant.results import encode_labels
from histoquant.stains import Stains

__all__ = [
    "FieldTask",
    "Found",
    "Measured",
    "Prepared",
    "describe_field",
    "find_objects",
    "measure_field",
    "prepare_section",
]


@dataclass(frozen=True)
class Measured:
    """A measured field.

    Attributes
    ----------
    row : dict
        Its row of fields.csv, without what identifies the section.
    objects : DataFrame
        Every object, counted or not.
    features : list of dict
        GeoJSON outlines.
    files : dict of str to bytes
        Label maps and pictures by path within the section's folder.
    """

    row: dict[str, Any]
    objects: pd.DataFrame
    features: list[dict[str, Any]]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Found:
    """What is in a field and its margin: pixels, stains as separated and as measured, labels, objects."""

    patch: Patch
    separated: Stains
    stains: Stains
    inside: Mask
    fibers: Labels
    cells: Labels
    objects: pd.DataFrame


def find_objects(task: FieldTask, marker: MarkerSettings, protocol: Protocol) -> Found:
    """Read a field with its margin, segment it, and measure what was found.

    The first part of `measure_field`, for who needs no files; parameters and errors are the same.
    """
    patch, separated, stains = read_field(task, marker, protocol)
    fibers = get_segmenter(protocol.fibers)(stains)
    inside = find_inside(task.field, task.annotations, stains)
    cells = find_cells_of_field(stains, inside, protocol.cells, marker.compartment)
    how = (marker, protocol.cells, protocol.fibers)
    objects = list_objects(task.field.number, fibers, cells, stains, inside, *how)
    return Found(patch, separated, stains, inside, fibers, cells, objects)


def measure_field(task: FieldTask, marker: MarkerSettings, protocol: Protocol) -> Measured:
    """Measure one field: read it with its margin, segment, measure, count by half area.

    Parameters
    ----------
    task : FieldTask
        The field and its slide.
    marker : MarkerSettings
        What makes a cell positive.
    protocol : Protocol
        Settings.

    Returns
    -------
    Measured

    Raises
    ------
    HistoquantError
        The region cannot be read or segmented; this field fails, others go on.
    """
    found = find_objects(task, marker, protocol)
    field, patch, stains, objects = task.field, found.patch, found.stains, found.objects
    quality = measure_quality(task, patch, found.separated, protocol)
    flags = [finding.text for finding in judge_quality(quality, protocol.qc)]
    row = {
        **describe_field(field),
        "tissue_fraction": task.tissue_fraction,
        "tissue_mm2": task.tissue_fraction * field.area_um2 / 1e6,
        **count_field(objects),
    }
    along = tell_direction(objects, protocol.fibers)
    doubt = cross_check_fibers(found.fibers, stains, found.inside, protocol.fibers)
    row["reason"] = "; ".join(filter(None, [row["reason"], along, doubt, *flags]))
    row["quality"] = quality
    if flags and protocol.qc.exclude and row["status"] == "ok":
        row["status"] = "excluded"
    place = (stains.x_um, stains.y_um, stains.mpp)
    overlay = pictures.draw_overlay(patch, found.fibers, found.cells, objects, field)
    small = pictures.draw_field_thumbnail(patch, objects, field)
    files = {
        f"fields/{field.number}_fibers.tif": encode_labels(found.fibers, *place),
        f"fields/{field.number}_cells.tif": encode_labels(found.cells, *place),
        f"overlays/{field.number}.jpg": pictures.encode_jpeg(overlay, 80),
        f"overlays/{field.number}_small.webp": pictures.encode_webp(small),
    }
    outlines = outline_objects(objects, found.fibers, found.cells, stains, task.mpp, task.geojson_origin_px)
    if task.kind == "field":
        # Outlines of several images share a file; each lies in the pixels of its own image.
        for outline in outlines:
            outline["properties"]["image"] = task.path.name
    return Measured(row, objects, outlines, files)


def describe_field(field: Field) -> dict[str, Any]:
    """Where a field lies, as its row of fields.csv begins."""
    return {
        "field": field.number,
        "shape": field.shape,
        "center_x_um": field.center_x_um,
        "center_y_um": field.center_y_um,
        "width_um": field.width_um,
        "height_um": field.height_um,
    }
