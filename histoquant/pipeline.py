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
from histoquant.geometry import Field
from histoquant.objects import find_inside, list_objects, outline_objects
from histoquant.prepare import FieldTask, Prepared, measure_quality, prepare_section, read_field
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.qc.judge import judge_quality
from histoquant.results import encode_labels

__all__ = ["FieldTask", "Measured", "Prepared", "describe_field", "measure_field", "prepare_section"]


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
    field = task.field
    patch, stains = read_field(task, marker, protocol)
    quality = measure_quality(task, patch, protocol)
    flags = [finding.text for finding in judge_quality(quality, protocol.qc)]
    fibers = get_segmenter(protocol.fibers)(stains)
    inside = find_inside(field, task.annotations, stains)
    cells = find_cells_of_field(stains, inside, protocol.cells, marker.compartment)
    objects = list_objects(
        field.number, fibers, cells, stains, inside, marker, protocol.cells, protocol.fibers
    )
    row = {
        **describe_field(field),
        "tissue_fraction": task.tissue_fraction,
        "tissue_mm2": task.tissue_fraction * field.area_um2 / 1e6,
        **count_field(objects),
    }
    along = tell_direction(objects, protocol.fibers)
    doubt = cross_check_fibers(fibers, stains, inside, protocol.fibers)
    row["reason"] = "; ".join(filter(None, [row["reason"], along, doubt, *flags]))
    row["quality"] = quality
    if flags and protocol.qc.exclude and row["status"] == "ok":
        row["status"] = "excluded"
    place = (stains.x_um, stains.y_um, stains.mpp)
    overlay = pictures.draw_overlay(patch, fibers, cells, objects, field)
    small = pictures.draw_field_thumbnail(patch, objects, field)
    files = {
        f"fields/{field.number}_fibers.tif": encode_labels(fibers, *place),
        f"fields/{field.number}_cells.tif": encode_labels(cells, *place),
        f"overlays/{field.number}.jpg": pictures.encode_jpeg(overlay, 80),
        f"overlays/{field.number}_small.webp": pictures.encode_webp(small),
    }
    outlines = outline_objects(objects, fibers, cells, stains, task.mpp, task.geojson_origin_px)
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
