"""Nuclei and cells of a rendered section: where they sit, how large, which are positive."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from scipy.spatial import cKDTree

from histoquant.synthetic.layout import Floats, Layout, infiltration
from histoquant.synthetic.settings import CellsSettings, LayoutSettings

Labels = npt.NDArray[np.int32]
# Kinds in the order in which they give way to one another.
CELL_KINDS = ("lymphocyte", "macrophage", "central", "myonucleus", "endothelial", "fibroblast")
BODY_UM = 1.2


def populate_section(
    rng: np.random.Generator,
    layout: Layout,
    labels: Labels,
    step_um: float,
    cells: CellsSettings,
    settings: LayoutSettings,
) -> pd.DataFrame:
    """Draw every nucleus of a section.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    layout : Layout
        Outline, fascicles, fibers, vessels, foci.
    labels : ndarray of int32, shape (rows, columns)
        Fibers; the first pixel's corner is the slide's.
    step_um : float
        Pixel size of `labels`.
    cells, settings : CellsSettings, LayoutSettings
        Densities, the planted value; central nuclei.

    Returns
    -------
    DataFrame
        One row per nucleus or ring: x_um, y_um, long_um, short_um (half axes), angle, nucleus_radius_um,
        kind, place, fiber, positive, nucleus, dab_od.
    """
    count = int(labels.max())
    wanted = rng.poisson(cells.positive_cells_per_fiber * count)
    hidden = rng.poisson(cells.without_nucleus * wanted)
    total = wanted + hidden + rng.poisson(cells.lymphocytes_per_fiber * count)
    lymphocytes = _lymphocytes(rng, layout, labels, step_um, total, cells)
    lymphocytes = _choose_positive(rng, lymphocytes, wanted, hidden, layout, cells)
    others = [
        _macrophages(rng, layout, labels, step_um),
        _central_nuclei(rng, layout, settings.central_nuclei),
        _along_fibers(rng, layout, cells.myonuclei_per_mm, inside=True),
        _along_fibers(rng, layout, cells.endomysial_per_mm, inside=False),
        _vessel_nuclei(rng, layout),
        _fibroblasts(rng, layout, labels, step_um),
    ]
    table = pd.concat([lymphocytes, *others], ignore_index=True)
    table["nucleus_radius_um"] = np.sqrt(table.long_um * table.short_um)
    return _give_way(table[_inside(table, layout)])


def _table(points: Floats, long_um: Floats, short_um: Floats, angle: Floats, **same: object) -> pd.DataFrame:
    columns: dict[str, object] = {
        "x_um": points[:, 0],
        "y_um": points[:, 1],
        "long_um": long_um,
        "short_um": short_um,
        "angle": angle,
        **{"fiber": 0, "positive": False, "nucleus": True, "dab_od": 0.0, **same},
    }
    return pd.DataFrame(columns, index=range(len(points)))


def _inside(table: pd.DataFrame, layout: Layout) -> npt.NDArray[np.bool_]:
    """Whole cells in the tissue and outside of lumens; lumens are for blood."""
    points = table[["x_um", "y_um"]].to_numpy()
    shapely.prepare(layout.tissue)
    inside = np.asarray(shapely.dwithin(layout.tissue.boundary, shapely.points(points), 6.0))
    keep = shapely.contains_xy(layout.tissue, *points.T) & ~inside
    for x, y, radius in layout.vessels:
        lumen = np.hypot(points[:, 0] - x, points[:, 1] - y) < 0.75 * radius
        keep &= ~lumen
    return np.asarray(keep)


def _give_way(table: pd.DataFrame) -> pd.DataFrame:
    """Drop nuclei that lie on one of a kind drawn before theirs."""
    rank = table.kind.map({kind: rank for rank, kind in enumerate(CELL_KINDS)}).to_numpy()
    table = table.iloc[np.argsort(rank, kind="stable")].reset_index(drop=True)
    points, radius = table[["x_um", "y_um"]].to_numpy(), table.nucleus_radius_um.to_numpy()
    close = cKDTree(points).query_pairs(9.0, output_type="ndarray")
    near = np.hypot(*(points[close[:, 0]] - points[close[:, 1]]).T) < 0.9 * radius[close].sum(1)
    loser = close.max(1)[near]
    lymphocyte = (table.kind == "lymphocyte").to_numpy()
    drop = np.zeros(len(table), bool)
    drop[loser[~lymphocyte[loser]]] = True
    return table[~drop].reset_index(drop=True)


def _weights(layout: Layout, labels: Labels, step_um: float, focal: float) -> npt.NDArray[np.float32]:
    """Relative density of lymphocytes: between fibers and in necrotic ones, denser in foci."""
    coarse = labels[::2, ::2]
    necrotic = np.concatenate([[False], layout.kinds == "necrotic"])
    place = np.where(coarse == 0, 1.0, np.where(necrotic[coarse], 0.35, 0.0)).astype(np.float32)
    rows, columns = np.indices(coarse.shape, np.float32)[:, ::8, ::8]
    points = np.column_stack([columns.ravel(), rows.ravel()]).astype(float) * 2 * step_um
    halo = np.column_stack([layout.vessels[:, :2], layout.vessels[:, 2] + 15])
    strength = infiltration(points, np.vstack([layout.foci, halo])) ** 1.5
    focus = cv2.resize(strength.reshape(rows.shape).astype(np.float32), coarse.shape[::-1])
    diffuse, gathered = place, place * np.maximum(focus, 0)
    share = focal if gathered.any() else 0.0
    return np.asarray(
        diffuse * ((1 - share) / max(float(diffuse.sum()), 1e-9))
        + gathered * (share / max(float(gathered.sum()), 1e-9))
    )


def _lymphocytes(
    rng: np.random.Generator,
    layout: Layout,
    labels: Labels,
    step_um: float,
    number: int,
    cells: CellsSettings,
) -> pd.DataFrame:
    """Lymphocytes that touch but do not cover one another."""
    tissue = np.zeros(labels.shape, np.uint8)
    fill_shape(tissue, layout.tissue.buffer(-8), step_um, 1)
    for x, y, radius in layout.vessels:
        centre = int(x / step_um), int(y / step_um)
        cv2.circle(tissue, centre, int(np.ceil((0.8 * radius + 3) / step_um)), 0, -1)
    depth = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 3) * step_um
    necrotic = np.concatenate([[False], layout.kinds == "necrotic"])[labels]
    allowed = (tissue > 0) & ((depth <= 2.5) | necrotic)
    chance = np.cumsum(
        (_weights(layout, labels, step_um, cells.focal) * allowed[::2, ::2]).ravel(), dtype=float
    )
    points, radii = np.empty((0, 2)), np.empty(0)
    for _ in range(8):
        missing = number - len(points)
        if missing <= 0 or chance[-1] <= 0:
            break
        new = rng.lognormal(np.log(3.1), 0.13, missing).clip(2.3, 4.2)
        spot = np.searchsorted(chance, rng.random(missing) * chance[-1], side="right").clip(
            0, len(chance) - 1
        )
        row, column = np.divmod(spot, (labels.shape[1] + 1) // 2)
        place = (np.column_stack([column, row]) * 2 + rng.uniform(0, 2, (missing, 2))) * step_um
        if len(points):
            parent = rng.integers(len(points), size=missing)
            turn, gap = rng.uniform(0, 2 * np.pi, missing), rng.uniform(0.4, 2.2, missing)
            reach = (radii[parent] + new + gap)[:, None]
            beside = points[parent] + reach * np.column_stack([np.cos(turn), np.sin(turn)])
            place = np.where(rng.random((missing, 1)) < cells.touching / 0.8, beside, place)
        elif cells.touching:
            place, new = place[: max(missing // 2, 1)], new[: max(missing // 2, 1)]
        points, radii = _add_apart(points, radii, place, new, allowed, step_um)
    short = radii * rng.uniform(0.82, 1.0, len(radii))
    table = _table(points, radii**2 / short, short, rng.uniform(0, np.pi, len(radii)), kind="lymphocyte")
    inner = sample_map(labels * necrotic, points, step_um)
    return table.assign(fiber=inner, place=_places(points, inner, layout))


def _add_apart(
    points: Floats, radii: Floats, place: Floats, new: Floats, allowed: npt.NDArray[np.bool_], step_um: float
) -> tuple[Floats, Floats]:
    """Add discs that are allowed and cover no earlier one."""
    ok = sample_map(allowed, place, step_um).astype(bool)
    points, radii = np.vstack([points, place[ok]]), np.concatenate([radii, new[ok]])
    pairs = cKDTree(points).query_pairs(9.0, output_type="ndarray")
    near = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T) < radii[pairs].sum(1) + 0.3
    keep = np.ones(len(points), bool)
    keep[pairs.max(1)[near]] = False
    return points[keep], radii[keep]


def _places(points: Floats, inner: npt.NDArray[np.int32], layout: Layout) -> npt.NDArray[np.object_]:
    """Where cells sit."""
    spots = shapely.points(points)
    bundle = np.zeros(len(points), bool)
    bundle[shapely.STRtree(layout.fascicles).query(spots, predicate="within")[0]] = True
    vessel = np.zeros(len(points), bool)
    for x, y, radius in layout.vessels:
        vessel |= np.hypot(points[:, 0] - x, points[:, 1] - y) < radius + 20
    names = np.where(bundle, "endomysial", np.where(vessel, "perivascular", "perimysial")).astype(object)
    names[inner > 0] = "invading"
    return names


def _choose_positive(
    rng: np.random.Generator,
    table: pd.DataFrame,
    wanted: int,
    hidden: int,
    layout: Layout,
    cells: CellsSettings,
) -> pd.DataFrame:
    """Make the planted number positive; foci hold more of them, in patches."""
    points = table[["x_um", "y_um"]].to_numpy()
    odds = (0.4 + infiltration(points, layout.foci)) * rng.lognormal(0, 0.6, len(table))
    order = np.argsort(-odds * rng.random(len(table)), kind="stable")
    positive, ring = order[:wanted], order[wanted : wanted + hidden]
    trace = order[wanted + hidden :]
    dab = np.zeros(len(table))
    dab[order[: wanted + hidden]] = rng.uniform(*cells.ring_od, len(order[: wanted + hidden]))
    dab[trace] = np.where(
        rng.random(len(trace)) < cells.faint, rng.uniform(0.3, 1, len(trace)) * cells.faint_od, 0
    )
    marked, nucleus = np.zeros(len(table), bool), np.ones(len(table), bool)
    marked[positive], marked[ring], nucleus[ring] = True, True, False
    return table.assign(positive=marked, nucleus=nucleus, dab_od=dab)


def _macrophages(rng: np.random.Generator, layout: Layout, labels: Labels, step_um: float) -> pd.DataFrame:
    """Macrophages in necrotic fibers."""
    fiber = np.flatnonzero(layout.kinds == "necrotic") + 1
    area = np.array([shape.area for shape in layout.fibers[fiber - 1]])
    number = rng.poisson(area / 260 * rng.uniform(0.1, 1.6, len(fiber)))
    points = np.vstack(
        [
            np.empty((0, 2)),
            *(_within(rng, layout.fibers[f - 1], n) for f, n in zip(fiber, number, strict=True)),
        ]
    )
    radius = rng.uniform(2.6, 4.6, len(points))
    short = radius * rng.uniform(0.6, 0.95, len(points))
    angle = rng.uniform(0, np.pi, len(points))
    owner = np.repeat(fiber, number).astype(np.int32)
    return _table(points, radius, short, angle, kind="macrophage", place="invading").assign(fiber=owner)


def _within(rng: np.random.Generator, shape: shapely.Polygon, number: int) -> Floats:
    """Points in a polygon, near its middle if it is hard to hit."""
    left, top, right, bottom = shape.bounds
    points = rng.uniform((left, top), (right, bottom), (number * 6, 2))
    points = points[shapely.contains_xy(shape.buffer(-2), *points.T)][:number]
    missing = number - len(points)
    return np.vstack([points, np.repeat([[shape.centroid.x, shape.centroid.y]], missing, axis=0)])


def _central_nuclei(rng: np.random.Generator, layout: Layout, share: float) -> pd.DataFrame:
    """Central nuclei: pale, large, in every regenerating fiber and few others."""
    regenerating = layout.kinds == "regenerating"
    chosen = regenerating | ((layout.kinds == "normal") & (rng.random(len(layout.kinds)) < share))
    number = np.where(regenerating, rng.integers(1, 4, len(chosen)), 1) * chosen
    fiber = np.repeat(np.arange(1, len(chosen) + 1), number)
    middle = shapely.get_coordinates(shapely.centroid(layout.fibers[fiber - 1])).reshape(-1, 2)
    reach = 0.3 * np.sqrt(shapely.area(layout.fibers[fiber - 1]) / np.pi)
    points = middle + rng.normal(0, 0.5, middle.shape) * reach[:, None]
    inside = np.asarray(shapely.contains_xy(layout.fibers[fiber - 1], *points.T))
    points, fiber = points[inside], fiber[inside]
    size = rng.uniform(3.2, 5.2, len(points))
    short = size * rng.uniform(0.55, 0.95, len(points))
    table = _table(points, size, short, rng.uniform(0, np.pi, len(points)), kind="central", place="fiber")
    return table.assign(fiber=fiber.astype(np.int32))


def _along_fibers(rng: np.random.Generator, layout: Layout, per_mm: float, inside: bool) -> pd.DataFrame:
    """Flat nuclei along the outlines of fibers, on one side or the other."""
    rings = shapely.get_exterior_ring(layout.fibers)
    length = shapely.length(rings)
    number = rng.poisson(length * per_mm / 1000)
    fiber = np.repeat(np.arange(len(rings)), number)
    along = rng.random(len(fiber)) * length[fiber]
    point = shapely.get_coordinates(shapely.line_interpolate_point(rings[fiber], along))
    ahead = shapely.get_coordinates(
        shapely.line_interpolate_point(rings[fiber], (along + 1.5) % length[fiber])
    )
    angle = np.arctan2(*(ahead - point).T[::-1])
    long_um = rng.uniform(2.8, 5.5, len(fiber)) if inside else rng.uniform(2.2, 5.0, len(fiber))
    short = rng.uniform(1.1, 2.0, len(fiber)) if inside else rng.uniform(0.7, 1.5, len(fiber))
    normal = np.column_stack([-np.sin(angle), np.cos(angle)])
    centre = shapely.get_coordinates(shapely.centroid(layout.fibers))[fiber]
    inward = np.sign(((centre - point) * normal).sum(1))
    shift = (short + 0.3) * inward if inside else -1.0 * inward
    points = point + normal * shift[:, None]
    kind, place = ("myonucleus", "fiber") if inside else ("endothelial", "endomysial")
    table = _table(points, long_um, short, angle, kind=kind, place=place)
    return table.assign(fiber=(fiber + 1).astype(np.int32) if inside else 0)


def _vessel_nuclei(rng: np.random.Generator, layout: Layout) -> pd.DataFrame:
    """Endothelium and smooth muscle around lumens."""
    number = np.maximum(layout.vessels[:, 2] / 3, 3).astype(int)
    vessel = np.repeat(np.arange(len(number)), number)
    x, y, radius = layout.vessels[vessel].T
    turn = rng.uniform(0, 2 * np.pi, len(vessel))
    reach = radius * rng.choice([0.78, 0.95], len(vessel))
    points = np.column_stack([x + reach * np.cos(turn), y + reach * np.sin(turn)])
    size = rng.uniform(2.2, 4.2, len(vessel))
    return _table(points, size, size * 0.42, turn + np.pi / 2, kind="endothelial", place="perivascular")


def _fibroblasts(rng: np.random.Generator, layout: Layout, labels: Labels, step_um: float) -> pd.DataFrame:
    """Thin nuclei of the perimysium, along the nearest fascicle."""
    box = np.array(layout.tissue.bounds)
    points = rng.uniform(box[:2], box[2:], (int(layout.tissue.area / 1500), 2))
    spots = shapely.points(points)
    tree = shapely.STRtree(layout.fascicles)
    outside = np.ones(len(points), bool)
    outside[tree.query(spots, predicate="within")[0]] = False
    points, spots = points[outside], np.asarray(spots)[outside]
    nearest = np.asarray(tree.nearest(spots))
    edge = shapely.get_exterior_ring(layout.fascicles[nearest])
    along = shapely.line_locate_point(edge, spots)
    start = shapely.get_coordinates(shapely.line_interpolate_point(edge, np.maximum(along - 3, 0)))
    end = shapely.get_coordinates(shapely.line_interpolate_point(edge, along + 3))
    angle = np.arctan2(*(end - start).T[::-1]) + rng.normal(0, 0.2, len(points))
    long_um, short = rng.uniform(3, 6.5, len(points)), rng.uniform(0.8, 1.5, len(points))
    return _table(points, long_um, short, angle, kind="fibroblast", place="perimysial")


def sample_map(image: npt.NDArray[np.generic], points: Floats, step_um: float) -> npt.NDArray[np.int32]:
    """Values of a map under points; 0 outside.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        Map whose corner is the slide's.
    points : ndarray of float, shape (n, 2)
        x and y, um.
    step_um : float
        Pixel size.

    Returns
    -------
    ndarray of int32, shape (n,)

    Examples
    --------
    >>> sample_map(np.array([[1, 2]]), np.array([[1.5, 0.5], [2.5, 0.5]]), 1.0)
    array([2, 0], dtype=int32)
    """
    column, row = np.floor(points / step_um).astype(int).T
    inside = (row >= 0) & (column >= 0) & (row < image.shape[0]) & (column < image.shape[1])
    values = np.zeros(len(points), np.int32)
    values[inside] = image[row[inside], column[inside]]
    return values


def fill_shape(image: npt.NDArray[Any], shape: shapely.Polygon, step_um: float, value: float) -> None:
    """Fill a polygon in place, to a sixteenth of a pixel; an empty one fills nothing."""
    for part in shapely.get_parts(shape):
        if part.is_empty:
            continue
        rings = [part.exterior, *part.interiors]
        points = [np.round((np.array(ring.coords) / step_um - 0.5) * 16).astype(np.int32) for ring in rings]
        cv2.fillPoly(image, points, value, lineType=cv2.LINE_8, shift=4)
