"""Clumps of touching objects: parted where there is something to part, made whole one by one."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

from histoquant.spans import list_spans

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def part_clumps(height: FloatImage, seeds: Labels, mask: Mask, low: float = -np.inf) -> Labels:
    """Part a mask by watershed, which is run only where it decides something.

    A clump with one seed is that seed's: clumps do not touch. So is a clump of pixels below `low`, which is
    flooded before anything higher is. The result is that of the watershed of the whole mask, but for heights
    that are alike and for places between two low clumps of which one has a sill inside.

    Parameters
    ----------
    height : ndarray of float32, shape (rows, columns)
        Flooded from below.
    seeds : ndarray of int32, same shape
        Where flooding starts, 0 elsewhere.
    mask : ndarray of bool, same shape
        What is flooded; neighbours are those at a side.
    low : float, optional
        A height below which most basins are apart; the more is below it, the less is flooded.

    Returns
    -------
    ndarray of int32, same shape
        The seed's label; 0 outside the mask and in clumps without a seed.

    Examples
    --------
    >>> mask = np.array([[1, 1, 0, 1, 1, 1, 0, 1]], bool)
    >>> part_clumps(np.zeros(mask.shape, np.float32), np.array([[0, 5, 0, 7, 0, 8, 0, 0]], np.int32), mask)
    array([[5, 5, 0, 7, 7, 8, 0, 0]], dtype=int32)
    """
    parts = _name_clumps(seeds, mask)
    crowded = mask & (parts == 0)
    sure = _name_clumps(seeds, crowded & (height < low)) if low > -np.inf else np.zeros_like(parts)
    # Of what is sure only the rim takes part, from where the rest is flooded.
    rest = cv2.dilate((crowded & (sure == 0)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rest &= crowded
    flooded = watershed(height, np.where(sure > 0, sure, seeds), mask=rest)
    return np.asarray(parts + np.where(rest, flooded, sure), np.int32)


def _name_clumps(seeds: Labels, mask: Mask) -> Labels:
    """The seed of each clump that holds just one; 0 elsewhere."""
    count, clumps = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    at = np.flatnonzero((seeds != 0) & mask)
    clump, seed = clumps.ravel()[at], seeds.ravel()[at]
    owner = np.zeros(count, np.int32)
    owner[clump] = seed
    owner[clump[owner[clump] != seed]] = 0
    return np.asarray(owner[clumps])


def list_wholes(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice], Mask]]:
    """List objects made whole: the largest 4-connected piece of each, its holes filled.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        0 is background.

    Yields
    ------
    int, tuple of slice, ndarray of bool
        Label, ascending; box around all its pieces; the object in that box.

    Examples
    --------
    >>> [(number, whole.astype(int).tolist()) for number, _, whole in list_wholes(
    ...     np.array([[2, 2, 2, 0, 2], [2, 0, 2, 0, 0], [2, 2, 2, 0, 0]], np.int32))]
    [(2, [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])]
    """
    spans = list_spans(labels)
    for number, box in zip(spans.labels.tolist(), spans.frame(), strict=True):
        yield number, box, _fill_holes(_find_largest(labels[box] == number))


def _find_largest(mask: Mask) -> npt.NDArray[np.uint8]:
    count, pieces, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count == 2:
        return mask.astype(np.uint8)
    largest = 1 + int(np.argmax(boxes[1:, cv2.CC_STAT_AREA]))
    return np.asarray(pieces == largest, np.uint8)


def _fill_holes(piece: npt.NDArray[np.uint8]) -> Mask:
    """What cannot be reached from outside without crossing the piece."""
    outside = cv2.copyMakeBorder(piece, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.asarray(outside[1:-1, 1:-1] != 2)
