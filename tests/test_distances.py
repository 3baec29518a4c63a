"""Distances are those of a distance transform, wherever they are asked for."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from histoquant.distances import draw_disc, look_around, measure_depth

grids = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 2, 7]))
)
# Labels large enough to have an inside.
blocks = grids.map(lambda grid: np.repeat(np.repeat(grid, 4, axis=0), 5, axis=1))


@given(grids | blocks)
def test_depths_are_those_of_a_distance_transform(labels: np.ndarray) -> None:
    around = np.pad(labels, 1, mode="edge")
    beside = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    free = np.logical_and.reduce([labels > 0, *(side == labels for side in beside)]).astype(np.uint8)
    rows, columns = np.nonzero(labels)
    depth = measure_depth(free[rows, columns] > 0, rows, columns)
    assert depth.dtype == np.float32
    if free.all():
        assert (depth > 1000).all()
        return
    expected = cv2.distanceTransform(free, cv2.DIST_L2, 5) + 1
    # OpenCV rounds steps to 16 bits where it has no IPP.
    np.testing.assert_allclose(depth, expected[rows, columns], rtol=1e-5)


@given(grids, st.floats(0, 7))
def test_what_a_disc_dilates_is_no_farther_than_its_radius(labels: np.ndarray, radius: float) -> None:
    known = (labels != 0).astype(np.uint8)
    reached = cv2.dilate(known, draw_disc(radius)) != 0
    away = cv2.distanceTransform(1 - known, cv2.DIST_L2, 5)
    assert (reached == ((away <= radius) & known.any())).all()


@given(grids)
def test_what_is_nearest_is_found_as_by_a_distance_transform(labels: np.ndarray) -> None:
    free = labels == 0
    at = np.stack([place.ravel() for place in np.indices(free.shape)])
    distance, nearest = look_around(free, at, np.inf)
    if free.all():
        assert np.isinf(distance).all() and (nearest == -1).all()
        return
    expected = cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 5)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(distance, expected.ravel(), rtol=1e-6)
    rows, columns = np.nonzero(~free)
    squares = (at[0, :, None] - rows) ** 2 + (at[1, :, None] - columns) ** 2
    best = squares.argmin(axis=1)
    assert nearest.tolist() == (rows * free.shape[1] + columns)[best].tolist()


def test_nothing_is_looked_for_beyond_a_limit() -> None:
    free = np.ones((1, 9), bool)
    free[0, 7] = False
    at = np.array([[0, 0, 0], [3, 4, 8]])
    assert look_around(free, at, 3.0)[0].tolist() == [np.inf, 3, 1]
