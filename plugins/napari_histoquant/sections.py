# This module touches files: it reads a run's folder.
"""A measured section as layers: slide, fields, fibers, cells, positive cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoquant import results
from histoquant.errors import HistoquantError, ResultsError
from histoquant.geometry import Field
from histoquant.slide import open_slide
from napari_histoquant.layers import (
    CELLS,
    FIBERS,
    show_fields,
    show_labels,
    show_points,
)
from napari_histoquant.mosaic import Piece, join_pieces
from napari_histoquant.slides import KEY, LayerData, show_slide

_GAP_UM = 200.0
_PLACE = ("shape", "center_x_um", "center_y_um", "width_um", "height_um")
_SHOWN = ("status", "reason", "fibers", "positive_cells", "cells_per_fiber", "tissue_fraction")


@dataclass(frozen=True)
class Opened:
    """Layers of a section and what could not be shown, one sentence each."""

    layers: list[LayerData]
    notes: tuple[str, ...]


def is_section(folder: Path) -> bool:
    """Whether a folder is that of a measured section."""
    return (folder / results.RECORD).is_file()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "run.json").is_file()


def list_measured(run: Path) -> dict[str, Path]:
    """Folders of the sections of a run that have been measured, by ID.

    Raises
    ------
    ResultsError
        The folder is no run's, or none of its sections is measured.
    """
    about = results.read_json(run / "run.json")
    sections = about.get("sections") if isinstance(about, dict) else None
    if not isinstance(sections, dict):
        raise ResultsError(
            "is not a run's folder: it has no readable run.json", run, "open the --out of a run"
        )
    places = {name: run / "sections" / str(known["folder"]) for name, known in sections.items()}
    measured = {name: place for name, place in places.items() if is_section(place)}
    if not measured:
        raise ResultsError("holds no measured section", run, "measure one first")
    return measured


def open_section(folder: Path) -> Opened:
    """Open a measured section.

    Parameters
    ----------
    folder : Path
        `sections/<ID>` of a run.

    Returns
    -------
    Opened
        Slide, fibers, cells, positive cells and fields, the fields on top. A slide that is gone is
        told in the notes; the results are shown without it. Several images of one section lie side
        by side.

    Raises
    ------
    ResultsError
        The folder holds no result that can be read.
    """
    record = results.read_record(folder)
    if record is None:
        raise ResultsError("holds no measured section", folder, "measure it first")
    receipt = results.read_json(folder / "receipt.json")
    receipt = receipt if isinstance(receipt, dict) else {}
    rows = pd.DataFrame([row for row in record["fields"] if row.get("center_x_um") is not None])
    images, offsets, notes = _open_images(receipt, record, str(receipt.get("section") or folder.name))
    if rows.empty:
        return Opened(images, (*notes, f"{folder.name} has no measured field: {record.get('reason') or ''}"))
    objects = _read_objects(folder / "objects.parquet", offsets)
    layers = [
        *images,
        *_show_objects(folder, objects, offsets),
        *([show_points(objects)] if len(objects) else []),
        show_fields(_list_fields(rows, offsets), rows[["field", *_known(rows, _SHOWN)]]),
    ]
    for _, properties, _ in layers:
        properties["metadata"][KEY]["section"] = str(folder)
    return Opened(layers, tuple(notes))


def _open_images(
    receipt: Mapping[str, Any], record: Mapping[str, Any], name: str
) -> tuple[list[LayerData], dict[int, float], list[str]]:
    """Layers of the slide or images, x of every image's left edge by field, what is missing."""
    drawn = receipt.get("images")
    wanted = (
        [(int(one["number"]), one["image"], one["mpp"]) for one in drawn]
        if drawn
        else [(0, receipt.get("slide", ""), receipt.get("mpp"))]
    )
    layers: list[LayerData] = []
    offsets: dict[int, float] = {}
    notes: list[str] = []
    left = 0.0
    for number, file, mpp in wanted:
        offsets[number] = left
        path = next((Path(one) for one in record.get("inputs", {}) if Path(one).name == file), Path(file))
        try:
            slide = open_slide(_find_image(path, file), mpp)
        except HistoquantError as error:
            notes.append(f"The slide is not shown: {error}.")
            continue
        layers.append(show_slide(slide, f"{name} {number}" if drawn else name, (left, 0.0)))
        left += slide.width_px * (slide.mpp or 0.0) + _GAP_UM
    return layers, offsets, notes


def _find_image(path: Path, file: str) -> Path:
    return path / file if path.is_dir() else path


def _list_fields(rows: pd.DataFrame, offsets: Mapping[int, float]) -> list[Field]:
    fields = [Field(int(row["field"]), *(row[name] for name in _PLACE)) for row in rows.to_dict("records")]
    return [Field(f.number, f.shape, f.center_x_um + _shift(offsets, f.number), *_rest(f)) for f in fields]


def _rest(field: Field) -> tuple[float, float, float]:
    return field.center_y_um, field.width_um, field.height_um


def _shift(offsets: Mapping[int, float], number: int) -> float:
    return offsets.get(number, 0.0)


def _known(rows: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in rows]


def _read_objects(path: Path, offsets: Mapping[int, float]) -> pd.DataFrame:
    """Objects that lie in a field at least in part; what lies in its margin only would cover other fields."""
    objects = results.read_objects(path)
    objects = objects[objects["fraction_in_field"].gt(0)].reset_index(drop=True)
    return objects.assign(x_um=objects["x_um"] + objects["field"].map(lambda one: _shift(offsets, one)))


def _show_objects(folder: Path, objects: pd.DataFrame, offsets: Mapping[int, float]) -> list[LayerData]:
    layers = []
    for kind, name in (("fiber", FIBERS), ("cell", CELLS)):
        rows = objects[objects["kind"].eq(kind)].reset_index(drop=True)
        pieces, mpp = [], 0.0
        for number, labels in rows.groupby("field")["label"]:
            stored = results.read_labels(folder / "fields" / f"{number}_{name}.tif")
            mpp = stored.mpp
            renumbered = _renumber(stored.labels, labels)
            pieces.append(Piece(renumbered, stored.x_um + _shift(offsets, int(str(number))), stored.y_um))
        if pieces:
            mosaic = join_pieces(pieces, mpp)
            layers.append(show_labels(mosaic.levels, rows, name, mosaic.x_um, mosaic.y_um, mpp))
    return layers


def _renumber(labels: Any, rows: pd.Series[int]) -> Any:
    """Labels of one field as row numbers of the section's table, from 1."""
    table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    known = rows[rows.lt(len(table))]
    table[known.to_numpy(int)] = known.index.to_numpy(int) + 1
    return table[labels]
