"""Regions: small pieces merged into a tree, from which the best set of outlines is chosen.

Greedy merging alone stops too early or too late. Here it only proposes: every piece and every union on
the way is a candidate, scored by shape and by the evidence along its outline, and the set of disjoint
candidates of the largest total score, weighted by area, is exact by dynamic programming over the tree.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Points = npt.NDArray[np.int32]

SHAPE_IN_ORDER = 0.8
STOP = 1.2
HIDDEN = 0.1

# Score of a candidate.
SOLIDITY_POWER = 3.9
OUTLINE_POWER = 1.2
INNER_POWER = 1.0
FAINT = 0.06
WIDEST_UM = 140.0
SMALL_SHARE = 0.05


@dataclass
class _Tree:
    """Candidates; the first `pieces` + 1 are the pieces themselves (0 = outside), then their unions.

    `outline` and `evidence` are length and summed evidence of the outline, `inside` the evidence above
    `FAINT` swallowed by merging.
    """

    pieces: int
    area: Floats
    hull: list[Points]
    hull_area: Floats
    outline: Floats
    evidence: Floats
    inside: Floats
    children: dict[int, tuple[int, int]]


def merge_regions(
    pieces: Labels, evidence: FloatImage, hidden: npt.NDArray[np.bool_], min_area_px: float, mpp: float
) -> Labels:
    """Choose the most fiber-like unions of touching pieces.

    Parameters
    ----------
    pieces : ndarray of int32
        Label map of an over-segmentation, sequential, 0 = outside.
    evidence : ndarray of float32
        0 to 1, how much a pixel looks like a border.
    hidden : ndarray of bool
        Pixels where a border cannot be seen (nuclei); their evidence hardly counts.
    min_area_px : float
        Smaller regions are chosen only for want of a better union.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    ndarray of int32
        Sequential label map; every piece belongs to exactly one region.

    Examples
    --------
    >>> pieces = np.repeat(np.int32([[1, 2, 3]]), [6, 6, 6], axis=1).repeat(12, axis=0)
    >>> border = np.zeros(pieces.shape, np.float32)
    >>> border[:, 11:13] = 1
    >>> merge_regions(pieces, border, border > 1, 20, 1.0)[0, ::6]
    array([1, 1, 2], dtype=int32)
    """
    count = int(pieces.max(initial=0))
    if count == 0:
        return pieces.copy()
    borders = _measure_borders(pieces, evidence, hidden)
    tree = _start_tree(pieces, borders)
    last = _merge_all(tree, borders)
    score = _score(tree, last, min_area_px, mpp)
    return _choose(tree, score, last)[pieces]


def _measure_borders(
    pieces: Labels, evidence: FloatImage, hidden: npt.NDArray[np.bool_]
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Length, visible length and summed evidence of every border between two labels."""
    size = int(pieces.max()) + 1
    weight = np.where(hidden, np.float32(HIDDEN), np.float32(1))
    codes, weights, values = [], [], []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = pieces[one], pieces[other]
        edge = a != b
        first, second = np.minimum(a, b)[edge].astype(np.int64), np.maximum(a, b)[edge]
        codes.append(first * size + second)
        weights.append(np.minimum(weight[one], weight[other])[edge])
        values.append(np.maximum(evidence[one], evidence[other])[edge])
    pairs, index = np.unique(np.concatenate(codes), return_inverse=True)
    seen, strength = np.concatenate(weights), np.concatenate(values)
    sums = [np.bincount(index), np.bincount(index, seen), np.bincount(index, seen * strength)]
    low, high = np.divmod(pairs, size)
    keys = zip(low.tolist(), high.tolist(), strict=True)
    rows = zip(*(part.astype(float).tolist() for part in sums), strict=True)
    return dict(zip(keys, rows, strict=True))


