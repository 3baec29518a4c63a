"""Rings along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

Labels = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

# By direction, east, south, west and north: a step, and which pixel at a corner lies to its right.
_DOWN, _RIGHT = np.array([0, 1, 0, -1]), np.array([1, 0, -1, 0])
_BELOW, _AFTER = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 1])


def trace_rings(pieces: Labels) -> Iterator[tuple[int, Ints]]:
    """Corners (column, row) of every ring of 4-connected pieces; a piece's outer ring comes first.

    Each side of a pixel that borders on another piece is an edge, walked with the pixel to its right.
    Where a piece touches itself at a corner the walk turns left, so that rings touch and never cross.
    """
    rimmed = np.zeros((pieces.shape[0] + 2, pieces.shape[1] + 2), np.int32)
    rimmed[1:-1, 1:-1] = pieces
    corners, ends, owners = _walk(rimmed)
    for owner, begin, end in zip(owners.tolist(), [0, *ends.tolist()], ends.tolist(), strict=False):
        yield owner, corners[begin:end]


@Compiled
def _walk(pieces: Labels) -> tuple[Ints, Ints, Labels]:
    """Corners of all rings one after another, where each ends, and whose it is; pieces have a rim of 0."""
    rows, columns = pieces.shape
    corners, ends = np.empty((2 * rows * columns, 2), np.int64), np.empty(rows * columns, np.int64)
    owners, seen = np.empty(rows * columns, np.int32), np.zeros((rows, columns), np.bool_)
    count = rings = 0
    for top in range(rows - 1):
        for left in range(columns - 1):
            owner = _find_owner(pieces, 0, top, left)
            if owner == 0 or seen[top, left]:  # every ring has an edge to the east
                continue
            row, column, direction = top, left, 0
            while direction != 0 or not seen[row, column]:
                seen[row, column] |= direction == 0
                row, column = row + _DOWN[direction], column + _RIGHT[direction]
                turned = _turn(pieces, owner, direction, row, column)
                if turned != direction:
                    corners[count, 0], corners[count, 1] = column, row
                    count += 1
                direction = turned
            owners[rings], ends[rings] = owner, count
            rings += 1
    return corners[:count], ends[:rings], owners[:rings]


@Compiled
def _turn(pieces: Labels, owner: int, direction: int, row: int, column: int) -> int:
    """Direction of the next edge: left, straight on or right, the first that is the owner's."""
    for turn in (3, 0):
        if _find_owner(pieces, (direction + turn) % 4, row, column) == owner:
            return (direction + turn) % 4
    return (direction + 1) % 4


@Compiled
def _find_owner(pieces: Labels, direction: int, row: int, column: int) -> int:
    """Piece to the right of the edge that leaves a corner; 0 if the same is to its left."""
    right = pieces[row + _BELOW[direction], column + _AFTER[direction]]
    left = pieces[row + _BELOW[direction - 1], column + _AFTER[direction - 1]]
    return int(right) if right != left else 0
