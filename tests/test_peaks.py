import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from histoquant.peaks import find_tops, mark_high

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=25)
IMAGES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
REACH = st.integers(1, 9)


def find_highest(image: np.ndarray, reach: int) -> np.ndarray:
    return np.asarray(cv2.dilate(image, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)))


@given(IMAGES, REACH, st.sampled_from([0.0, 0.4, 0.9]), st.sampled_from([-1.0, 0.15, 2.0]))
def test_what_is_high_is_above_a_value_and_a_share_of_what_opencv_finds_highest(
    image: np.ndarray, reach: int, share: float, least: float
) -> None:
    before = image.copy()
    expected = (image > np.float32(least)) & (image > np.float32(share) * find_highest(image, reach))
    np.testing.assert_array_equal(mark_high(image, reach, share, least), expected)
    np.testing.assert_array_equal(image, before)


@given(IMAGES, REACH, st.integers(0, 99))
def test_a_top_has_nothing_higher_around(image: np.ndarray, reach: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random(image.shape) < 0.5
    found = find_tops(image, np.flatnonzero(mask), reach)
    np.testing.assert_array_equal(found, (image >= find_highest(image, reach))[mask])


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_no_pixel_is_high(shape: tuple[int, int]) -> None:
    image = np.zeros(shape, np.float32)
    assert mark_high(image, 2, 0.5, 0.0).shape == shape
    assert find_tops(image, np.flatnonzero(image), 2).size == 0
