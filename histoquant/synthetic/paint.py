"""Paint a section: densities of haematoxylin and DAB, then light through them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.synthetic.cells import Labels, fill_shape
from histoquant.synthetic.layout import Layout
from histoquant.synthetic.settings import CellsSettings, RenderSettings, StainingSettings

Layer = npt.NDArray[np.float32]
STRIP = 256
# Nuclei are drawn in bytes: 200 per unit of optical density.
NUCLEUS_UNIT = 200


class _Ground(NamedTuple):
    """Maps at the labels' pixel size: stains between fibers, grain of fibers, share of defocus."""

    h: Layer
    d: Layer
    grain: Layer
    focus: Layer


def expose_section(
    rng: np.random.Generator,
    fine: Labels,
    labels: Labels,
    step: int,
    layout: Layout,
    fibers: pd.DataFrame,
    cells: pd.DataFrame,
    settings: RenderSettings,
) -> npt.NDArray[np.uint8]:
    """Light through the stains (Beer-Lambert), strip by strip to stay in the cache.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    fine : ndarray of int32, shape (rows, columns)
        Fibers at the slide's pixel size.
    labels : ndarray of int32
        Fibers at every `step`-th pixel.
    step : int
        Pixels of the slide per pixel of `labels`.
    layout : Layout
        Outline, fascicles, vessels.
    fibers, cells : DataFrame
        As `render_section` makes them.
    settings : RenderSettings
        Stains, light, focus.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
    """
    light, mpp = settings.staining, settings.mpp
    ground = _ground(rng, labels, step * mpp, layout, light)
    dye_h, dye_d = _fiber_dye(rng, fibers, light)
    hazy = ~cells.positive.to_numpy() & (rng.random(len(cells)) < light.hazy)
    sharp = _draw_nuclei(rng, fine.shape, cells[~hazy], mpp, light)
    haze = _draw_nuclei(rng, fine.shape, cells[hazy], mpp, light)
    rings = _draw_rings(rng, fine.shape, cells, settings.cells, mpp)
    _draw_precipitate(rng, rings, light, mpp)
    noise = rng.standard_normal((2 * STRIP, fine.shape[1], 3), np.float32) * np.float32(light.noise)
    chromatin = 1 + light.chromatin * _noise(rng, (2 * STRIP, fine.shape[1]), 0.9 / mpp)
    pixels = np.empty((*fine.shape, 3), np.uint8)
    halo = 2 * step + int(np.ceil(3 * (light.blur_um + light.defocus_um) / mpp))
    for top in range(0, fine.shape[0], STRIP):
        bottom = min(top + STRIP, fine.shape[0])
        low, high = max(top - halo, 0), min(bottom + halo, fine.shape[0])
        rows, start = np.s_[low:high], int(rng.integers(STRIP - 2 * halo))
        maps = _Ground(*(_enlarge(image, low, high, step, fine.shape[1]) for image in ground))
        nuclei = sharp[rows] + cv2.GaussianBlur(haze[rows].astype(np.float32), (0, 0), 0.9 / mpp)
        nuclei *= chromatin[start : start + high - low]
        h = _mix(fine[rows], dye_h, maps.grain, maps.h) + nuclei * np.float32(1 / NUCLEUS_UNIT)
        d = _mix(fine[rows], dye_d, maps.grain, maps.d) + rings[rows]
        image = _focus(_transmit(h, d, light), maps.focus, light, mpp)[top - low : bottom - low]
        pixels[top:bottom] = cv2.add(image, noise[start : start + bottom - top], dtype=cv2.CV_8U)
    return pixels


def _enlarge(image: Layer, low: int, high: int, step: int, width: int) -> Layer:
    """Rows `low` to `high` of a map enlarged `step` times."""
    first, last = max(low // step - 2, 0), -(-high // step) + 2
    part = image[first:last]
    size = part.shape[1] * step, part.shape[0] * step
    large = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    # A slide whose side is no multiple of the step ends a few pixels later than its map.
    large = cv2.copyMakeBorder(large, 0, step, 0, step, cv2.BORDER_REPLICATE)
    return np.asarray(large[low - first * step : high - first * step, :width])


def _mix(labels: Labels, dye: Layer, grain: Layer, ground: Layer) -> Layer:
    """One stain in fibers and between them."""
    density = np.take(dye, labels)
    density *= grain
    np.copyto(density, ground, where=labels == 0)
    return density


def _transmit(h: Layer, d: Layer, light: StainingSettings) -> Layer:
    """Intensity = white * 10^-OD."""
    channels = []
    for white, a, b in zip(light.white, light.haematoxylin_vector, light.dab_vector, strict=True):
        od = cv2.addWeighted(h, -a * np.log(10), d, -b * np.log(10), np.log(white))
        channels.append(cv2.exp(od))
    return np.asarray(cv2.merge(channels))


def _focus(image: Layer, share: Layer, light: StainingSettings, mpp: float) -> Layer:
    """Point spread of the lens, and defocus where the slide is uneven."""
    sharp = cv2.GaussianBlur(image, (0, 0), max(light.blur_um / mpp, 0.1))
    if not light.defocus_um:
        return np.asarray(sharp)
    soft = cv2.GaussianBlur(sharp, (0, 0), light.defocus_um / mpp)
    return np.asarray(sharp + share[..., None] * (soft - sharp))


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale_px: float) -> Layer:
    """Smooth noise of unit variance or so."""
    small = tuple(max(int(side / scale_px), 1) + 2 for side in shape)
    field = rng.standard_normal(small, np.float32)
    way = cv2.INTER_LINEAR if scale_px < 3 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=way))


