"""Pixels of labels: where each lies, what lies beside it, and what is told of a label by its pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from histoquant.pixels import list_pixels
from histoquant.spans import list_spans

MAPS = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 0, 1, 7])
)


@given(MAPS, st.integers(0, 2), st.integers(0, 2))
def test_pixels_are_those_of_the_map_in_a_box(labels: np.ndarray, top: int, left: int) -> None:
    wide = np.pad(labels, ((top, 1), (left, 2)))
    box = np.s_[top : top + labels.shape[0], left : left + labels.shape[1]]
    pixels = list_pixels(list_spans(wide), wide, box)
    rows, columns = np.nonzero(labels)
    names, index = np.unique(labels[rows, columns], return_inverse=True)
    assert (pixels.index.tolist(), pixels.area.tolist()) == (index.tolist(), np.bincount(index).tolist())
    assert (pixels.rows.tolist(), pixels.columns.tolist()) == (rows.tolist(), columns.tolist())
    assert pixels.places.tolist() == np.flatnonzero(labels).tolist()
    places = np.array([np.argwhere(labels == name).mean(axis=0) for name in names]).reshape(-1, 2)
    np.testing.assert_allclose(np.stack(pixels.middle, axis=1), places)


@given(MAPS)
def test_what_lies_beside_a_pixel(labels: np.ndarray) -> None:
    rows, columns = np.nonzero(labels)
    around = np.pad(labels, 1, mode="edge")
    steps = (-1, 0), (1, 0), (0, -1), (0, 1)
    beside = np.array([around[1 + down :, 1 + right :][rows, columns] for down, right in steps])
    own = labels[rows, columns]
    pixels = list_pixels(list_spans(labels), labels, np.s_[0 : labels.shape[0], 0 : labels.shape[1]])
    np.testing.assert_array_equal(pixels.depth > 1, np.all(beside == own, axis=0))
    np.testing.assert_array_equal(pixels.touching, np.any((beside != own) & (beside != 0), axis=0))


def test_a_label_without_a_pixel_of_its_own_takes_all() -> None:
    labels = np.array([[3, 3, 5, 5]], np.int32)
    pixels = list_pixels(list_spans(labels), labels, np.s_[0:1, 0:4])
    where = np.array([False, True, False, False])
    assert pixels.fill(where).tolist() == [False, True, True, True]
    np.testing.assert_array_equal(pixels.mean(np.arange(4), where), [1, np.nan])
    assert pixels.quantile(np.float32([1, 2, 3, 5]), 0.5).tolist() == [1.5, 4.0]
