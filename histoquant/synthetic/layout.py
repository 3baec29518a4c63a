"""Layout of a rendered section: outline, fascicles, fibers, vessels, foci; polygons in um."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import ConvexHull, cKDTree
from shapely.geometry import Polygon

from histoquant.synthetic.settings import LayoutSettings

Floats = npt.NDArray[np.float64]
Shapes = npt.NDArray[np.object_]
KINDS = ("normal", "atrophic", "necrotic", "regenerating")


@dataclass(frozen=True)
class Layout:
    """Where things are on a slide.

    Attributes
    ----------
    tissue : Polygon
        Outline of the tissue, tears taken out.
    fascicles, fibers : ndarray of Polygon
        `fibers` has label 1 for its first element.
    kinds : ndarray of str
        One of `KINDS` per fiber.
    vessels : ndarray, shape (n, 3)
        x, y and outer radius, um.
    foci : ndarray, shape (n, 3)
        x, y and standard deviation of focal infiltrates, um.
    """

    tissue: Polygon
    fascicles: Shapes
    fibers: Shapes
    kinds: npt.NDArray[np.str_]
    vessels: Floats
    foci: Floats


def arrange_section(
    rng: np.random.Generator, size_um: tuple[float, float], settings: LayoutSettings
) -> Layout:
    """Draw the layout of a section.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    size_um : tuple of float
        Width and height of the slide.
    settings : LayoutSettings
        Sizes and shares.

    Returns
    -------
    Layout
    """
    size_um = size_um[0] / settings.stretch, size_um[1]
    tissue = _outline(rng, size_um, settings)
    area_mm2 = tissue.area / 1e6
    foci = _scatter(rng, tissue, settings.foci_per_mm2 * area_mm2, settings.focus_um)
    fascicles = _fascicles(rng, tissue, settings)
    vessels = _vessels(rng, tissue, fascicles, round(settings.vessels_per_mm2 * area_mm2))
    fibers, kinds = _fibers(rng, fascicles, foci, settings)
    layout = Layout(tissue, fascicles, fibers, kinds, vessels, foci)
    return layout if settings.stretch == 1 else _stretch(layout, settings.stretch)


def _stretch(layout: Layout, times: float) -> Layout:
    """Lengthen all shapes along the rows, and move what is round."""
    tissue, fascicles, fibers = (
        shapely.transform(shapes, lambda points: points * [times, 1])
        for shapes in (np.array([layout.tissue], object), layout.fascicles, layout.fibers)
    )
    move = np.array([times, 1.0, 1.0])
    return Layout(tissue[0], fascicles, fibers, layout.kinds, layout.vessels * move, layout.foci * move)


def divide_plane(sites: Floats, weights: Floats) -> tuple[Shapes, npt.NDArray[np.int64]]:
    """Cells of a power diagram (Aurenhammer 1987): the lower hull of the lifted sites, dualised.

    Parameters
    ----------
    sites : ndarray of float, shape (n, 2)
        Points.
    weights : ndarray of float, shape (n,)
        Squared radii.

    Returns
    -------
    cells : ndarray of Polygon
        Convex; sites at the rim, whose cell is open or empty, have none.
    index : ndarray of int
        Site of each cell.

    Examples
    --------
    >>> grid = np.array([(x, y) for x in range(3) for y in range(3)], float)
    >>> cells, index = divide_plane(grid, np.zeros(9))
    >>> index.tolist(), cells[0].area
    ([4], 1.0)
    """
    centered = sites - sites.mean(0)
    hull = ConvexHull(np.column_stack([centered, (centered**2).sum(1) - weights]))
    lower = hull.equations[:, 2] < -1e-12
    corners = -hull.equations[lower, :2] / (2 * hull.equations[lower, 2:3]) + sites.mean(0)
    site = hull.simplices[lower].ravel()
    corner = np.repeat(corners, 3, axis=0)
    number = np.bincount(site, minlength=len(sites))
    middle = np.column_stack(
        [np.bincount(site, corner[:, axis], len(sites)) / np.maximum(number, 1) for axis in (0, 1)]
    )
    spoke = corner - middle[site]
    order = np.lexsort([np.arctan2(spoke[:, 1], spoke[:, 0]), site])
    outer = np.unique(hull.simplices[~lower])
    inner = (number[site] > 2) & ~np.isin(site, outer)
    order = order[inner[order]]
    index, ring = np.unique(site[order], return_inverse=True)
    rings = shapely.linearrings(corner[order], indices=ring)
    return shapely.polygons(rings), index


def _pack(rng: np.random.Generator, box: tuple[float, ...], radii: Floats, steps: int = 25) -> Floats:
    """Discs pushed apart until they hardly overlap."""
    low, high = np.array(box[:2]), np.array(box[2:])
    sites = rng.uniform(low, high, (len(radii), 2))
    for _ in range(steps):
        pairs = cKDTree(sites).query_pairs(2 * float(np.quantile(radii, 0.98)), output_type="ndarray")
        first, second = pairs.T
        apart = sites[second] - sites[first]
        distance = np.hypot(*apart.T) + 1e-9
        push = np.maximum(radii[first] + radii[second] - distance, 0) / (2.6 * distance)
        step = apart * push[:, None]
        for axis in (0, 1):
            sites[:, axis] += np.bincount(second, step[:, axis], len(sites))
            sites[:, axis] -= np.bincount(first, step[:, axis], len(sites))
        sites = np.clip(sites, low, high)
    return sites


def _bend(rng: np.random.Generator, shapes: Shapes, amplitude_um: float, wave_um: float) -> Shapes:
    """Displace outlines by one smooth field, so that neighbours stay neighbours."""
    if not len(shapes):
        return shapes
    dense = shapely.segmentize(shapes, wave_um / 4)
    left, top, right, bottom = shapely.total_bounds(dense)
    cells = int(np.ceil((bottom - top) / wave_um)) + 3, int(np.ceil((right - left) / wave_um)) + 3
    field = rng.standard_normal((*cells, 2)).astype(np.float32) * amplitude_um

    def displace(points: Floats) -> Floats:
        x = ((points[:, 0] - left) / wave_um + 1).astype(np.float32)
        y = ((points[:, 1] - top) / wave_um + 1).astype(np.float32)
        fine = cv2.resize(field, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
        row, column = (y * 8).astype(int), (x * 8).astype(int)
        return np.asarray(points + fine[row, column])

    return np.asarray(shapely.transform(dense, displace))


def _largest(shapes: Shapes) -> Shapes:
    """The largest part of each shape, without holes."""
    parts, index = shapely.get_parts(shapes, return_index=True)
    order = np.lexsort([-shapely.area(parts), index])
    first = order[np.unique(index[order], return_index=True)[1]]
    return np.asarray(shapely.polygons(shapely.get_exterior_ring(parts[first])))


def _outline(rng: np.random.Generator, size_um: tuple[float, float], settings: LayoutSettings) -> Polygon:
    """A rounded, irregular piece of tissue inside a rim of glass, with slits."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    # A superellipse fills the slide better than an ellipse; biopsies are cut to blocks.
    shape = (np.abs(np.cos(angle)) ** 4 + np.abs(np.sin(angle)) ** 4) ** -0.25
    waves = np.arange(2, 12)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    ripple = (np.cos(waves * angle[:, None] + phase) * rng.normal(0, 0.05, len(waves)) / waves).sum(1)
    half = np.array(size_um) / 2
    radius = shape * (1 + ripple) / np.max(1 + ripple)
    reach = np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None]
    outline = Polygon(half + reach * np.maximum(half - settings.rim_um, half * 0.05))
    for _ in range(settings.tears):
        start = rng.uniform(0.15, 0.85, 2) * size_um
        turn = np.cumsum(rng.normal(0, 0.35, 12)) + rng.uniform(0, 2 * np.pi)
        path = start + np.cumsum(np.column_stack([np.cos(turn), np.sin(turn)]) * 40, axis=0)
        slit = shapely.LineString(path).buffer(rng.uniform(6, 18))
        outline = _largest(np.array([outline.difference(slit)]))[0]
    return outline