def _ground(
    rng: np.random.Generator, labels: Labels, step_um: float, layout: Layout, light: StainingSettings
) -> _Ground:
    """Stains between fibers, and the grain of fibers."""
    shape = labels.shape
    tissue, bundles = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    fill_shape(tissue, layout.tissue, step_um, 1)
    for fascicle in layout.fascicles:
        fill_shape(bundles, fascicle, step_um, 1)
    drift = 1 + np.float32(light.unevenness * 0.4) * _noise(rng, shape, 600 / step_um)
    strands = _strands(rng, labels, bundles, step_um)
    soft = cv2.GaussianBlur(tissue.astype(np.float32), (0, 0), 1.2) * np.maximum(drift, 0.2)
    gap_h, gap_d = {"pale": (0.35, 0.7), "similar": (0.85, 0.95), "hue": (0.45, 2.0), "dark": (1.5, 1.8)}[
        light.endomysium
    ]
    h = np.float32(gap_h * light.fiber_od) * strands
    d = np.float32(gap_d * light.background_od) * strands
    for x, y, radius in layout.vessels:
        _draw_vessel(h, d, (x / step_um, y / step_um), radius / step_um, light)
    grain = _grain(rng, labels, step_um, layout, light.texture)
    focus = np.clip(0.5 + 0.6 * _noise(rng, shape, 900 / step_um), 0, 1)
    return _Ground(h * soft, d * soft, grain * np.maximum(drift, 0.2), focus)


def _grain(rng: np.random.Generator, labels: Labels, step_um: float, layout: Layout, texture: float) -> Layer:
    """Granularity of fibers, a darker rim, and the holes of necrotic ones; 1 on average."""
    shape = labels.shape
    depth = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 3)
    rim = cv2.exp(depth * np.float32(-step_um / 2.2))
    fine, wide = _noise(rng, shape, 1.3 / step_um), _noise(rng, shape, 18 / step_um)
    grain = cv2.addWeighted(fine, texture, wide, 0.5 * texture, 1)
    # The rim is dark where the membrane is cut aslant, and hardly seen elsewhere.
    grain += rim * np.clip(np.float32(0.3) + np.float32(0.4) * wide, 0.05, None)
    holes = _noise(rng, shape, 5 / step_um)
    moth = np.concatenate([[False], layout.kinds == "necrotic"])[labels]
    grain[moth] = 0.5 * rim[moth] + np.clip(0.75 + 0.45 * holes[moth] + 0.2 * fine[moth], 0.1, 2)
    return np.asarray(grain, np.float32)


def _strands(
    rng: np.random.Generator, labels: Labels, bundles: npt.NDArray[np.uint8], step_um: float
) -> Layer:
    """Density of connective tissue: about 1; strands along fascicles between them, wisps all over."""
    shape = bundles.shape
    away = cv2.distanceTransform(1 - bundles, cv2.DIST_L2, 5)
    away = away * step_um + 3 * _noise(rng, shape, 40 / step_um) + _noise(rng, shape, 10 / step_um)
    patches = _noise(rng, shape, 12 / step_um)
    between = bundles == 0
    profile = np.interp(np.arange(0, 2048, 0.25), np.arange(2048), rng.random(2048))
    index = (np.abs(away[between]) / 2.2 * 4).astype(np.int32) % len(profile)
    strands = np.ones(shape, np.float32)
    strands[between] = 0.75 + profile[index] * (0.8 + 0.5 * np.clip(patches[between], -1, 1))
    gaps = labels == 0
    ridge = np.exp(-((_noise(rng, shape, 9 / step_um)[gaps] / 0.12) ** 2))
    strands[gaps] += 1.2 * ridge * np.clip(patches[gaps], 0, 1)
    return np.asarray(cv2.GaussianBlur(strands, (0, 0), 0.8))


def _draw_vessel(
    h: Layer, d: Layer, centre: tuple[float, float], radius: float, light: StainingSettings
) -> None:
    """A wall of smooth muscle and an empty lumen (in place)."""
    middle = tuple(round(value * 16) for value in centre)
    for share, dye_h, dye_d in ((1.0, 1.1, 1.0), (0.93, 1.7, 1.3), (0.7, 0.0, 0.0)):
        cv2.circle(h, middle, round(radius * share * 16), dye_h * light.fiber_od, -1, cv2.LINE_8, 4)
        cv2.circle(d, middle, round(radius * share * 16), dye_d * light.background_od, -1, cv2.LINE_8, 4)


