import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histoquant.rings import fill_rings

SQUARE = np.ones((3, 3), np.uint8)


def draw(*rows: str) -> np.ndarray:
    return np.array([[int(c) if c != "." else 0 for c in row] for row in rows], np.float32)


def fill(image, levels=(0.5,), low=2.0, high=50.0):
    return ["".join(".1"[value] for value in row) for row in fill_rings(image, levels, low, high)]


def test_a_closed_ring_is_filled_but_not_its_wall():
    ring = draw(".....", ".111.", ".1.1.", ".111.", ".....")
    assert fill(ring) == [".....", ".....", "..1..", ".....", "....."]


def test_a_gap_of_two_pixels_is_closed_and_one_of_three_is_not():
    def open_ring(gap):
        ring = np.zeros((14, 14), np.float32)
        ring[1:13, 1:13] = 1
        ring[2:12, 2:12] = 0
        ring[1, 5 : 5 + gap] = 0
        return ring

    closed, gaping = (fill_rings(open_ring(gap), [0.5], 2.0, 150.0) for gap in (2, 3))
    assert closed[2:12, 2:12].all()
    assert closed.sum() == 100
    assert gaping.max() == 0


def test_a_ring_at_the_border_of_the_image_is_open():
    assert fill(draw(".1.1.", ".111.", ".....")) == ["....."] * 3
    assert fill(draw("1111", "1..1", "1111"), high=5.0) == ["....", ".11.", "...."]


def test_what_is_around_walls_is_no_hole_however_small_holes_may_be():
    assert fill(draw("...", ".1.", "..."), low=0.0) == ["..."] * 3


def test_every_level_counts_by_itself():
    steps = draw("22222", "2...2", "2.3.2", "2...2", "22222")
    assert fill(steps, (0.5, 1.5, 2.5)) == [".....", ".111.", ".1.1.", ".111.", "....."]


def test_holes_too_small_or_too_large_are_left_open():
    ring = draw("111", "1.1", "111")
    assert fill(ring, low=2.0, high=2.0)[1] == ".1."
    assert fill(ring, low=2.1)[1] == "..."
    assert fill(ring, low=1.0, high=1.9)[1] == "..."


def fill_by_contours(image, levels, low, high, pixel_area):
    """What OpenCV's contours give."""

    def find_holes(below):
        contours, tree = cv2.findContours(1 - below, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes = np.zeros_like(below)
        for number, contour in enumerate(contours):
            if tree[0, number, 3] >= 0 and low <= cv2.contourArea(contour) * pixel_area <= high:
                cv2.drawContours(holes, contours, number, 1, cv2.FILLED)
        return holes & below

    inside = np.zeros(image.shape, np.uint8)
    for level in levels:
        below = (image <= np.float32(level)).astype(np.uint8)
        narrow = find_holes(cv2.erode(below, SQUARE))
        inside |= find_holes(below) | (cv2.dilate(narrow, SQUARE) & below)
    return inside


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 8)),
    st.lists(st.floats(0, 8), max_size=8).map(sorted),
    st.sampled_from([0.5, 2.0, 7.0]),
    st.sampled_from([4.0, 12.0, 100.0]),
    st.sampled_from([1.0, 0.25]),
)
def test_rings_are_filled_as_by_contours(drawn, levels, low, high, pixel_area):
    image = drawn.astype(np.float32)
    args = (image, levels, low, high, pixel_area)
    np.testing.assert_array_equal(fill_rings(*args), fill_by_contours(*args))


@pytest.mark.parametrize("seed", range(6))
def test_smooth_images_are_filled_as_by_contours(seed):
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.random((90, 70), np.float32), (0, 0), 1.0 + seed / 4)
    levels = np.quantile(image, [0.5, 0.6, 0.7, 0.8, 0.9])
    found = fill_rings(image, levels, 6.0, 200.0, 1.0)
    assert found.sum() > 20
    np.testing.assert_array_equal(found, fill_by_contours(image, levels, 6.0, 200.0, 1.0))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (1, 1), (1, 7)])
def test_an_image_without_room_for_a_ring_holds_none(shape):
    found = fill_rings(np.ones(shape, np.float32), [0.5], 0.0, 9.0)
    assert found.shape == shape
    assert not found.any()
