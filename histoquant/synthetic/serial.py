"""Render serial sections of one biopsy: the same fibers shifted through depth, mounted anew each time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from pydantic import Field
from shapely.geometry import LineString, Polygon, box

from histoquant.protocol import Settings
from histoquant.synthetic.layout import Floats, Layout, Shapes, arrange_section
from histoquant.synthetic.section import Section, render_layout
from histoquant.synthetic.settings import Amount, LayoutSettings, RenderSettings

Angle = Annotated[float, Field(ge=-360, le=360)]
Stretch = Annotated[float, Field(ge=0.8, le=1.25)]
_DEPTH_WAVE_UM = 350.0
_MOUNT_WAVE_UM = 1800.0


class PoseSettings(Settings):
    """How one section of a series was cut and mounted."""

    depth_um: Amount = 4.0
    """Root mean square way of fibers from the first section, as they run aslant."""
    angle_deg: Angle = 0.0
    """Turn on the slide."""
    flip: bool = False
    """Mounted upside down."""
    stretch: tuple[Stretch, Stretch] = (1.0, 1.0)
    """Length by true length along two axes, before the turn."""
    warp_um: Amount = 6.0
    """Root mean square of smooth distortion over about two millimetres."""
    tear_um: Amount = 0.0
    """Width of a tear across the section; 0 is none."""
    fold_um: Amount = 0.0
    """Tissue lost in a fold across the section; 0 is none."""
    kept: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    """Share of the section's width that is on the slide."""


@dataclass(frozen=True)
class SerialSection:
    """A rendered section of a series.

    Attributes
    ----------
    section : Section
        Pixels and truth.
    landmarks : DataFrame
        fiber (number in the series), x_um, y_um: where the middle of every fiber of the series lies that is
        on this slide whole.
    """

    section: Section
    landmarks: pd.DataFrame


@dataclass(frozen=True)
class _Placed:
    layout: Layout
    fiber: Floats
    fold: Polygon | None
    size_um: tuple[float, float]


def arrange_series(
    rng: np.random.Generator, size_um: tuple[float, float], settings: LayoutSettings
) -> Layout:
    """Draw the layout that all sections of a series share; see `arrange_section`."""
    return arrange_section(rng, size_um, settings)


def share_foci(
    rng: np.random.Generator, layout: Layout, overlap: float, per_mm2: float, focus_um: float
) -> tuple[Floats, Floats]:
    """Draw the infiltrates of two markers, a share of them in common.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    layout : Layout
        Of the series.
    overlap : float
        Share of each marker's infiltrates that hold the other marker too, 0 to 1.
    per_mm2 : float
        Infiltrates of each marker by tissue.
    focus_um : float
        Mean spread.

    Returns
    -------
    first, second : ndarray of float, shape (n, 3)
        As `Layout.foci`; n is the same for both.
    """
    number = max(round(per_mm2 * layout.tissue.area / 1e6), 1)
    common = round(overlap * number)
    total = 2 * number - common
    inner = layout.tissue.buffer(-focus_um)
    points = np.empty((0, 2))
    while len(points) < total:
        left, top, right, bottom = inner.bounds
        more = rng.uniform((left, top), (right, bottom), (4 * total, 2))
        points = np.vstack([points, more[shapely.contains_xy(inner, *more.T)]])
    foci = np.column_stack([points[:total], focus_um * rng.lognormal(0, 0.3, total)])
    return foci[:number], np.vstack([foci[:common], foci[number:]])


def render_series(
    rng: np.random.Generator, layout: Layout, settings: RenderSettings, pose: PoseSettings
) -> SerialSection:
    """Render one section of a series.

    Parameters
    ----------
    rng : Generator
        Source of the section's own randomness: way through depth, distortion, cells, stain.
    layout : Layout
        That the series shares; `foci` are this marker's.
    settings : RenderSettings
        Cells, stain and pixel size; the slide is as large as the mounted section needs.
    pose : PoseSettings
        How it was cut and mounted.

    Returns
    -------
    SerialSection
    """
    placed = _place(rng, layout, settings.layout.rim_um, pose)
    section = render_layout(rng, placed.layout, settings.model_copy(update={"size_um": placed.size_um}))
    if placed.fold is not None:
        section = replace(section, pixels=_darken(section, placed.fold, settings.staining.white))
    middle = shapely.get_coordinates(shapely.centroid(placed.layout.fibers))
    whole = placed.fiber >= 0
    if placed.fold is not None:
        whole &= ~shapely.dwithin(placed.layout.fibers, placed.fold, 30.0)
    landmarks = pd.DataFrame({"fiber": placed.fiber.astype(int), "x_um": middle[:, 0], "y_um": middle[:, 1]})
    return SerialSection(section, landmarks[whole].reset_index(drop=True))


