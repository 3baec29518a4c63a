"""Label maps of separate fields as one lazy image: a section is large, its fields are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histoquant.lazy import LazyArray

Labels = npt.NDArray[np.int32]
_SMALLEST_PX = 512


@dataclass(frozen=True)
class Piece:
    """A label map and where it lies, um."""

    labels: Labels
    x_um: float
    y_um: float


@dataclass(frozen=True)
class Mosaic:
    """Levels of a mosaic, from fine to coarse, and the place of its upper left corner, um."""

    levels: tuple[LazyArray, ...]
    x_um: float
    y_um: float


def join_pieces(pieces: Sequence[Piece], mpp: float) -> Mosaic:
    """Join label maps into one lazy image; where two overlap, the first that has a label is seen.

    Parameters
    ----------
    pieces : sequence of Piece
        At least one, all of pixel size `mpp`.
    mpp : float
        Pixel size, um/px. A piece is moved by less than half a pixel onto the common grid.

    Returns
    -------
    Mosaic
        Each level has every second pixel of the one before.
    """
    left, top = min(piece.x_um for piece in pieces), min(piece.y_um for piece in pieces)
    places = [(round((piece.y_um - top) / mpp), round((piece.x_um - left) / mpp)) for piece in pieces]
    rows = max(row + piece.labels.shape[0] for (row, _), piece in zip(places, pieces, strict=True))
    columns = max(column + piece.labels.shape[1] for (_, column), piece in zip(places, pieces, strict=True))
    placed = [(row, column, piece.labels) for (row, column), piece in zip(places, pieces, strict=True)]
    levels, step = [], 1
    while True:
        levels.append(_make_level(placed, (-(-rows // step), -(-columns // step)), step))
        if max(levels[-1].shape) <= _SMALLEST_PX:
            return Mosaic(tuple(levels), left, top)
        step *= 2


def _make_level(placed: Sequence[tuple[int, int, Labels]], shape: tuple[int, int], step: int) -> LazyArray:
    def paint(left: int, top: int, width: int, height: int) -> Labels:
        canvas = np.zeros((height, width), np.int32)
        for row, column, labels in placed:
            _paste(canvas, labels, row - top * step, column - left * step, step)
        return canvas

    return LazyArray(shape, np.int32, paint)


def _paste(canvas: Labels, labels: Labels, row: int, column: int, step: int) -> None:
    """Paste every `step`-th pixel of labels whose corner lies at (row, column) of the fine canvas."""
    first_row, first_column = max(0, -(-row // step)), max(0, -(-column // step))
    part = labels[first_row * step - row :: step, first_column * step - column :: step]
    window = canvas[first_row : first_row + part.shape[0], first_column : first_column + part.shape[1]]
    part = part[: window.shape[0], : window.shape[1]]
    np.copyto(window, part, where=(window == 0) & (part > 0))