def _fiber_dye(
    rng: np.random.Generator, fibers: pd.DataFrame, light: StainingSettings
) -> tuple[Layer, Layer]:
    """Haematoxylin and DAB per label; 0 is no fiber."""
    kind = fibers.kind.to_numpy()
    factor = np.select(
        [kind == "necrotic", kind == "regenerating", kind == "atrophic"], [0.75, 1.8, 1.25], 1.0
    )
    h = light.fiber_od * factor * rng.lognormal(0, 0.1, len(fibers))
    d = light.background_od * rng.lognormal(0, 0.1, len(fibers)) + fibers.dab_od.to_numpy()
    return tuple(np.concatenate([[0], dye]).astype(np.float32) for dye in (h, d))  # type: ignore[return-value]


def _draw_nuclei(
    rng: np.random.Generator, shape: tuple[int, ...], cells: pd.DataFrame, mpp: float, light: StainingSettings
) -> npt.NDArray[np.uint8]:
    """Haematoxylin of nuclei."""
    seen = cells[cells.nucleus]
    kind = seen.kind.to_numpy()
    factor = np.select([kind == "lymphocyte", kind == "central", kind == "macrophage"], [1.15, 0.7, 0.7], 0.9)
    dye = light.nucleus_od * factor * rng.lognormal(0, 0.25, len(seen))
    outlines = _outlines(rng, seen) / mpp - 0.5
    layer = np.zeros(shape, np.uint8)
    for points, value in zip(
        np.round(outlines * 16).astype(np.int32), np.minimum(dye * NUCLEUS_UNIT, 255), strict=True
    ):
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
    rng: np.random.Generator, shape: tuple[int, ...], cells: pd.DataFrame, settings: CellsSettings, mpp: float
) -> Layer:
    """DAB of cells."""
    layer = np.zeros(shape, np.float32)
    half = int(np.ceil(9.0 / mpp))
    grid = np.arange(-half, half + 1, dtype=np.float32)
    columns = ["x_um", "y_um", "long_um", "short_um", "angle", "dab_od"]
    for x_um, y_um, *form, dab_od in cells.loc[cells.dab_od > 0, columns].to_numpy():
        column, row = int(x_um / mpp), int(y_um / mpp)
        x, y = (grid + column + 0.5) * mpp - x_um, (grid + row + 0.5) * mpp - y_um
        stamp = dab_od * _ring(rng, x[None, :], y[:, None], form, settings)
        place = np.s_[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        top, left = max(half - row, 0), max(half - column, 0)
        under = layer[place]
        np.maximum(under, stamp[top : top + under.shape[0], left : left + under.shape[1]], out=under)
    return layer


def _ring(
    rng: np.random.Generator, x: Layer, y: Layer, form: list[float], settings: CellsSettings
) -> npt.NDArray[np.float64]:
    """DAB of one cell in its compartment, uneven along the ring; 1 at its peak or so."""
    long_um, short_um, angle = form
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    # Distance from the nucleus's border, negative inside.
    out = (np.hypot(u / long_um, v / short_um) - 1) * np.sqrt(long_um * short_um)
    turn, phase = np.arctan2(v, u), rng.uniform(0, 2 * np.pi, 2)
    wave = 0.7 * np.cos(turn + phase[0]) + 0.4 * np.cos(3 * turn + phase[1])
    band = np.exp(-(((out - 0.8) / settings.ring_um) ** 2))
    nucleus = 1 / (1 + np.exp(out / 0.25))
    body = 1 / (1 + np.exp((out - 1.5) / 0.3))
    amount = {
        "membrane": band + 0.12 * nucleus,
        "nucleus": nucleus,
        "cytoplasm": np.maximum(body - nucleus, 0) + 0.15 * nucleus,
        "cell": np.maximum(0.8 * body, band),
    }[settings.compartment]
    speckle = 1 + 0.12 * rng.standard_normal(amount.shape)
    return np.asarray(amount * np.clip(1 + settings.unevenness * wave, 0.1, None) * speckle)


def _draw_precipitate(rng: np.random.Generator, layer: Layer, light: StainingSettings, mpp: float) -> None:
    """Specks of DAB (in place)."""
    area_mm2 = layer.size * mpp**2 / 1e6
    for _ in range(rng.poisson(light.precipitate_per_mm2 * area_mm2)):
        spot = (rng.random(2) * layer.shape[::-1] * 16).astype(int).tolist()
        radius = int(rng.uniform(0.3, 1.4) / mpp * 16)
        cv2.circle(layer, spot, radius, float(rng.uniform(0.5, 1.4)), -1, cv2.LINE_8, 4)
