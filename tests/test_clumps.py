from heapq import heapify, heappop, heappush
from itertools import count

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.segmentation import watershed

from histoquant.clumps import find_wholes, list_wholes, name_pieces, part_clumps, part_places
from histoquant.spans import list_spans

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
HEIGHTS = st.sampled_from(np.float32([-np.inf, -2, -0.5, -0.0, 0.0, 0.5, 2, np.inf]))


def draw_seeds(shape: tuple[int, ...], rng: np.random.Generator, share: float = 0.15) -> np.ndarray:
    at = rng.random(shape) < share
    return np.where(at, np.cumsum(at.ravel()).reshape(shape), 0).astype(np.int32)


def flood_plainly(height: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Watershed by a heap of (height, age): seeds first, row by row."""
    labels, age = np.where(mask, seeds, 0).astype(np.int32), count()
    heap = [
        (height[place], next(age), *place)
        for place in np.argwhere(labels).tolist()
        for place in [tuple(place)]
    ]
    heapify(heap)
    while heap:
        _, _, row, column = heappop(heap)
        for y, x in ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)):
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = labels[row, column]
                heappush(heap, (height[y, x], next(age), y, x))
    return labels


def name_plainly(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The seed of each clump that holds just one."""
    clumps, number = ndimage.label(mask)
    owners = [np.unique(seeds[(clumps == clump) & (seeds > 0)]) for clump in range(1, number + 1)]
    return np.array([0] + [owner[0] if len(owner) == 1 else 0 for owner in owners], np.int32)[clumps]


@given(SHAPES, st.integers(0, 999), st.floats(0.2, 1))
def test_clumps_are_parted_as_the_whole_mask_would_be(
    shape: tuple[int, int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    height = rng.permutation(shape[0] * shape[1]).reshape(shape).astype(np.float32) - 50
    seeds, mask = draw_seeds(shape, rng), rng.random(shape) < share
    parted = part_clumps(height, seeds, mask)
    assert parted.dtype == np.int32
    assert np.array_equal(parted, watershed(height, seeds, mask=mask))


@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=HEIGHTS)), st.integers(0, 999))
def test_of_heights_alike_the_first_one_reached_is_flooded_first(height: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seeds, mask = draw_seeds(height.shape, rng, 0.3), rng.random(height.shape) < 0.9
    assert np.array_equal(part_clumps(height, seeds, mask), flood_plainly(height, seeds, mask))


@given(SHAPES, st.integers(0, 999), st.integers(0, 140))
def test_low_clumps_of_one_seed_are_its_own(shape: tuple[int, int], seed: int, low: int) -> None:
    rng = np.random.default_rng(seed)
    height = rng.permutation(shape[0] * shape[1]).reshape(shape).astype(np.float32)
    seeds, mask = draw_seeds(shape, rng), rng.random(shape) < 0.9
    parts = name_plainly(seeds, mask)
    sure = name_plainly(seeds, mask & (parts == 0) & (height < low))
    known = np.where(parts + sure > 0, parts + sure, seeds)
    assert np.array_equal(part_clumps(height, seeds, mask, low), watershed(height, known, mask=mask))


@given(SHAPES, st.integers(0, 999), st.floats(0, 1))
def test_places_are_parted_as_their_mask(shape: tuple[int, int], seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    height = rng.integers(0, 9, shape).astype(np.float32)
    seeds, mask = draw_seeds(shape, rng), rng.random(shape) < share
    at = np.flatnonzero(mask)
    parted = part_places(at, shape, height.ravel()[at], seeds.ravel()[at])
    assert parted.dtype == np.int32
    assert np.array_equal(parted, part_clumps(height, seeds, mask)[mask])


@given(SHAPES, st.integers(0, 999), st.floats(0, 1), st.sampled_from([4, 8]))
def test_pieces_are_numbered_as_by_opencv(
    shape: tuple[int, int], seed: int, share: float, sides: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    names = name_pieces(np.flatnonzero(mask), shape[1], sides)
    assert names.dtype == np.int32
    assert np.array_equal(names, cv2.connectedComponents(mask.astype(np.uint8), connectivity=sides)[1][mask])


def test_a_large_mask_is_flooded_to_its_end() -> None:
    rng = np.random.default_rng(1)
    height = rng.permutation(720 * 400).reshape(720, 400).astype(np.float32)
    seeds, mask = draw_seeds(height.shape, rng, 0.001), rng.random(height.shape) < 0.98
    assert np.array_equal(part_clumps(height, seeds, mask), watershed(height, seeds, mask=mask))


@pytest.mark.parametrize("low", [-12.0, -6.0, -2.0, 0.0])
def test_what_lies_low_needs_no_flooding(low: float) -> None:
    rows, columns = np.mgrid[:60, :90]
    bowls = [np.hypot(rows - y, columns - x) - r for y, x, r in ((30, 20, 18), (28, 50, 15), (33, 70, 12))]
    height = np.minimum.reduce(bowls).astype(np.float32)
    seeds = np.zeros(height.shape, np.int32)
    seeds[[30, 28, 33], [20, 50, 70]] = 1, 2, 3
    parted = part_clumps(height, seeds, height < 2, low)
    assert np.array_equal(parted, watershed(height, seeds, mask=height < 2))
    assert len(np.unique(parted)) == 4


def test_nothing_to_part_is_nothing() -> None:
    empty = np.zeros((3, 4), np.int32)
    assert part_clumps(np.zeros((3, 4), np.float32), empty, empty > 0).sum() == 0
    assert list(list_wholes(empty)) == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_no_pixel_is_nothing(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.int32)
    assert part_clumps(empty.astype(np.float32), empty, empty > 0).shape == shape
    nowhere = np.flatnonzero(empty)
    assert part_places(nowhere, shape, nowhere.astype(np.float32), empty.ravel()).size == 0
    assert name_pieces(nowhere, shape[1]).size == 0
    assert list(list_wholes(empty)) == []


@given(SHAPES.flatmap(lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 1, 1, 1, 2, 9]))))
def test_objects_are_made_whole_as_one_by_one(labels: np.ndarray) -> None:
    found = {number: (box, whole) for number, box, whole in list_wholes(labels)}
    assert list(found) == np.unique(labels[labels > 0]).tolist()
    for number, (box, whole) in found.items():
        pieces = ndimage.label(labels == number)[0]
        largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        assert np.array_equal(whole, ndimage.binary_fill_holes(largest)[box])
        assert (labels[box] == number).sum() == (labels == number).sum()
    wholes = find_wholes(list_spans(labels))
    assert wholes.count().tolist() == [whole.sum() for _, whole in found.values()]


@pytest.mark.parametrize(
    ("labels", "whole"),
    [
        ([[1, 1, 0, 1]], [[1, 1, 0, 0]]),  # of two pieces the larger
        ([[1, 0, 1]], [[1, 0, 0]]),  # of two alike the first
        ([[1, 1, 1], [1, 0, 1], [1, 1, 1]], [[1, 1, 1]] * 3),  # a hole is filled
        ([[1, 1, 1], [1, 0, 1], [1, 0, 1]], [[1, 1, 1], [1, 0, 1], [1, 0, 1]]),  # a bay is not
        ([[1, 0], [0, 1], [0, 1]], [[0, 0], [0, 1], [0, 1]]),  # a corner does not join
        ([[0, 1, 1], [1, 0, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 1], [1, 1, 1]]),  # nor lets it water in
    ],
)
def test_an_object_is_made_whole(labels: list[list[int]], whole: list[list[int]]) -> None:
    ((number, box, mask),) = list_wholes(np.array(labels, np.int32))
    assert (number, box) == (1, (slice(0, len(labels)), slice(0, len(labels[0]))))
    assert mask.astype(int).tolist() == whole