def _waves(rng: np.random.Generator, wave_um: float, rms_um: float, number: int = 10) -> tuple[Floats, ...]:
    """Directions, phases and amplitudes of a smooth random displacement."""
    turn = rng.uniform(0, 2 * np.pi, number)
    length = wave_um * rng.uniform(0.8, 1.6, number)
    way = 2 * np.pi / length * np.array([np.cos(turn), np.sin(turn)])
    return way, rng.uniform(0, 2 * np.pi, number), rng.normal(0, rms_um / np.sqrt(number), (number, 2))


def _displace(points: Floats, waves: tuple[Floats, ...]) -> Floats:
    way, phase, size = waves
    return np.asarray(points + np.sqrt(2) * np.sin(points @ way + phase) @ size)


def _place(rng: np.random.Generator, layout: Layout, rim_um: float, pose: PoseSettings) -> _Placed:
    """Displace, cut, tear, fold, stretch, turn and flip a layout, and give it a slide."""
    # Root mean square of the way in the plane is by both axes.
    depth = _waves(rng, _DEPTH_WAVE_UM, pose.depth_um / np.sqrt(2))
    mount = _waves(rng, _MOUNT_WAVE_UM, pose.warp_um / np.sqrt(2))
    cut, fold = _cut(rng, layout, pose)
    angle = np.radians(pose.angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(pose.stretch) @ np.diag([-1.0 if pose.flip else 1.0, 1.0])

    def mount_points(points: Floats) -> Floats:
        return np.asarray(_displace(_displace(points, depth), mount) @ matrix.T)

    tissue = shapely.transform(cut.layout.tissue, mount_points)
    left, top, right, bottom = tissue.bounds
    shift = np.array([rim_um - left, rim_um - top])

    def put(points: Floats) -> Floats:
        return np.asarray(mount_points(points) + shift)

    vessels, foci = (
        np.column_stack([put(rows[:, :2]), rows[:, 2:]]) for rows in (cut.layout.vessels, cut.layout.foci)
    )
    if fold is not None:
        fold = shapely.transform(fold, put)
    placed = replace(
        cut.layout,
        tissue=shapely.transform(cut.layout.tissue, put),
        fascicles=shapely.transform(cut.layout.fascicles, put),
        fibers=shapely.transform(cut.layout.fibers, put),
        vessels=vessels,
        foci=foci,
    )
    width, height = (float(np.ceil(side + 2 * rim_um)) for side in (right - left, bottom - top))
    return _Placed(placed, cut.fiber, fold, (width, height))


def _cut(rng: np.random.Generator, layout: Layout, pose: PoseSettings) -> tuple[_Placed, Polygon | None]:
    """Leave out what is not on the slide, open a tear, close a fold."""
    placed = _Placed(layout, np.arange(len(layout.fibers), dtype=float), None, (0.0, 0.0))
    left, top, right, bottom = layout.tissue.bounds
    middle = np.array([left + right, top + bottom]) / 2
    reach = float(np.hypot(right - left, bottom - top))
    if pose.kept < 1:
        edge = left + (right - left) * pose.kept
        placed = _clip(placed, box(left - 1, top - 1, edge, bottom + 1))
    fold = None
    for width, sign in ((pose.tear_um, 1.0), (pose.fold_um, -1.0)):
        if not width:
            continue
        path = _cross(rng, middle, reach, curl=0.12 if sign > 0 else 0.03)
        one = Polygon([*path.coords, *(np.array(path.coords)[::-1] + _aside(path) * 2 * reach)])
        strip = path.buffer(width / 2, cap_style="flat") if sign < 0 else None
        placed = _part(placed, one, _aside(path) * sign * width, strip)
        fold = path.buffer(width / 3, cap_style="flat") if sign < 0 else fold
    return placed, fold


def _cross(rng: np.random.Generator, middle: Floats, reach: float, curl: float) -> LineString:
    """A wandering line across the tissue."""
    turn = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    spot = middle + rng.uniform(-0.18, 0.18) * reach * across
    way = np.linspace(-1, 1, 41)
    bend = curl * reach * np.convolve(rng.normal(0, 0.3, 49), np.ones(9) / 3, "valid")
    return LineString(spot + way[:, None] * reach * along + bend[:, None] * across)


def _aside(path: LineString) -> Floats:
    """Unit vector across a line."""
    start, end = np.array(path.coords)[[0, -1]]
    along = (end - start) / np.hypot(*(end - start))
    return np.array([-along[1], along[0]])


def _part(placed: _Placed, one: Polygon, shift: Floats, strip: Polygon | None) -> _Placed:
    """Move what lies on one side of a line; a strip along it is lost."""
    layout = placed.layout
    lost = shapely.Polygon() if strip is None else strip
    other = shapely.difference(layout.tissue.buffer(500), shapely.union(one, lost))
    near = shapely.difference(one, lost)
    halves = [
        shapely.intersection(layout.tissue, other),
        shapely.transform(shapely.intersection(layout.tissue, near), lambda points: points + shift),
    ]
    tissue = shapely.buffer(shapely.union_all([shapely.buffer(half, 0.5) for half in halves]), -0.5)

    def move(shapes: Shapes) -> Shapes:
        kept = shapely.intersection(shapes, other)
        moved = shapely.transform(shapely.intersection(shapes, near), lambda points: points + shift)
        return np.where(shapely.area(kept) >= shapely.area(moved), kept, moved)

    fibers = move(layout.fibers)
    whole = shapely.area(fibers) > 0.97 * shapely.area(layout.fibers)
    # A fascicle that a line cuts lies on both sides.
    both = [shapely.intersection(layout.fascicles, other)]
    both += [shapely.transform(shapely.intersection(layout.fascicles, near), lambda points: points + shift)]
    fascicles = shapely.get_parts(np.concatenate(both))
    fascicles = fascicles[(shapely.get_type_id(fascicles) == 3) & (shapely.area(fascicles) > 100)]
    vessels, foci = (
        np.where(_holds(one, rows)[:, None], rows + np.append(shift, 0), rows)
        for rows in (layout.vessels, layout.foci)
    )
    marked = np.where(whole, placed.fiber, -1)
    return _keep(
        replace(layout, tissue=tissue, fascicles=fascicles, fibers=fibers, vessels=vessels, foci=foci), marked
    )


def _clip(placed: _Placed, frame: Polygon) -> _Placed:
    """Leave out what lies outside a frame."""
    layout = placed.layout
    fibers = shapely.intersection(layout.fibers, frame)
    whole = shapely.area(fibers) > 0.97 * shapely.area(layout.fibers)
    fascicles = shapely.get_parts(shapely.intersection(layout.fascicles, frame))
    inside = _holds(frame, layout.vessels)
    tissue: Polygon = shapely.intersection(layout.tissue, frame)  # type: ignore[assignment]
    clipped = replace(
        layout,
        tissue=tissue,
        fascicles=fascicles[shapely.area(fascicles) > 100],
        fibers=fibers,
        vessels=layout.vessels[inside],
    )
    return _keep(clipped, np.where(whole, placed.fiber, -1))


def _holds(frame: Polygon, rows: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(shapely.contains_xy(frame, *rows[:, :2].T), bool)


def _keep(layout: Layout, fiber: Floats) -> _Placed:
    """Drop fibers of which little is left; the largest part of the others."""
    areas = [max(shapely.get_parts(shape), key=shapely.area, default=shape) for shape in layout.fibers]
    largest = np.array(areas, object)
    keep = shapely.area(largest) > 60
    return _Placed(
        replace(layout, fibers=largest[keep], kinds=layout.kinds[keep]), fiber[keep], None, (0.0, 0.0)
    )


def _darken(section: Section, fold: Polygon, white: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Three layers of tissue where it is folded: what is seen, and what lies beside it twice."""
    mask = np.zeros(section.pixels.shape[:2], np.uint8)
    points = np.round(np.array(fold.exterior.coords) / section.mpp).astype(np.int32)
    cv2.fillPoly(mask, [points], 1)
    light = section.pixels / np.array(white, np.float32)
    beside = cv2.GaussianBlur(light, (0, 0), 8 / section.mpp)
    dark = (light * beside**2 * white).clip(0, 255)
    return np.asarray(np.where(mask[..., None] > 0, dark, section.pixels), np.uint8)
