"""How a rule of counting biases cells per fiber: simulated, and in closed form for discs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from scipy.integrate import quad
from scipy.optimize import brentq

from histoquant.errors import HistoquantError
from histoquant.inclusion import count_half_area

Shape = Literal["circle", "square"]
Progress = Callable[[int, int], None]
Values = npt.NDArray[np.float64]

RULES = ("clipped", "discarded", "half_area", "centroid", "counting_frame")
"""Every piece counts; only whole objects count; the three rules of `histoquant.inclusion`."""

_PART = 5_000
_VERTICES, _FIELD_VERTICES = 64, 256  # outlines of equal area, true to 0.1 % and 0.01 % of the radius


def simulate_bias(
    field_um: float,
    fiber_um: float,
    cell_um: float,
    rng: np.random.Generator,
    shape: Shape = "circle",
    fiber_elongation: float = 1.3,
    min_piece_um2: float = 10.0,
    objects: int = 50_000,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Simulate what every rule of counting makes of cells per fiber.

    Objects lie anywhere and in any direction, with equal probability: fibers are ellipses, cells discs.
    The true count is density times the field's area; only objects that the field's edge may cut are
    drawn, the others are known to count.

    Parameters
    ----------
    field_um : float
        Width of the field, um.
    fiber_um, cell_um : float
        Diameter of the circle of a fiber's and a cell's area, um.
    rng : numpy.random.Generator
        Source of places and directions.
    shape : {"circle", "square"}, optional
        Shape of the field.
    fiber_elongation : float, optional
        Longer over shorter axis of a fiber.
    min_piece_um2 : float, optional
        Area above which a piece is counted when clipped, um2.
    objects : int, optional
        Fibers, and cells, drawn at the edge.
    progress : callable, optional
        Called with the number of objects done and of all.

    Returns
    -------
    DataFrame
        One row per rule (index `rule`, see `RULES`): `fibers_percent`, `cells_percent` (bias of the counts),
        `cells_per_fiber_percent`, and the Monte-Carlo standard error of each, `..._se`. The counting frame
        needs a square field and is nan in a circle.

    Raises
    ------
    HistoquantError
        A size is not positive, an object is wider than the field, or smaller than a piece that counts.
    """
    if objects < 1:
        raise HistoquantError("no objects to draw", "objects", "draw one at least")
    for object_um, elongation in ((fiber_um, fiber_elongation), (cell_um, 1.0)):
        _check_sizes(field_um, object_um, elongation, min_piece_um2, shape)
    rest = (rng, shape, min_piece_um2, objects)
    fibers = _simulate_counts(field_um, fiber_um, fiber_elongation, *rest, _tell_from(progress, 0, objects))
    cells = _simulate_counts(field_um, cell_um, 1.0, *rest, _tell_from(progress, objects, objects))
    ratio = cells["factor"] / fibers["factor"]
    ratio_se = ratio * np.hypot(cells["se"] / cells["factor"], fibers["se"] / fibers["factor"])
    return pd.DataFrame(
        {
            "fibers_percent": (fibers["factor"] - 1) * 100,
            "fibers_se": fibers["se"] * 100,
            "cells_percent": (cells["factor"] - 1) * 100,
            "cells_se": cells["se"] * 100,
            "cells_per_fiber_percent": (ratio - 1) * 100,
            "cells_per_fiber_se": ratio_se * 100,
        }
    )


def compute_disc_bias(
    field_um: float, diameter_um: float, shape: Shape = "circle", min_piece_um2: float = 10.0
) -> pd.Series[float]:
    """Compute the bias of the count of discs by every rule, exactly.

    A disc counts where its area inside the field exceeds a threshold: a piece's least area, the whole
    disc, or half of it. The count is density times the area in which its center may then lie. In a circle
    that is a disc, whose radius the area of two circles' intersection gives; in a square it is the square
    moved by a fixed distance, less what the corners take. Without a least area the clipped count is that
    of the Minkowski sum of field and disc. By half area a disc on a straight edge counts as its centroid
    does; at a corner and at a curved edge a little less. Centroid and counting frame are unbiased.

    Parameters
    ----------
    field_um, diameter_um : float
        Width of the field and diameter of the disc, um.
    shape : {"circle", "square"}, optional
        Shape of the field.
    min_piece_um2 : float, optional
        Area above which a piece is counted when clipped, um2.

    Returns
    -------
    Series of float, index `rule`
        Bias in per cent; nan for the counting frame in a circle.

    Raises
    ------
    HistoquantError
        As `simulate_bias`.

    Examples
    --------
    >>> compute_disc_bias(550, 60).round(2).to_dict()["half_area"]
    -0.4
    """
    _check_sizes(field_um, diameter_um, 1.0, min_piece_um2, shape)
    disc_um2 = np.pi / 4 * diameter_um**2
    reach = _reach_circle if shape == "circle" else _reach_square
    shares = {"clipped": min_piece_um2 / disc_um2, "discarded": 1.0, "half_area": 0.5}
    bias = {rule: (reach(field_um, diameter_um / 2, share) - 1) * 100 for rule, share in shares.items()}
    bias |= {"centroid": 0.0, "counting_frame": 0.0 if shape == "square" else float("nan")}
    return pd.Series(bias, name="percent").rename_axis("rule").reindex(list(RULES))


