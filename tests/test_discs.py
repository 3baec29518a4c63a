"""Opening by a disc is what OpenCV makes of it."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.discs import open_by_disc

images = st.tuples(st.integers(1, 25), st.integers(1, 25)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-4, 4, width=32))
)


@given(images, st.sampled_from([1, 3, 5, 7, 17, 25]))
def test_it_is_the_opening_that_looks_at_every_pixel(image: np.ndarray, width: int) -> None:
    before = image.copy()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    np.testing.assert_array_equal(open_by_disc(image, width), cv2.morphologyEx(image, cv2.MORPH_OPEN, disc))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("view", [np.s_[::2, ::3], np.s_[5:, :7]])
def test_a_part_of_an_image_is_opened_as_a_copy_of_it(view: tuple[slice, slice]) -> None:
    image = np.random.default_rng(0).random((40, 40), np.float32)
    np.testing.assert_array_equal(open_by_disc(image[view], 5), open_by_disc(image[view].copy(), 5))