def _scatter(rng: np.random.Generator, tissue: Polygon, expected: float, spread_um: float) -> Floats:
    """Points in the tissue with a varying spread."""
    left, top, right, bottom = tissue.bounds
    number = rng.poisson(expected * (right - left) * (bottom - top) / tissue.area)
    points = rng.uniform((left, top), (right, bottom), (number, 2))
    spread = spread_um * rng.lognormal(0, 0.4, number)
    inside = shapely.contains_xy(tissue, *points.T)
    return np.column_stack([points, spread])[inside]


def _fascicles(rng: np.random.Generator, tissue: Polygon, settings: LayoutSettings) -> Shapes:
    """Fascicles with rounded corners; what the outline cuts ends at the outline."""
    reach = settings.fascicle_um
    left, top, right, bottom = tissue.bounds
    box = left - reach, top - reach, right + reach, bottom + reach
    number = int((box[2] - box[0]) * (box[3] - box[1]) / (reach**2 * np.pi / 4) * 0.95)
    radii = reach / 2 * rng.lognormal(0, 0.25, max(number, 8))
    cells, index = divide_plane(_ring(_pack(rng, box, radii), box), _pad(radii, 24) ** 2)
    cells = _bend(rng, cells[index < len(radii)], 0.03 * reach, 0.3 * reach)
    gap = settings.perimysium_um / 2 * rng.lognormal(-0.1, 0.5, len(cells))
    rounded = shapely.buffer(shapely.buffer(cells, -(gap + 40)), 40)
    inside = shapely.intersection(rounded, tissue.buffer(-4))
    keep = shapely.area(inside) > 4 * settings.fiber_um**2
    return _largest(inside[keep]) if keep.any() else np.array([tissue.buffer(-4)])


