"""Rings along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def trace_rings(pieces: npt.NDArray[np.int32]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Corners (column, row) of every ring of 4-connected pieces; a piece's outer ring comes first.

    Each side of a pixel that borders on another piece is an edge, walked with the pixel to its right.
    Where a piece touches itself at a corner the walk turns left, so that rings touch and never cross.
    """
    rows, columns = pieces.shape[0] + 1, pieces.shape[1] + 1
    owner = _list_sides(pieces).ravel()
    plane = rows * columns
    ahead = (1, columns, -1, -columns)  # east, south, west, north
    edges = np.flatnonzero(owner)
    direction, vertex = edges // plane, edges % plane
    target = vertex + np.array(ahead)[direction]
    follower = np.zeros(len(edges), np.int64)
    for turn in (1, 0, 3):  # right, straight, left: the last that exists wins
        candidate = (direction + turn) % 4 * plane + target
        follower = np.where(owner[candidate] == owner[edges], candidate, follower)
    after = np.searchsorted(edges, follower)
    turns, following = (direction[after] != direction).tolist(), after.tolist()
    owners = owner[edges].tolist()
    seen = bytearray(len(edges))
    for start in range(int(np.searchsorted(edges, plane))):  # every ring has an edge to the east
        if seen[start]:
            continue
        corners, edge = [], start
        while not seen[edge]:
            seen[edge] = 1
            if turns[edge]:
                corners.append(edge)
            edge = following[edge]
        row, column = np.divmod(target[corners], columns)
        yield owners[start], np.stack([column, row], axis=1)


def _list_sides(pieces: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Piece that owns the edge leaving each vertex, shape (4, rows + 1, columns + 1); 0 for none."""
    padded = np.zeros((pieces.shape[0] + 2, pieces.shape[1] + 2), np.int32)
    padded[1:-1, 1:-1] = pieces
    sides = np.zeros((4, pieces.shape[0] + 1, pieces.shape[1] + 1), np.int32)
    sides[0, :-1, :-1] = np.where(pieces != padded[:-2, 1:-1], pieces, 0)
    sides[1, :-1, 1:] = np.where(pieces != padded[1:-1, 2:], pieces, 0)
    sides[2, 1:, 1:] = np.where(pieces != padded[2:, 1:-1], pieces, 0)
    sides[3, 1:, :-1] = np.where(pieces != padded[1:-1, :-2], pieces, 0)
    return sides
