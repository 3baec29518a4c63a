# This module touches files: it keeps a rendered section in the user's cache.
"""Sample data: a rendered section, which can be measured like any slide, and its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from platformdirs import user_cache_path

from histoquant import __version__
from histoquant.errors import StorageError
from histoquant.slide import open_slide
from histoquant.synthetic import (
    LayoutSettings,
    RenderSettings,
    Truth,
    read_truth,
    render_section,
    tell_truth,
    write_section,
    write_truth,
)
from napari_histoquant.messages import tell_errors
from napari_histoquant.reader import NOTHING
from napari_histoquant.slides import KEY, UNITS, LayerData, show_slide

SIZE_UM = (1800.0, 1600.0)
_NAME = "sample"


def make_sample() -> list[LayerData] | list[tuple[None]]:
    """Layers of the rendered section: the slide, its true fibers and its true positive cells."""
    with tell_errors():
        folder = user_cache_path("histoquant", appauthor=False) / __version__
        return show_sample(render_sample(folder, SIZE_UM))
    return NOTHING


def render_sample(folder: Path, size_um: tuple[float, float]) -> Path:
    """Render the section into a folder unless it is there; return the path of its slide.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    path = folder / f"{_NAME}.svs"
    if path.is_file():
        return path
    settings = RenderSettings(size_um=size_um, layout=LayoutSettings(foci_per_mm2=5.0))
    section = render_section(np.random.default_rng(7), settings)
    aside = folder / f"{_NAME}.new.svs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_truth(tell_truth(section), folder / _NAME)
        write_section(section, aside)
        aside.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", folder, "free space on the disk"
        ) from error
    return path


def show_sample(path: Path) -> list[LayerData]:
    """Show a rendered slide with the truth beside it on the disk.

    Returns
    -------
    list of tuple
        Slide, true fibers, true positive cells.
    """
    slide = open_slide(path)
    truth = read_truth(path.with_suffix(""))
    return [show_slide(slide, path.name), _show_fibers(truth), _show_cells(truth)]


def _show_fibers(truth: Truth) -> LayerData:
    properties = {
        "name": "true fibers",
        "scale": (truth.mpp, truth.mpp),
        "translate": (truth.y_um + truth.mpp / 2, truth.x_um + truth.mpp / 2),
        "units": UNITS,
        "opacity": 0.35,
        "visible": False,
        "metadata": {KEY: {"kind": "truth"}},
    }
    return truth.labels, properties, "labels"


def _show_cells(truth: Truth) -> LayerData:
    cells = truth.cells[truth.cells["positive"].eq(1)].reset_index(drop=True)
    properties = {
        "name": "true positive cells",
        "features": pd.DataFrame(
            {name: cells[name].to_numpy(object) for name in ("kind", "place", "nucleus")}
        ),
        "size": 2 * cells["nucleus_radius_um"].to_numpy(float) + 3,
        "face_color": "transparent",
        "border_color": "black",
        "border_width": 0.12,
        "units": UNITS,
        "visible": False,
        "metadata": {KEY: {"kind": "truth"}},
    }
    return cells[["y_um", "x_um"]].to_numpy(float), properties, "points"