def _ring(sites: Floats, box: tuple[float, ...]) -> Floats:
    """Sites with far ones around, so that every real cell is closed."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    size = np.array([box[2] - box[0], box[3] - box[1]])
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    return np.vstack([sites, middle + np.column_stack([np.cos(angle), np.sin(angle)]) * size])


def _pad(values: Floats, number: int) -> Floats:
    return np.concatenate([values, np.zeros(number)])


def _vessels(rng: np.random.Generator, tissue: Polygon, fascicles: Shapes, wanted: int) -> Floats:
    """Vessels where the perimysium is widest."""
    left, top, right, bottom = tissue.bounds
    points = rng.uniform((left, top), (right, bottom), (4000, 2))
    inside = shapely.contains_xy(tissue.buffer(-15), *points.T)
    points = points[inside]
    if not len(points) or not len(fascicles):
        return np.empty((0, 3))
    tree = shapely.STRtree(fascicles)
    _, room = tree.query_nearest(shapely.points(points), all_matches=False, return_distance=True)
    wide = np.argsort(-room, kind="stable")
    chosen: list[Floats] = []
    for spot in wide:
        radius = min(room[spot] * 0.8, 40.0)
        if radius < 7 or len(chosen) >= wanted:
            break
        if all(np.hypot(*(points[spot] - other[:2])) > 3 * (radius + other[2]) for other in chosen):
            chosen.append(np.array([*points[spot], radius * rng.uniform(0.6, 1)]))
    return np.array(chosen).reshape(-1, 3)


def _fibers(
    rng: np.random.Generator, fascicles: Shapes, foci: Floats, settings: LayoutSettings
) -> tuple[Shapes, npt.NDArray[np.str_]]:
    """Fibers packed into fascicles."""
    left, top, right, bottom = shapely.total_bounds(fascicles)
    box = (left - 60, top - 60, right + 60, bottom + 60)
    area = (box[2] - box[0]) * (box[3] - box[1])
    mean = settings.fiber_um / 2
    number = max(int(area / (np.pi * mean**2) * 0.97), 4)
    shares = [settings.atrophic, settings.necrotic, settings.regenerating]
    kinds = rng.choice(len(KINDS), number, p=[max(1 - sum(shares), 0), *shares])
    radii = mean * rng.lognormal(-(settings.fiber_spread**2) / 2, settings.fiber_spread, number)
    radii *= np.array([1.0, 0.45, 0.95, 0.7])[kinds]
    sites = _pack(rng, box, radii)
    fascicle = np.full(number, -1)
    site, found = shapely.STRtree(fascicles).query(shapely.points(sites), predicate="within")
    fascicle[site] = found
    keep = fascicle >= 0
    sites, radii, kinds, fascicle = sites[keep], radii[keep], kinds[keep], fascicle[keep]
    cells, index = divide_plane(_ring(sites, box), _pad(radii, 24) ** 2)
    cells, index = cells[index < len(sites)], index[index < len(sites)]
    own = fascicles[fascicle[index]]
    shapely.prepare(own)
    cut = ~shapely.contains(own, cells)
    cells[cut] = shapely.intersection(cells[cut], own[cut])
    return _shape_fibers(rng, cells, kinds[index], foci, settings)


def _shape_fibers(
    rng: np.random.Generator,
    cells: Shapes,
    kinds: npt.NDArray[np.int64],
    foci: Floats,
    settings: LayoutSettings,
) -> tuple[Shapes, npt.NDArray[np.str_]]:
    """Bend, shrink by the endomysium and round the corners."""
    cells = _bend(rng, cells, settings.waviness_um, settings.fiber_um * 0.6)
    cells = _bend(rng, cells, settings.waviness_um / 3, settings.fiber_um * 0.2)
    radius = np.sqrt(shapely.area(cells) / np.pi)
    gap = settings.endomysium_um / 2 * rng.lognormal(-0.1, 0.45, len(cells))
    gap *= 1 + 1.2 * infiltration(shapely.get_coordinates(shapely.centroid(cells)), foci)
    softness = np.array([1.0, 0.5, 1.6, 1.4])[kinds] * rng.uniform(0.6, 1.4, len(cells))
    corner = np.clip(settings.roundness * softness, 0, 0.85) * radius
    fibers = shapely.buffer(shapely.buffer(cells, -(gap + corner), quad_segs=4), corner, quad_segs=4)
    area = shapely.area(fibers)
    # A small site at the rim of its fascicle may fill a large corner.
    kinds = np.where((kinds == 1) & (area > 0.35 * (settings.fiber_um / 2) ** 2 * np.pi), 0, kinds)
    keep = area > 60
    return _largest(fibers[keep]), np.array(KINDS)[kinds[keep]]


def infiltration(points: Floats, foci: Floats) -> Floats:
    """Strength of focal infiltrates at points, at most 1.

    Parameters
    ----------
    points : ndarray of float, shape (n, 2)
        x and y, um.
    foci : ndarray of float, shape (m, 3)
        x, y and standard deviation, um.

    Returns
    -------
    ndarray of float, shape (n,)

    Examples
    --------
    >>> infiltration(np.array([[0.0, 0.0]]), np.array([[0.0, 0.0, 50.0]]))
    array([1.])
    """
    total = np.zeros(len(points))
    for x, y, spread in foci:
        square = (points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2
        total += np.exp(-square / (2 * spread**2))
    return np.minimum(total, 1)
