"""Render a section of muscle, haematoxylin and DAB, with its exact truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from skimage.measure import label

from histoquant.synthetic.cells import BODY_UM, Labels, fill_shape, populate_section
from histoquant.synthetic.layout import Layout, arrange_section
from histoquant.synthetic.paint import expose_section
from histoquant.synthetic.settings import RenderSettings, StainingSettings

CELL_COLUMNS = [
    *("x_um", "y_um", "nucleus_radius_um", "positive", "nucleus", "place", "fiber", "kind", "dab_od")
]


@dataclass(frozen=True)
class Section:
    """A rendered section and its truth.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    mpp : float
        Pixel size, um/px.
    labels : ndarray of int32
        Fibers, 0 = none.
    labels_mpp, labels_origin_um : float
        Pixel size of `labels`, um/px, and x and y of its upper left corner.
    fibers : DataFrame
        label, x_um, y_um, area_um2, kind, positive.
    cells : DataFrame
        x_um, y_um, nucleus_radius_um, positive, nucleus, place, fiber, kind, dab_od.
    """

    pixels: npt.NDArray[np.uint8]
    mpp: float
    labels: Labels
    labels_mpp: float
    labels_origin_um: float
    fibers: pd.DataFrame
    cells: pd.DataFrame


def render_section(rng: np.random.Generator, settings: RenderSettings) -> Section:
    """Render a section.

    Parameters
    ----------
    rng : Generator
        Source of randomness; the same state and settings give the same bytes.
    settings : RenderSettings
        Sizes, densities, stains.

    Returns
    -------
    Section
    """
    return render_layout(rng, arrange_section(rng, settings.size_um, settings.layout), settings)


def render_layout(rng: np.random.Generator, layout: Layout, settings: RenderSettings) -> Section:
    """Render a section whose layout is given: cells, stain and light are drawn.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    layout : Layout
        Within `settings.size_um`; fiber 1 of the truth is its first.
    settings : RenderSettings
        Sizes, densities, stains.

    Returns
    -------
    Section
    """
    mpp = settings.mpp
    rows, columns = (round(side / mpp) for side in reversed(settings.size_um))
    fine = _draw_fibers(layout, (rows, columns), mpp)
    step = max(round(1 / mpp), 1)
    every = np.s_[step // 2 :: step, step // 2 :: step]
    cells = populate_section(rng, layout, fine[every], step * mpp, settings.cells, settings.layout)
    _dent(fine, cells, mpp)
    labels = _settle(fine[every])
    origin_um = (step // 2 + 0.5 - step / 2) * mpp
    fibers = _describe_fibers(rng, labels, step * mpp, origin_um, layout, settings.staining)
    pixels = expose_section(rng, fine, labels, step, layout, fibers, cells, settings)
    fibers = fibers[fibers.area_um2 > 0].drop(columns="dab_od").reset_index(drop=True)
    cells = cells[CELL_COLUMNS]
    return Section(pixels, mpp, labels, step * mpp, origin_um, fibers, cells)


def _draw_fibers(layout: Layout, shape: tuple[int, int], mpp: float) -> Labels:
    """Labels of fibers; a filled polygon covers half a pixel more than it should."""
    labels = np.zeros(shape, np.int32)
    for number, fiber in enumerate(shapely.buffer(layout.fibers, -mpp / 2, quad_segs=2), start=1):
        fill_shape(labels, fiber, mpp, number)
    return labels


def _dent(labels: Labels, cells: pd.DataFrame, mpp: float) -> None:
    """Cells between fibers push the fibers aside (in place)."""
    between = cells[(cells.fiber == 0) & cells.kind.isin(["lymphocyte", "endothelial"])]
    rim = np.where(between.kind == "lymphocyte", BODY_UM, 0.4)
    axes = (between[["long_um", "short_um"]].to_numpy() + rim[:, None]) / mpp * 16
    centre = (between[["x_um", "y_um"]].to_numpy() / mpp - 0.5) * 16
    turn = np.degrees(between.angle.to_numpy())
    for middle, axis, angle in zip(centre.round().astype(int), axes.round().astype(int), turn, strict=True):
        # cv2's own ellipse with shift keeps sixteenths of a pixel.
        cv2.ellipse(labels, middle.tolist(), axis.tolist(), float(angle), 0, 360, 0, -1, cv2.LINE_8, 4)


def _settle(labels: Labels) -> Labels:
    """Keep the largest connected part of every fiber."""
    parts = label(labels, connectivity=1, background=0)
    size = np.bincount(parts.ravel())
    owner = np.zeros(len(size), np.int64)
    owner[parts.ravel()] = labels.ravel()
    order = np.lexsort([size, owner])
    largest = order[np.r_[np.flatnonzero(np.diff(owner[order])), len(order) - 1]]
    kept = np.zeros(len(size), np.int32)
    kept[largest] = owner[largest]
    return np.asarray(kept[parts])


def _describe_fibers(
    rng: np.random.Generator,
    labels: Labels,
    step_um: float,
    origin_um: float,
    layout: Layout,
    settings: StainingSettings,
) -> pd.DataFrame:
    """Truth of every fiber; which hold DAB."""
    number = len(layout.fibers)
    size = np.bincount(labels.ravel(), minlength=number + 1)
    flat = labels.ravel()
    middle = [
        np.bincount(flat, np.broadcast_to(place, labels.shape).ravel(), number + 1)[1:]
        / np.maximum(size[1:], 1)
        for place in (np.arange(labels.shape[1]), np.arange(labels.shape[0])[:, None])
    ]
    odds = np.select([layout.kinds == "necrotic", layout.kinds == "regenerating"], [20.0, 8.0], 1.0)
    order = np.argsort(-odds * rng.random(number), kind="stable")
    positive = np.zeros(number, bool)
    positive[order[: rng.poisson(settings.positive_fibers * number)]] = True
    columns_um = [origin_um + (place + 0.5) * step_um for place in middle]
    return pd.DataFrame(
        {
            "label": np.arange(1, number + 1, dtype=np.int32),
            "x_um": columns_um[0],
            "y_um": columns_um[1],
            "area_um2": size[1:] * step_um**2,
            "kind": layout.kinds,
            "positive": positive,
            "dab_od": np.where(positive, rng.uniform(*settings.positive_fiber_od, number), 0.0),
        }
    )
