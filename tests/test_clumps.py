import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import watershed

from histoquant.clumps import list_wholes, part_clumps


@given(arrays(bool, (9, 11)), st.integers(0, 99))
def test_clumps_are_parted_as_the_whole_mask_would_be(mask: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height = rng.permutation(mask.size).reshape(mask.shape).astype(np.float32)
    at = rng.random(mask.shape) < 0.15
    seeds = np.where(at, np.cumsum(at.ravel()).reshape(mask.shape), 0).astype(np.int32)
    parted = part_clumps(height, seeds, mask)
    assert parted.dtype == np.int32
    assert np.array_equal(parted, watershed(height, seeds, mask=mask))


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


@pytest.mark.parametrize(
    ("labels", "whole"),
    [
        ([[1, 1, 0, 1]], [[1, 1, 0, 0]]),  # of two pieces the larger
        ([[1, 0, 1]], [[1, 0, 0]]),  # of two alike the first
        ([[1, 1, 1], [1, 0, 1], [1, 1, 1]], [[1, 1, 1]] * 3),  # a hole is filled
        ([[1, 1, 1], [1, 0, 1], [1, 0, 1]], [[1, 1, 1], [1, 0, 1], [1, 0, 1]]),  # a bay is not
        ([[1, 0], [0, 1], [0, 1]], [[0, 0], [0, 1], [0, 1]]),  # a corner does not join
    ],
)
def test_an_object_is_made_whole(labels: list[list[int]], whole: list[list[int]]) -> None:
    ((number, box, mask),) = list_wholes(np.array(labels, np.int32))
    assert (number, box) == (1, (slice(0, len(labels)), slice(0, len(labels[0]))))
    assert mask.astype(int).tolist() == whole