def check_bias(
    field_um: float,
    fiber_um: float,
    cell_um: float,
    rng: np.random.Generator,
    shape: Shape = "circle",
    min_piece_um2: float = 10.0,
    objects: int = 50_000,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Check the simulation against the closed forms, for round fibers.

    Parameters
    ----------
    field_um, fiber_um, cell_um, rng, shape, min_piece_um2, objects, progress
        As for `simulate_bias`.

    Returns
    -------
    DataFrame
        One row per rule (index `rule`): `simulated_percent`, `se`, `exact_percent` of cells per fiber and
        `difference_se`, their difference in standard errors; beyond 4 something is wrong.

    Raises
    ------
    HistoquantError
        As `simulate_bias`.
    """
    sizes = (field_um, fiber_um, cell_um, rng, shape, 1.0, min_piece_um2)
    simulated = simulate_bias(*sizes, objects=objects, progress=progress)
    fibers = compute_disc_bias(field_um, fiber_um, shape, min_piece_um2)
    cells = compute_disc_bias(field_um, cell_um, shape, min_piece_um2)
    exact = ((1 + cells / 100) / (1 + fibers / 100) - 1) * 100
    value, se = simulated["cells_per_fiber_percent"], simulated["cells_per_fiber_se"]
    distance = ((value - exact) / se).where(se > 0)
    return pd.DataFrame(
        {"simulated_percent": value, "se": se, "exact_percent": exact, "difference_se": distance}
    )


def _check_sizes(field_um: float, object_um: float, elongation: float, piece_um2: float, shape: str) -> None:
    if shape not in ("circle", "square"):
        raise HistoquantError(f"no field of shape {shape}", "shape", "take circle or square")
    if not (field_um > 0 and object_um > 0 and elongation >= 1 and piece_um2 >= 0):
        raise HistoquantError("a size is not positive, or an elongation under 1", "sizes", "correct it")
    if object_um * np.sqrt(elongation) >= field_um:
        raise HistoquantError(
            f"an object of {object_um:g} um is not narrower than the field of {field_um:g} um",
            "sizes",
            "take a wider field",
        )
    if piece_um2 >= np.pi / 4 * object_um**2:
        raise HistoquantError(
            f"an object of {object_um:g} um is no larger than the least piece of {piece_um2:g} um2",
            "min_piece_um2",
            "lower it",
        )


def _tell_from(progress: Progress | None, start: int, objects: int) -> Callable[[int], None]:
    """Tell how many objects are done, the first kind's or the second's."""
    return lambda done: progress(start + done, 2 * objects) if progress else None


def _simulate_counts(
    field_um: float,
    object_um: float,
    elongation: float,
    rng: np.random.Generator,
    shape: Shape,
    piece_um2: float,
    objects: int,
    note: Callable[[int], None],
) -> pd.DataFrame:
    """Expected count over true count by rule, `factor`, and its standard error, `se`."""
    long = object_um / 2 * np.sqrt(elongation)
    # A little beyond where the edge can cut, so that every rule has to decide both ways.
    reach = min(1.1 * long, field_um / 2)
    centers, core_um2, band_um2 = _draw_centers(field_um / 2, reach, shape, objects, rng)
    angle = rng.uniform(0, np.pi, objects)
    parts = []
    for start in range(0, objects, _PART):
        part = slice(start, start + _PART)
        outlines = _outline_ellipses(centers[part], long, long / elongation, angle[part])
        parts.append(_count_outlines(outlines, centers[part], field_um / 2, shape, piece_um2))
        note(min(start + _PART, objects))
    counted = pd.concat(parts)
    field_um2 = field_um**2 * (np.pi / 4 if shape == "circle" else 1.0)
    share = counted.mean()
    return pd.DataFrame(
        {
            "factor": (core_um2 + share * band_um2) / field_um2,
            "se": np.sqrt(share * (1 - share) / objects) * band_um2 / field_um2,
        }
    )


def _draw_centers(
    half: float, reach: float, shape: Shape, objects: int, rng: np.random.Generator
) -> tuple[Values, float, float]:
    """Centers within reach of the edge of a field about (0, 0); area of the core and of this band."""
    core, outer = half - reach, half + reach
    if shape == "circle":
        radius = np.sqrt(rng.uniform(core**2, outer**2, objects))
        angle = rng.uniform(0, 2 * np.pi, objects)
        centers = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return centers, np.pi * core**2, np.pi * (outer**2 - core**2)
    # The band is four equal rectangles, each a quarter turn from the next.
    x, y = rng.uniform(-core, outer, objects), rng.uniform(core, outer, objects)
    turn = rng.integers(4, size=objects)[:, None]
    centers = np.choose(turn, [np.stack(c, axis=1) for c in ((x, y), (-y, x), (-x, -y), (y, -x))])
    return centers, 4 * core**2, 4 * (outer**2 - core**2)


def _outline_ellipses(centers: Values, long: float, short: float, angle: Values) -> npt.NDArray[Any]:
    """Polygons of the ellipses' area."""
    u, v = np.array([[long], [short]]) * _outline_circle(_VERTICES)
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    points = np.stack([cosine * u - sine * v, sine * u + cosine * v], axis=2) + centers[:, None, :]
    return np.asarray(shapely.polygons(points))


def _outline_circle(vertices: int) -> Values:
    """Regular polygon of the unit circle's area, shape (2, vertices)."""
    turn = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    grow = np.sqrt(2 * np.pi / vertices / np.sin(2 * np.pi / vertices))
    return np.asarray(grow * np.stack([np.cos(turn), np.sin(turn)]))


def _count_outlines(
    outlines: npt.NDArray[Any], centers: Values, half: float, shape: Shape, piece_um2: float
) -> pd.DataFrame:
    """Which outlines count by each rule in the field about (0, 0)."""
    circle = shapely.Polygon(half * _outline_circle(_FIELD_VERTICES).T)
    field = circle if shape == "circle" else shapely.box(-half, -half, half, half)
    shapely.prepare(field)
    area = shapely.area(outlines)
    within = shapely.area(shapely.intersection(outlines, field))
    x, y = centers.T
    counted = {
        "clipped": within > piece_um2,
        "discarded": shapely.contains(field, outlines),
        "half_area": count_half_area(within / area),
        "centroid": np.hypot(x, y) < half if shape == "circle" else (np.abs(x) < half) & (np.abs(y) < half),
    }
    if shape == "square":
        far = 4 * half
        beyond = shapely.box([-far, -far], [-far, -far], [-half, half], [far, -half])
        excluded = shapely.intersects(outlines[:, None], beyond).any(axis=1)
        counted["counting_frame"] = (within > 0) & ~excluded
    return pd.DataFrame(counted).reindex(columns=list(RULES)).astype(np.float64)


def _reach_circle(field_um: float, radius: float, share: float) -> float:
    """Area of the centers of discs with more than a share inside a circle, over the circle's."""
    half = field_um / 2

    def exceeds(distance: float) -> float:
        return _intersect_circles(distance, half, radius) / (np.pi * radius**2) - share

    if share <= 0 or share >= 1:
        return float((half + radius * (1 if share <= 0 else -1)) ** 2 / half**2)
    return float(brentq(exceeds, half - radius, half + radius, xtol=1e-12)) ** 2 / half**2


def _intersect_circles(distance: float, one: float, two: float) -> float:
    """Area that two circles share; their centers are `distance` apart."""
    if distance >= one + two:
        return 0.0
    if distance <= abs(one - two):
        return float(np.pi * min(one, two) ** 2)
    a = (distance**2 + one**2 - two**2) / (2 * distance)
    b = distance - a
    chord = np.sqrt(max(one**2 - a**2, 0.0))
    caps = one**2 * np.arccos(np.clip(a / one, -1, 1)) + two**2 * np.arccos(np.clip(b / two, -1, 1))
    return float(caps - distance * chord)


def _reach_square(field_um: float, radius: float, share: float) -> float:
    """Area of the centers of discs with more than a share inside a square, over the square's."""
    width = field_um / radius  # the disc has radius 1
    target = share * np.pi

    def find_border(area: Callable[[float], float]) -> float:
        return float(brentq(lambda y: area(y) - target, -1, 1, xtol=1e-13)) if 0 < share < 1 else 0.0

    if share >= 1:
        return (width - 2) ** 2 / width**2
    if share <= 0:
        return (width**2 + 4 * width + np.pi) / width**2
    edge = find_border(_area_in_half_plane)
    # Over x the border of the centers in a corner runs from x = edge (y = 1) to x = 1 (y = edge).
    corner = quad(lambda x: find_border(lambda y: _area_in_quadrant(x, y)) - edge, edge, 1, limit=200)[0]
    return float(((width - 2 * edge) ** 2 - 4 * corner) / width**2)


def _area_in_half_plane(y: float) -> float:
    """Area of the unit disc about (0, y) above 0."""
    return float(np.pi / 2 + y * np.sqrt(1 - y**2) + np.arcsin(y))


def _area_in_quadrant(x: float, y: float) -> float:
    """Area of the unit disc about (x, y) right of and above (0, 0); x and y within 1 of 0."""
    strip_x, strip_y = ((z * np.sqrt(1 - z**2) + np.arcsin(z)) / 2 for z in (x, y))
    if x**2 + y**2 <= 1:
        return float(np.pi / 4 + x * y + strip_x + strip_y)
    # The corner lies off the disc: the lines cut caps that do not overlap.
    if max(x, y) < 0:
        return 0.0
    return float(np.pi / 2 + 2 * min(strip_x, strip_y) if min(x, y) < 0 else 2 * (strip_x + strip_y))
