"""Hulls of regions, which are what OpenCV makes of them, and which pieces are merged."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.segmentation import watershed

from histoquant.classical import _flood_minima
from histoquant.regions import _wrap_both, merge_regions, wrap_points

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.bool_, shape).filter(np.any)
)


def list_points(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask)[:, ::-1].astype(np.int32)


def wrap_plainly(points: np.ndarray) -> tuple[np.ndarray, float]:
    hull = cv2.convexHull(points)
    return hull[:, 0], cv2.contourArea(hull) + 0.5 * cv2.arcLength(hull, True) + 1


@given(masks)
def test_a_hull_has_the_corners_and_the_area_of_the_one_of_opencv(mask: np.ndarray) -> None:
    points = np.ascontiguousarray(list_points(mask))
    hull, area = wrap_points(points)
    expected, expected_area = wrap_plainly(points)
    assert area == expected_area
    assert sorted(map(tuple, hull.tolist())) == sorted(map(tuple, expected.tolist()))
    assert hull.tolist() == sorted(hull.tolist(), key=lambda point: (point[1], point[0]))


@given(masks, masks, st.integers(-14, 14), st.integers(-14, 14))
def test_the_hull_of_two_hulls_is_that_of_both_objects(
    one: np.ndarray, other: np.ndarray, right: int, down: int
) -> None:
    first = np.ascontiguousarray(list_points(one))
    second = np.ascontiguousarray(list_points(other) + np.int32([right, down]))
    hull, area = _wrap_both(wrap_points(first)[0], wrap_points(second)[0])
    expected, expected_area = wrap_plainly(np.concatenate([first, second]))
    assert area == expected_area
    assert set(map(tuple, hull.tolist())) == set(map(tuple, expected.tolist()))


@pytest.mark.parametrize(("at", "expected"), [(11, [1, 1, 2]), (5, [2, 1, 1])])
def test_pieces_without_a_border_between_them_are_merged(at: int, expected: list[int]) -> None:
    pieces = np.repeat(np.int32([[1, 2, 3]]), [6, 6, 6], axis=1).repeat(12, axis=0)
    border = np.zeros(pieces.shape, np.float32)
    border[:, at : at + 2] = 1
    assert merge_regions(pieces, border, border > 1, 20, 1.0)[0, ::6].tolist() == expected


def test_nothing_is_made_of_nothing() -> None:
    nothing = np.zeros((3, 4), np.int32)
    merged = merge_regions(nothing, np.zeros((3, 4), np.float32), nothing > 0, 20, 1.0)
    assert merged is not nothing and not merged.any()


@given(
    st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
        lambda shape: st.tuples(
            arrays(np.int32, shape, elements=st.integers(0, 5)), arrays(np.bool_, shape, fill=st.nothing())
        )
    )
)
def test_pieces_are_those_of_the_watershed_of_scikit_image(image: tuple[np.ndarray, np.ndarray]) -> None:
    steps, inside = image
    np.testing.assert_array_equal(_flood_minima(steps, inside), watershed(steps, mask=inside))


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_a_large_image_are_those_of_scikit_image_too(seed: int) -> None:
    """Many minima and sills alike: what is lower behind a sill is no sooner flooded than the sill."""
    noise = np.random.default_rng(seed).standard_normal((2, 200, 150))
    rough, inside = cv2.GaussianBlur(noise[0], (0, 0), 1.5), cv2.GaussianBlur(noise[1], (0, 0), 5) > -0.1
    steps = np.round(80 * (rough - rough.min())).astype(np.int32)
    np.testing.assert_array_equal(_flood_minima(steps, inside), watershed(steps, mask=inside))
