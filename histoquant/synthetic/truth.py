# This module touches files: it reads and writes truth beside a slide.
"""Truth of a section: label map of fibers, table of cells, and counts in a field by the half-area rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile

from histoquant.errors import HistoquantError
from histoquant.geometry import Field, rasterize_field
from histoquant.synthetic.section import Section

BODY_UM = 1.5
SAMPLES = 64


class TruthError(HistoquantError):
    """Truth files are missing or do not say where they are."""


class Count(NamedTuple):
    """Fibers and positive cells."""

    fibers: int
    positive_cells: int


@dataclass(frozen=True)
class Truth:
    """What is known of a section.

    Attributes
    ----------
    labels : ndarray of int32, shape (rows, columns)
        Fibers, 0 = none.
    x_um, y_um, mpp : float
        Upper left corner and pixel size of `labels`, um.
    cells : DataFrame
        x_um, y_um, nucleus_radius_um, positive (1, 0 or -1: uncertain, counts neither way), nucleus (bool).
    uncertain : ndarray of bool or None
        Pixels of `labels` where nobody can tell; objects there count neither way.
    """

    labels: npt.NDArray[np.int32]
    x_um: float
    y_um: float
    mpp: float
    cells: pd.DataFrame
    uncertain: npt.NDArray[np.bool_] | None = None


def tell_truth(section: Section) -> Truth:
    """Truth of a rendered section."""
    origin = section.labels_origin_um
    cells = section.cells.assign(positive=section.cells.positive.astype(int))
    return Truth(section.labels, origin, origin, section.labels_mpp, cells)


def truth_in_field(truth: Truth, field: Field, count_without_nucleus: bool = False) -> Count:
    """Fibers and positive cells more than half inside a field.

    A fiber is its label, a cell the disc of its nucleus radius + 1.5 um.

    Parameters
    ----------
    truth : Truth
        Of the whole section.
    field : Field
        Where to count.
    count_without_nucleus : bool, optional
        Count rings whose nucleus lies outside the plane.

    Returns
    -------
    Count
        `fibers` and `positive_cells`.

    Examples
    --------
    >>> cells = pd.DataFrame({"x_um": [4.0], "y_um": [4.0], "nucleus_radius_um": [2.0], "positive": [1]})
    >>> truth = Truth(np.array([[1, 1, 1, 2]], np.int32), 0.0, 0.0, 4.0, cells)
    >>> truth_in_field(truth, Field(1, "square", 4.0, 4.0, 8.0, 8.0))
    Count(fibers=1, positive_cells=1)
    """
    inside = rasterize_field(field, truth.labels.shape, truth.x_um, truth.y_um, truth.mpp)
    size = np.bincount(truth.labels.ravel())
    share = np.bincount(truth.labels[inside], minlength=len(size)) / np.maximum(size, 1)
    fibers = np.flatnonzero(share > 0.5)
    if truth.uncertain is not None:
        doubt = np.bincount(truth.labels[truth.uncertain], minlength=len(size)) / np.maximum(size, 1)
        fibers = fibers[doubt[fibers] <= 0.5]
    cells = _counted_cells(truth, count_without_nucleus)
    reach = np.hypot(field.width_um, field.height_um) / 2 + 20
    near = np.hypot(cells.x_um - field.center_x_um, cells.y_um - field.center_y_um) < reach
    columns = ["x_um", "y_um", "nucleus_radius_um"]
    shares = [_disc_share(field, *row) for row in cells.loc[near, columns].to_numpy()]
    return Count(int((fibers > 0).sum()), int((np.array(shares) > 0.5).sum()))


def true_ratio(truth: Truth, count_without_nucleus: bool = False) -> float:
    """Positive cells per fiber of the whole section; nan without fibers.

    Examples
    --------
    >>> cells = pd.DataFrame({"x_um": [1.0], "y_um": [1.0], "nucleus_radius_um": [2.0], "positive": [1]})
    >>> true_ratio(Truth(np.array([[1, 0, 2]], np.int32), 0.0, 0.0, 4.0, cells))
    0.5
    """
    labels = truth.labels
    if truth.uncertain is not None:
        size = np.bincount(labels.ravel())
        doubt = np.bincount(labels[truth.uncertain], minlength=len(size)) > size / 2
        labels = np.where(doubt[labels], 0, labels)
    fibers = len(np.setdiff1d(labels, [0]))
    positive = len(_counted_cells(truth, count_without_nucleus))
    return positive / fibers if fibers else float("nan")


def find_uncertain(truth: Truth, x_um: npt.ArrayLike, y_um: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether points lie where nobody can tell, so that a measured object there counts neither way.

    Parameters
    ----------
    truth : Truth
        Of the section.
    x_um, y_um : array_like of float, shape (n,)
        Points.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    column = np.floor((np.asarray(x_um, float) - truth.x_um) / truth.mpp).astype(int)
    row = np.floor((np.asarray(y_um, float) - truth.y_um) / truth.mpp).astype(int)
    if truth.uncertain is None:
        return np.zeros(row.shape, bool)
    rows, columns = truth.uncertain.shape
    return np.asarray(truth.uncertain[row.clip(0, rows - 1), column.clip(0, columns - 1)])


def _counted_cells(truth: Truth, count_without_nucleus: bool) -> pd.DataFrame:
    """Positive cells that count."""
    cells = truth.cells[truth.cells.positive == 1]
    if "nucleus" in cells and not count_without_nucleus:
        cells = cells[cells.nucleus.astype(bool)]
    return cells[~find_uncertain(truth, cells.x_um, cells.y_um)]


def _disc_share(field: Field, x_um: float, y_um: float, nucleus_radius_um: float) -> float:
    """Share of a cell's disc inside a field; an even number of samples keeps exactly half exact."""
    radius = nucleus_radius_um + BODY_UM
    step = 2 * radius / SAMPLES
    side = (np.arange(SAMPLES) + 0.5) * step - radius
    disc = side[:, None] ** 2 + side[None, :] ** 2 < radius**2
    inside = rasterize_field(field, disc.shape, x_um - radius, y_um - radius, step)
    return float(inside[disc].mean())


