"""Truth of sections made of one photograph and its mirror images.

A fiber cut by the photograph's border grows together with its own mirror image across a seam. Where
the two meet in a narrow neck, a reader would count two fibers; the section's truth says one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

Labels = npt.NDArray[np.int32]
NECK = 0.5
"""A fiber and its mirror image are two if they meet along less than this share of their width."""


def part_mirrored(labels: Labels, tile_of: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> Labels:
    """Tell apart a fiber and its mirror image that meet in a narrow neck.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        True fibers; one meets a seam at most once along each axis.
    tile_of : tuple of ndarray of int
        Number of the photograph each row, and each column, belongs to.

    Returns
    -------
    ndarray of int32
        A new map; what lies below or right of a neck has a label of its own.

    Examples
    --------
    A fiber 6 px wide meets its mirror image along 2 px, another along 4 px:

    >>> wide, narrow = [1] * 6 + [0] + [2] * 6, [0, 0, 1, 1, 0, 0, 0, 0, 2, 2, 2, 2, 0]
    >>> half = np.array([wide, wide, narrow])
    >>> whole = np.concatenate([half, half[::-1]]).astype(np.int32)
    >>> parted = part_mirrored(whole, (np.arange(6) // 3, np.zeros(13, int)))
    >>> [sorted(set(parted[parted > 0][whole[parted > 0] == i].tolist())) for i in (1, 2)]
    [[1, 3], [2]]
    """
    below = _part_rows(labels, tile_of[0])
    return np.ascontiguousarray(_part_rows(below.T, tile_of[1]).T)


def fold_mirrored(at_um: float, side_um: float) -> float:
    """Place within the photograph, of a place in a section that begins with half a photograph of glass.

    Examples
    --------
    >>> [fold_mirrored(at, 400.0) for at in (210.0, 590.0, 610.0, 1010.0)]
    [10.0, 390.0, 390.0, 10.0]
    """
    tile, within = divmod(at_um - side_um / 2, side_um)
    return side_um - within if tile % 2 else within


def _part_rows(labels: Labels, tile_of: npt.NDArray[np.int64]) -> Labels:
    parted, free = labels.copy(), int(labels.max(initial=0)) + 1
    places = find_objects(labels)
    for seam in np.flatnonzero(np.diff(tile_of)) + 1:
        above, under = labels[seam - 1], labels[seam]
        for label in np.unique(above[(above == under) & (above > 0)]):
            rows, columns = places[label - 1]
            fiber = labels[rows, columns] == label
            length = int(((above == label) & (under == label)).sum())
            if length < NECK * fiber.sum(axis=1).max():
                parted[seam : rows.stop, columns][fiber[seam - rows.start :]] = free
                free += 1
    return parted
