# This module touches files: it reads a drawn field and writes a protocol.
"""One drawn field measured under settings that are tried: stains, white point, threshold of a cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tomli_w

from histoquant.counts import count_field
from histoquant.errors import HistoquantError
from histoquant.pictures import GREY, VERMILLION
from histoquant.pipeline import FieldTask, find_objects, prepare_section
from histoquant.protocol import Protocol, Vector, validate_protocol
from histoquant.results import write_bytes
from histoquant.stains import Stains
from napari_histoquant.drawing import Drawn
from napari_histoquant.slides import KEY, UNITS, LayerData

HAEMATOXYLIN, DAB, CANDIDATES = "haematoxylin", "DAB", "cells to call"
_RING_UM = 16.0
_SHOWN_OD = (0.0, 0.8)


@dataclass(frozen=True)
class Tuned:
    """A field measured with the settings tried.

    Attributes
    ----------
    task : FieldTask
        The field, with the white point and the stain vectors that were taken.
    stains : Stains
        As the cells were measured on.
    objects : DataFrame
        Every object, called by `threshold_od`.
    marker : str
        Its name.
    threshold_od : float
        DAB above which a cell is positive.
    """

    task: FieldTask
    stains: Stains
    objects: pd.DataFrame
    marker: str
    threshold_od: float


def tune_field(drawn: Drawn, number: int, protocol: Protocol) -> Tuned:
    """Measure a drawn field as a run does, under the settings tried.

    Parameters
    ----------
    drawn : Drawn
        Fields on the screen.
    number : int
        Of the field.
    protocol : Protocol
        Settings; of fields it has those of the draw.

    Returns
    -------
    Tuned

    Raises
    ------
    HistoquantError
        There is no such field, or the slide cannot be read.
    """
    settings = protocol.model_copy(update={"fields": drawn.request.protocol.fields})
    tasks = prepare_section(drawn.section, settings, drawn.request.seed).tasks
    task = next((task for task in tasks if task.field.number == number), None)
    if task is None:
        raise HistoquantError(f"field {number} is not drawn", "Tune", f"choose one of 1 to {len(tasks)}")
    name = drawn.request.marker
    marker = settings.markers[name]
    found = find_objects(task, marker, settings)
    return Tuned(task, found.stains, found.objects, name, marker.threshold_od)


def call_cells(tuned: Tuned, threshold_od: float) -> Tuned:
    """Call the cells by another threshold; nothing that is counted depends on it otherwise.

    Confidence and place of the cells stay those of the threshold that the field was measured with.
    """
    cells = tuned.objects["kind"].eq("cell")
    called = tuned.objects["dab_od"].gt(threshold_od).where(cells, tuned.objects["positive"])
    return replace(
        tuned, objects=tuned.objects.assign(positive=called.astype(bool)), threshold_od=threshold_od
    )


def count_calls(tuned: Tuned) -> dict[str, Any]:
    """Counts of the field, as in its row of fields.csv."""
    return dict(count_field(tuned.objects))


def change_protocol(
    protocol: Protocol, marker: str, threshold_od: float, white: str, haematoxylin: str, dab: str
) -> Protocol:
    """Give a protocol what is on the screen.

    Parameters
    ----------
    protocol : Protocol
        What is not tuned comes from it.
    marker, threshold_od
        The threshold of that marker.
    white : str
        Three intensities, or `auto`.
    haematoxylin, dab : str
        Three densities each; or `default` or `auto`, the same for both.

    Returns
    -------
    Protocol

    Raises
    ------
    HistoquantError
        A value is no number, or out of bounds.
    """
    data = protocol.model_dump(mode="json")
    words = {haematoxylin, dab}
    plain = words.pop() if words <= {"default", "auto"} and len(words) == 1 else ""
    vectors: Any = plain or [_read_numbers(text, "stain vector") for text in (haematoxylin, dab)]
    point: Any = white if white == "auto" else _read_numbers(white, "white point")
    data["stain"] = {"white": point, "vectors": vectors}
    data["markers"][marker]["threshold_od"] = round(threshold_od, 4)
    return validate_protocol(data, "Tune")


def describe_stain(protocol: Protocol) -> tuple[str, str, str]:
    """White point, haematoxylin and DAB of a protocol, as `change_protocol` takes them."""
    stain = protocol.stain
    white = stain.white if isinstance(stain.white, str) else _write_numbers(stain.white)
    if isinstance(stain.vectors, str):
        return white, stain.vectors, stain.vectors
    return white, _write_numbers(stain.vectors[0]), _write_numbers(stain.vectors[1])


def save_protocol(protocol: Protocol, path: Path) -> None:
    """Write a protocol as TOML that `--protocol` and Draw fields take."""
    write_bytes(path, tomli_w.dumps(protocol.model_dump(mode="json")).encode())


def describe_calls(tuned: Tuned) -> str:
    """Counts of the field and what the stains were taken to be, in words."""
    row = count_calls(tuned)
    ratio = row["cells_per_fiber"]
    shown = "no ratio" if ratio != ratio else f"{ratio:.3f} per fiber"
    counts = f"{row['positive_cells']} positive cells, {row['fibers']} fibers, {shown}"
    white, vectors = _write_numbers(tuned.task.white, 0), [_write_numbers(one) for one in tuned.task.vectors]
    stains = f"white {white}\nhaematoxylin {vectors[0]}; DAB {vectors[1]}"
    return f"field {tuned.task.field.number}: {counts}\n{stains}"


def list_candidates(tuned: Tuned) -> pd.DataFrame:
    """Cells of the field that count if they are positive."""
    objects = tuned.objects
    return objects[objects["kind"].eq("cell") & objects["counted"]].reset_index(drop=True)


def show_stains(tuned: Tuned) -> list[LayerData]:
    """Show both stains as grey images, dark where there is much."""
    stains = tuned.stains
    place = {
        "scale": (stains.mpp, stains.mpp),
        "translate": (stains.y_um + stains.mpp / 2, stains.x_um + stains.mpp / 2),
        "units": UNITS,
        "contrast_limits": _SHOWN_OD,
        "colormap": "gray_r",
    }
    return [
        (image, {"name": name, "visible": name == DAB, "metadata": {KEY: {"kind": name}}, **place}, "image")
        for name, image in ((HAEMATOXYLIN, stains.haematoxylin), (DAB, stains.dab))
    ]


def show_candidates(tuned: Tuned) -> LayerData:
    """Show the cells that count as rings, coloured where positive."""
    cells = list_candidates(tuned)
    properties = {
        "name": CANDIDATES,
        "ndim": 2,
        "size": _RING_UM,
        "border_width": 0.1,
        "border_color": color_calls(tuned) if len(cells) else "transparent",
        "face_color": "transparent",
        "features": pd.DataFrame({"dab_od": cells["dab_od"].to_numpy(float)}),
        "units": UNITS,
        "metadata": {KEY: {"kind": CANDIDATES}},
    }
    return cells[["y_um", "x_um"]].to_numpy(float), properties, "points"


def color_calls(tuned: Tuned) -> npt.NDArray[np.float64]:
    """Colour of every candidate, RGBA: positive or not."""
    positive = list_candidates(tuned)["positive"].to_numpy(bool)
    colors = np.array([[*GREY, 160], [*VERMILLION, 255]]) / 255
    return np.asarray(colors[positive.astype(int)])


def _read_numbers(text: str, what: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise HistoquantError(f"{text!r} is no {what}", "Tune", "give three numbers: red, green, blue")
    return numbers


def _write_numbers(values: Vector, decimals: int = 3) -> str:
    return " ".join(f"{value:.{decimals}f}" for value in values)