def write_truth(truth: Truth, prefix: Path) -> None:
    """Write `PREFIX_fibers.tif` and `PREFIX_cells.csv`.

    Parameters
    ----------
    truth : Truth
        What to write; `uncertain` becomes `PREFIX_ignore.tif`.
    prefix : Path
        Folder and beginning of the names.
    """
    about = json.dumps({"origin_x_um": truth.x_um, "origin_y_um": truth.y_um, "mpp": truth.mpp})
    images = {"fibers": truth.labels}
    if truth.uncertain is not None:
        images["ignore"] = truth.uncertain.astype(np.uint8)
    for name, image in images.items():
        tifffile.imwrite(
            _name(prefix, f"{name}.tif"), image, description=about, compression="zlib", metadata=None
        )
    table = truth.cells.round({"x_um": 2, "y_um": 2, "nucleus_radius_um": 2, "dab_od": 3})
    table.to_csv(_name(prefix, "cells.csv"), index=False, lineterminator="\n")


def read_truth(prefix: Path, slide_mpp: float | None = None, step: int = 4) -> Truth:
    """Read `PREFIX_fibers.tif`, `PREFIX_cells.csv` and, where present, `PREFIX_ignore.tif`.

    Parameters
    ----------
    prefix : Path
        Folder and beginning of the names.
    slide_mpp : float, optional
        Pixel size of the slide, for a label image that does not tell its own.
    step : int, optional
        Such an image holds every `step`-th pixel, its pixel i being slide pixel `step` i + `step` // 2.

    Returns
    -------
    Truth

    Raises
    ------
    TruthError
        A file is missing, or the pixel size is unknown.
    """
    image, table, ignore = (_name(prefix, name) for name in ("fibers.tif", "cells.csv", "ignore.tif"))
    for path in (image, table):
        if not path.is_file():
            raise TruthError(
                "is missing", path, "give the folder and the beginning of the truth files' names"
            )
    with tifffile.TiffFile(image) as file:
        labels = file.pages[0].asarray().astype(np.int32)
        about = file.pages[0].description
    if about.startswith("{"):
        place = json.loads(about)
    elif slide_mpp is not None:
        origin = (step // 2 + 0.5 - step / 2) * slide_mpp
        place = {"origin_x_um": origin, "origin_y_um": origin, "mpp": step * slide_mpp}
    else:
        raise TruthError("does not tell its pixel size", image, "give the slide's pixel size")
    uncertain = tifffile.imread(ignore) > 0 if ignore.is_file() else None
    return Truth(
        labels, place["origin_x_um"], place["origin_y_um"], place["mpp"], pd.read_csv(table), uncertain
    )


def _name(prefix: Path, ending: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{ending}")