def _start_tree(pieces: Labels, borders: dict[tuple[int, int], tuple[float, float, float]]) -> _Tree:
    count = int(pieces.max())
    size = 2 * count + 1
    area, outline, evidence = np.zeros(size), np.zeros(size), np.zeros(size)
    area[: count + 1] = np.bincount(pieces.ravel(), minlength=count + 1)
    for (one, other), (length, seen, summed) in borders.items():
        if one == 0:
            # Where tissue ends there is no doubt.
            outline[other] += length
            evidence[other] += length
            continue
        for piece in (one, other):
            outline[piece] += seen
            evidence[piece] += summed
    hull = [np.zeros((1, 2), np.int32)] * size
    hull_area = np.ones(size)
    for piece, points in enumerate(_outline_points(pieces), start=1):
        hull[piece], hull_area[piece] = wrap_points(points)
    return _Tree(count, area, hull, hull_area, outline, evidence, np.zeros(size), {})


def _outline_points(pieces: Labels) -> list[Points]:
    """Pixels (x, y) on the outline of every piece."""
    padded = np.pad(pieces, 1, constant_values=-1)
    inner = np.ones(pieces.shape, bool)
    for shift in (np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]):
        inner &= padded[shift] == pieces
    rows, columns = np.nonzero(~inner & (pieces > 0))
    label = pieces[rows, columns]
    order = np.argsort(label, kind="stable")
    points = np.stack([columns, rows], axis=1).astype(np.int32)[order]
    starts = np.searchsorted(label[order], np.arange(2, int(pieces.max()) + 1))
    return np.split(points, starts)


@Compiled
def wrap_points(points: Points) -> tuple[Points, float]:
    """Wrap pixels in their convex hull.

    Parameters
    ----------
    points : ndarray of int32, shape (n, 2)
        Column and row of at least one pixel, in the order of rows, then columns.

    Returns
    -------
    hull : ndarray of int32, shape (corners, 2)
        The corners, in the same order.
    area : float
        px; half the outline is added, since points are pixel centers.

    References
    ----------
    Andrew AM. Another efficient algorithm for convex hulls in two dimensions.
    Inf Process Lett 1979;9:216-219.
    """
    kept, chain = np.zeros(len(points), np.bool_), np.empty(len(points), np.int64)
    twice, length = 0, 0.0
    for side in (1, -1):
        size = 0
        for at in range(len(points)):
            while size > 1 and side * _turn(points, chain[size - 2], chain[size - 1], at) <= 0:
                size -= 1
            chain[size] = at
            size += 1
        kept[chain[0]] = True
        for place in range(1, size):
            one, two = chain[place - 1], chain[place]
            across, down = points[two, 0] - points[one, 0], points[two, 1] - points[one, 1]
            twice += side * (points[one, 0] * down - points[one, 1] * across)
            length += np.sqrt(np.float32(across * across + down * down))
            kept[two] = True
    hull, size = np.empty((int(np.sum(kept)), 2), np.int32), 0
    for at in range(len(points)):
        if kept[at]:
            hull[size, 0], hull[size, 1] = points[at, 0], points[at, 1]
            size += 1
    return hull, abs(twice) / 2 + 0.5 * length + 1


@Compiled
def _turn(points: Points, one: int, two: int, three: int) -> int:
    """Twice the area of a triangle; its sign says on which side of the first two the third point lies."""
    across, down = points[two, 0] - points[one, 0], points[two, 1] - points[one, 1]
    return int(across * (points[three, 1] - points[one, 1]) - down * (points[three, 0] - points[one, 0]))


@Compiled
def _wrap_both(one: Points, other: Points) -> tuple[Points, float]:
    """Convex hull of two hulls, and its area."""
    both = np.empty((len(one) + len(other), 2), np.int32)
    i = j = 0
    for at in range(len(both)):
        first = j == len(other)
        if not first and i < len(one):
            above = one[i, 1] - other[j, 1]
            first = above < 0 or (above == 0 and one[i, 0] < other[j, 0])
        if first:
            both[at, 0], both[at, 1] = one[i, 0], one[i, 1]
            i += 1
        else:
            both[at, 0], both[at, 1] = other[j, 0], other[j, 1]
            j += 1
    return wrap_points(both)


def _unite(tree: _Tree, one: int, other: int) -> tuple[Points, float]:
    return _wrap_both(tree.hull[one], tree.hull[other])


