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
from histoquant.synthetic.settings import RenderSettings, StainingSettings

Layer = npt.NDArray[np.float32]
STRIP = 256


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
    mpp = settings.mpp
    rows, columns = (round(side / mpp) for side in reversed(settings.size_um))
    layout = arrange_section(rng, settings.size_um, settings.layout)
    fine = _draw_fibers(layout, (rows, columns), mpp)
    step = max(round(1 / mpp), 1)
    every = np.s_[step // 2 :: step, step // 2 :: step]
    cells = populate_section(rng, layout, fine[every], step * mpp, settings.cells, settings.layout)
    _dent(fine, cells, mpp)
    labels = _settle(fine[every])
    origin_um = (step // 2 + 0.5 - step / 2) * mpp
    fibers = _describe_fibers(rng, labels, step * mpp, origin_um, layout, settings.staining)
    pixels = _expose(rng, fine, labels, step, layout, fibers, cells, settings)
    fibers = fibers[fibers.area_um2 > 0].drop(columns="dab_od").reset_index(drop=True)
    cells = cells.drop(columns=["long_um", "short_um", "angle"])
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
    return kept[parts]


def _describe_fibers(
    rng: np.random.Generator, labels: Labels, step_um: float, origin_um: float, layout: Layout, settings: StainingSettings
) -> pd.DataFrame:
    """Truth of every fiber; which hold DAB."""
    number = len(layout.fibers)
    size = np.bincount(labels.ravel(), minlength=number + 1)
    rows, columns = np.nonzero(labels)
    inside = labels[rows, columns]
    middle = [
        np.bincount(inside, place, number + 1)[1:] / np.maximum(size[1:], 1) for place in (columns, rows)
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


def _expose(
    rng: np.random.Generator,
    fine: Labels,
    labels: Labels,
    step: int,
    layout: Layout,
    fibers: pd.DataFrame,
    cells: pd.DataFrame,
    settings: RenderSettings,
) -> npt.NDArray[np.uint8]:
    """Light through the stains (Beer-Lambert), strip by strip to stay in the cache."""
    light = settings.staining
    mpp = settings.mpp
    ground_h, ground_d, grain = _ground(rng, labels, step * mpp, layout, light)
    dye_h, dye_d = _fiber_dye(rng, fibers, light)
    hazy = ~cells.positive.to_numpy() & (rng.random(len(cells)) < light.hazy)
    nuclei = _draw_nuclei(rng, fine.shape, cells[~hazy], mpp, light)
    haze = _draw_nuclei(rng, fine.shape, cells[hazy], mpp, light)
    rings = _draw_rings(rng, fine.shape, cells, settings)
    tile = rng.standard_normal((2 * STRIP, fine.shape[1], 3), np.float32) * light.noise
    chromatin = 1 + light.chromatin * _noise(rng, (2 * STRIP, fine.shape[1]), 0.9 / mpp)
    pixels = np.empty((*fine.shape, 3), np.uint8)
    halo = 2 * step
    for top in range(0, fine.shape[0], STRIP):
        bottom = min(top + STRIP, fine.shape[0])
        low, high = max(top - halo, 0), min(bottom + halo, fine.shape[0])
        strip = np.s_[low:high]
        maps = [_enlarge(image, low, high, step, fine.shape[1]) for image in (ground_h, ground_d, grain)]
        start = int(rng.integers(STRIP - 2 * halo))
        dark = nuclei[strip].astype(np.float32) + cv2.GaussianBlur(haze[strip].astype(np.float32), (0, 0), 0.9 / mpp)
        dark *= chromatin[start : start + high - low]
        h, d = _mix(fine[strip], maps, dye_h, dye_d, dark, rings[strip])
        image = _transmit(h, d, light)
        image = cv2.GaussianBlur(image, (0, 0), max(light.blur_um / mpp, 0.1))
        exposed = image[top - low : bottom - low] + tile[start : start + bottom - top]
        pixels[top:bottom] = np.clip(exposed, 0, 255)
    return pixels


def _enlarge(image: Layer, low: int, high: int, step: int, width: int) -> Layer:
    """Rows `low` to `high` of a map enlarged `step` times."""
    first, last = max(low // step - 2, 0), -(-high // step) + 2
    part = image[first:last]
    size = part.shape[1] * step, part.shape[0] * step
    large = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(large[low - first * step : high - first * step, :width])


def _mix(
    labels: Labels, maps: list[Layer], dye_h: Layer, dye_d: Layer, nuclei: Layer, rings: Layer
) -> tuple[Layer, Layer]:
    """Haematoxylin and DAB of a strip."""
    ground_h, ground_d, grain = maps
    fiber = labels > 0
    h = np.where(fiber, dye_h[labels] * grain, ground_h)
    d = np.where(fiber, dye_d[labels] * grain, ground_d)
    h += nuclei * np.float32(1 / 200)
    return h, d + rings


def _transmit(h: Layer, d: Layer, light: StainingSettings) -> Layer:
    """Intensity = white * 10^-OD."""
    channels = []
    for white, a, b in zip(light.white, light.haematoxylin_vector, light.dab_vector, strict=True):
        od = cv2.addWeighted(h, -a * np.log(10), d, -b * np.log(10), 0)
        channels.append(cv2.exp(od) * np.float32(white))
    return np.asarray(cv2.merge(channels))


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> Layer:
    """Smooth noise of unit variance or so."""
    small = tuple(max(int(side / scale_px), 1) + 2 for side in shape)
    field = rng.standard_normal(small, np.float32)
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_CUBIC))


def _ground(
    rng: np.random.Generator, labels: Labels, step_um: float, layout: Layout, light: StainingSettings
) -> tuple[Layer, Layer, Layer]:
    """Haematoxylin and DAB between fibers, and the grain of fibers, at the labels' pixel size."""
    shape = labels.shape
    tissue, bundles = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    fill_shape(tissue, layout.tissue, step_um, 1)
    for fascicle in layout.fascicles:
        fill_shape(bundles, fascicle, step_um, 1)
    away = cv2.distanceTransform(1 - bundles, cv2.DIST_L2, 5) * step_um
    drift = 1 + light.unevenness * 0.5 * _noise(rng, shape, 600 / step_um)
    strands = _strands(rng, away, step_um)
    gap_h, gap_d = {
        "pale": (0.35, 0.7), "similar": (0.85, 0.95), "hue": (0.45, 2.2), "dark": (1.5, 1.8)
    }[light.endomysium]
    h = np.where(bundles > 0, gap_h, 0.25 + 0.5 * strands) * light.fiber_od * drift
    d = np.where(bundles > 0, gap_d, 0.5 + 0.6 * strands) * light.background_od * drift
    for x, y, radius in layout.vessels:
        _draw_vessel(h, d, (x / step_um, y / step_um), radius / step_um, light)
    soft = cv2.GaussianBlur(tissue.astype(np.float32), (0, 0), 1.2)
    necrotic = np.concatenate([[False], layout.kinds == "necrotic"])[labels]
    grain = 1 + light.texture * (0.7 * _noise(rng, shape, 1.3 / step_um) + 0.5 * _noise(rng, shape, 18 / step_um))
    depth = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 3) * step_um
    edge = np.exp(-depth / 1.5)
    grain += 0.3 * edge
    moth = 0.5 * edge + np.clip(0.75 + 0.45 * _noise(rng, shape, 5 / step_um) + 0.2 * _noise(rng, shape, 1.5 / step_um), 0.1, 2)
    grain = np.where(necrotic, moth, grain) * drift
    return h * soft, d * soft, grain.astype(np.float32)


def _strands(rng: np.random.Generator, away: Layer, step_um: float) -> Layer:
    """Collagen strands of the perimysium, along the fascicles' outlines, 0 to 1."""
    wander = away + 3.0 * _noise(rng, away.shape, 40 / step_um) + 1.0 * _noise(rng, away.shape, 10 / step_um)
    profile = rng.random(2048, np.float32)
    profile = np.interp(np.arange(0, 2048, 0.25), np.arange(2048), profile).astype(np.float32)
    index = (np.abs(wander) / 2.2 * 4).astype(np.int32) % len(profile)
    return np.asarray(profile[index] * (0.6 + 0.4 * np.clip(_noise(rng, away.shape, 12 / step_um), -1, 1)))


def _draw_vessel(h: Layer, d: Layer, centre: tuple[float, float], radius: float, light: StainingSettings) -> None:
    """A wall of smooth muscle and an empty lumen (in place)."""
    middle = tuple(round(value * 16) for value in centre)
    for share, dye_h, dye_d in ((1.0, 1.1, 1.0), (0.93, 1.7, 1.3), (0.7, 0.0, 0.0)):
        cv2.circle(h, middle, round(radius * share * 16), dye_h * light.fiber_od, -1, cv2.LINE_8, 4)
        cv2.circle(d, middle, round(radius * share * 16), dye_d * light.background_od, -1, cv2.LINE_8, 4)


def _fiber_dye(rng: np.random.Generator, fibers: pd.DataFrame, light: StainingSettings) -> tuple[Layer, Layer]:
    """Haematoxylin and DAB per label; 0 is no fiber."""
    kind = fibers.kind.to_numpy()
    factor = np.select([kind == "necrotic", kind == "regenerating", kind == "atrophic"], [0.75, 1.8, 1.25], 1.0)
    h = light.fiber_od * factor * rng.lognormal(0, 0.1, len(fibers))
    d = light.background_od * rng.lognormal(0, 0.1, len(fibers)) + fibers.dab_od.to_numpy()
    return tuple(np.concatenate([[0], dye]).astype(np.float32) for dye in (h, d))  # type: ignore[return-value]


def _draw_nuclei(
    rng: np.random.Generator, shape: tuple[int, ...], cells: pd.DataFrame, mpp: float, light: StainingSettings
) -> npt.NDArray[np.uint8]:
    """Haematoxylin of nuclei, 200 per unit of OD."""
    seen = cells[cells.nucleus]
    kind = seen.kind.to_numpy()
    factor = np.select(
        [kind == "lymphocyte", kind == "central", kind == "macrophage"], [1.15, 0.7, 0.7], 0.9
    )
    dye = light.nucleus_od * factor * rng.lognormal(0, 0.25, len(seen))
    outlines = _outlines(rng, seen) / mpp - 0.5
    layer = np.zeros(shape, np.uint8)
    for points, value in zip(np.round(outlines * 16).astype(np.int32), np.minimum(dye * 200, 255), strict=True):
        cv2.fillPoly(layer, [points], float(value), cv2.LINE_AA, 4)
    return layer


def _outlines(rng: np.random.Generator, cells: pd.DataFrame, corners: int = 20) -> npt.NDArray[np.float64]:
    """Wobbly ellipses, um, shape (n, corners, 2)."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    size = np.ones((len(cells), corners))
    for wave in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi, (len(cells), 1))
        size += rng.normal(0, 0.16 / wave, (len(cells), 1)) * np.cos(wave * turn + phase)
    x = cells.long_um.to_numpy()[:, None] * size * np.cos(turn)
    y = cells.short_um.to_numpy()[:, None] * size * np.sin(turn)
    angle = cells.angle.to_numpy()[:, None]
    across = cells.x_um.to_numpy()[:, None] + x * np.cos(angle) - y * np.sin(angle)
    down = cells.y_um.to_numpy()[:, None] + x * np.sin(angle) + y * np.cos(angle)
    return np.stack([across, down], axis=-1)


def _draw_rings(
    rng: np.random.Generator, shape: tuple[int, ...], cells: pd.DataFrame, settings: RenderSettings
) -> Layer:
    """DAB of cells and of precipitate."""
    layer = np.zeros(shape, np.float32)
    brown = cells[cells.dab_od > 0]
    half = int(np.ceil(9.0 / settings.mpp))
    grid = np.arange(-half, half + 1, dtype=np.float32)
    for cell in brown.itertuples():
        column, row = int(cell.x_um / settings.mpp), int(cell.y_um / settings.mpp)
        x = (grid + (column + 0.5 - cell.x_um / settings.mpp)) * settings.mpp
        y = (grid + (row + 0.5 - cell.y_um / settings.mpp)) * settings.mpp
        stamp = _ring(rng, x, y, cell, settings)
        top, left = max(half - row, 0), max(half - column, 0)
        place = np.s_[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        under = layer[place]
        part = stamp[top : top + under.shape[0], left : left + under.shape[1]]
        np.maximum(under, part, out=under)
    area_mm2 = settings.size_um[0] * settings.size_um[1] / 1e6
    for _ in range(rng.poisson(settings.staining.precipitate_per_mm2 * area_mm2)):
        spot = (rng.random(2) * shape[1::-1] * 16).astype(int).tolist()
        radius = int(rng.uniform(0.3, 1.4) / settings.mpp * 16)
        cv2.circle(layer, spot, radius, float(rng.uniform(0.5, 1.4)), -1, cv2.LINE_8, 4)
    return layer


def _ring(
    rng: np.random.Generator, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], cell: object, settings: RenderSettings
) -> Layer:
    """DAB of one cell in its compartment, uneven along the ring."""
    chosen = settings.cells
    cos, sin = np.cos(cell.angle), np.sin(cell.angle)  # type: ignore[attr-defined]
    u = x[None, :] * cos + y[:, None] * sin
    v = -x[None, :] * sin + y[:, None] * cos
    long_um, short_um = cell.long_um, cell.short_um  # type: ignore[attr-defined]
    out = (np.hypot(u / long_um, v / short_um) - 1) * np.sqrt(long_um * short_um)
    phase = rng.uniform(0, 2 * np.pi, 2)
    turn = np.arctan2(v, u)
    along = 1 + chosen.unevenness * 0.7 * np.cos(turn + phase[0]) + chosen.unevenness * 0.4 * np.cos(3 * turn + phase[1])
    band = np.exp(-(((out - 0.8) / chosen.ring_um) ** 2))
    inner = 1 / (1 + np.exp(out / 0.25))
    body = 1 / (1 + np.exp((out - 1.5) / 0.3))
    amount = {
        "membrane": band + 0.12 * inner,
        "nucleus": inner,
        "cytoplasm": np.maximum(body - inner, 0) + 0.15 * inner,
        "cell": np.maximum(0.8 * body, band),
    }[chosen.compartment]
    speckle = 1 + 0.12 * rng.standard_normal(amount.shape, np.float32)
    return np.asarray(cell.dab_od * amount * np.clip(along, 0.1, None) * speckle, np.float32)  # type: ignore[attr-defined]
