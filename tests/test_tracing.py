"""Rings along the edges of pixels: every edge once, no crossing, the outer ring of a piece first."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.tracing import trace_rings

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
masks = st.tuples(st.integers(1, 10), st.integers(1, 10)).flatmap(lambda shape: arrays(np.uint8, shape))


def list_edges(pieces: np.ndarray) -> dict[tuple[int, int, int], int]:
    """The piece to the right of each edge (direction, row, column of its start), another to its left."""
    edges = {}
    padded = np.pad(pieces, 1)
    for (row, column), piece in np.ndenumerate(pieces):
        around = (padded[row, column + 1], padded[row + 1, column + 2])
        around += (padded[row + 2, column + 1], padded[row + 1, column])
        starts = ((row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column))
        for direction, (other, start) in enumerate(zip(around, starts, strict=True)):
            if piece and other != piece:
                edges[direction, *start] = piece
    return edges


def trace_plainly(pieces: np.ndarray) -> list[tuple[int, list[list[int]]]]:
    edges, seen, rings = list_edges(pieces), set(), []
    for edge in sorted(edges):
        corners, piece = [], edges[edge]
        while edge not in seen:
            seen.add(edge)
            direction, row, column = edge
            row, column = row + STEPS[direction][0], column + STEPS[direction][1]
            turns = [((direction + turn) % 4, row, column) for turn in (3, 0, 1)]
            edge = next(turned for turned in turns if edges.get(turned) == piece)
            if edge[0] != direction:
                corners.append([column, row])
        if corners:
            rings.append((piece, corners))
    return rings


@given(masks)
def test_rings_are_those_walked_edge_by_edge(mask: np.ndarray) -> None:
    pieces = cv2.connectedComponents((mask % 3 > 0).astype(np.uint8), connectivity=4)[1]
    found = [(piece, corners.tolist()) for piece, corners in trace_rings(pieces)]
    assert found == trace_plainly(pieces)


def test_an_object_that_fills_the_image_has_one_ring() -> None:
    ((piece, corners),) = trace_rings(np.full((2, 3), 4, np.int32))
    assert (piece, corners.tolist()) == (4, [[3, 0], [3, 2], [0, 2], [0, 0]])


def test_nothing_has_no_ring() -> None:
    assert list(trace_rings(np.zeros((2, 3), np.int32))) == []
    assert list(trace_rings(np.zeros((0, 3), np.int32))) == []