def _cost(tree: _Tree, one: int, other: int, border: tuple[float, float, float]) -> float:
    """Mean evidence on the shared border, less what the union gains in convexity."""
    _, seen, summed = border
    a, b = tree.area[one], tree.area[other]
    _, hull_area = _unite(tree, one, other)
    parts = (a * a / tree.hull_area[one] + b * b / tree.hull_area[other]) / (a + b)
    return float(summed / (seen + 1e-6) - SHAPE_IN_ORDER * ((a + b) / hull_area - parts))


def _merge_all(tree: _Tree, borders: dict[tuple[int, int], tuple[float, float, float]]) -> int:
    """Merge cheapest first; fills the tree in place and returns the number of its nodes."""
    near: list[dict[int, tuple[float, float, float]]] = [{} for _ in tree.area]
    heap = []
    for (one, other), border in borders.items():
        if one:
            near[one][other] = near[other][one] = border
            heap.append((_cost(tree, one, other, border), one, other))
    heapq.heapify(heap)
    gone: set[int] = set()
    node = tree.pieces + 1
    while heap:
        cost, one, other = heapq.heappop(heap)
        if one in gone or other in gone:
            continue
        if cost > STOP:
            break
        gone |= {one, other}
        _join(tree, node, one, other, near[one][other])
        for part in (one, other):
            for neighbor, border in near[part].items():
                near[neighbor].pop(part)
                if neighbor not in (one, other):
                    before = near[node].get(neighbor, (0.0, 0.0, 0.0))
                    near[node][neighbor] = (
                        before[0] + border[0],
                        before[1] + border[1],
                        before[2] + border[2],
                    )
        for neighbor, border in near[node].items():
            near[neighbor][node] = border
            heapq.heappush(heap, (_cost(tree, neighbor, node, border), neighbor, node))
        node += 1
    return node


def _join(tree: _Tree, node: int, one: int, other: int, border: tuple[float, float, float]) -> None:
    _, seen, summed = border
    tree.children[node] = (one, other)
    tree.area[node] = tree.area[one] + tree.area[other]
    tree.outline[node] = tree.outline[one] + tree.outline[other] - 2 * seen
    tree.evidence[node] = tree.evidence[one] + tree.evidence[other] - 2 * summed
    tree.inside[node] = tree.inside[one] + tree.inside[other] + max(summed - FAINT * seen, 0.0)
    tree.hull[node], tree.hull_area[node] = _unite(tree, one, other)


def _score(tree: _Tree, last: int, min_area_px: float, mpp: float) -> Floats:
    """0 to 1: convex, border all round, none inside, not wider than fibers are."""
    area = np.maximum(tree.area[:last], 1)
    width_px = 2 * np.sqrt(area / np.pi)
    solidity = np.minimum(area / tree.hull_area[:last], 1)
    # An outline that is all image border says nothing.
    outline = (tree.evidence[:last] + 1e-6) / (tree.outline[:last] + 1e-6)
    inside = np.minimum(tree.inside[:last] / width_px, 1)
    narrow = 1 / (1 + np.exp((width_px * mpp - WIDEST_UM) / 10))
    score = solidity**SOLIDITY_POWER * np.clip(outline, 0.02, 1) ** OUTLINE_POWER
    score *= np.clip(1 - inside, 0.02, 1) ** INNER_POWER * narrow
    return np.where(area < min_area_px, SMALL_SHARE * score, score)


def _choose(tree: _Tree, score: Floats, last: int) -> npt.NDArray[np.int32]:
    """Region of every piece."""
    best = score * tree.area[:last]
    whole = np.ones(last, bool)
    for node in range(tree.pieces + 1, last):
        parts = best[list(tree.children[node])].sum()
        whole[node] = best[node] >= parts
        best[node] = max(best[node], parts)
    region = np.zeros(last, np.int32)
    count = 0
    # Parents have higher numbers than their children.
    for node in range(last - 1, 0, -1):
        if region[node] == 0 and whole[node]:
            count += 1
            region[node] = count
        if node in tree.children:
            region[list(tree.children[node])] = region[node]
    used, sequential = np.unique(region[: tree.pieces + 1], return_inverse=True)
    return sequential.astype(np.int32) if used[0] == 0 else (sequential + 1).astype(np.int32)
