"""Spans of label maps: they say of every label what its pixels say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.spans import list_spans


@given(arrays(np.int32, (5, 7), elements=st.integers(0, 4)), arrays(bool, (5, 7)))
def test_spans_say_what_the_pixels_say(labels: np.ndarray, mask: np.ndarray) -> None:
    spans = list_spans(labels)
    names = np.unique(labels[labels > 0])
    assert spans.labels.tolist() == names.tolist()
    assert spans.count().tolist() == [(labels == name).sum() for name in names]
    assert spans.count_within(mask).tolist() == [mask[labels == name].sum() for name in names]
    places = np.array([np.argwhere(labels == name).mean(axis=0) for name in names]).reshape(-1, 2)
    np.testing.assert_allclose(np.stack(spans.locate(), axis=1), places)
    index, rows, columns = spans.list_pixels()
    assert np.flatnonzero(labels).tolist() == (rows * 7 + columns).tolist()
    assert spans.labels[index].tolist() == labels[labels > 0].tolist()
    wide = np.pad(labels, ((2, 0), (3, 1)))
    moved = list_spans(wide).move((slice(2, 7), slice(3, 10)))
    for part in ("index", "rows", "first", "last"):
        np.testing.assert_array_equal(getattr(moved, part), getattr(spans, part))
    rim = np.pad(np.zeros((3, 5), bool), 1, constant_values=True)
    assert spans.touch_border(labels.shape).tolist() == [rim[labels == name].any() for name in names]


def test_an_empty_map_has_no_span() -> None:
    for shape in ((0, 0), (0, 4), (3, 0), (3, 4)):
        spans = list_spans(np.zeros(shape, np.int32))
        assert len(spans.labels) == len(spans.rows) == 0
        assert spans.count_within(np.ones(shape, bool)).size == 0


def test_there_may_be_as_many_spans_as_pixels() -> None:
    labels = np.arange(1, 301 * 70 + 1, dtype=np.int32).reshape(301, 70)
    spans = list_spans(labels)
    assert spans.labels.tolist() == list(range(1, 301 * 70 + 1))
    np.testing.assert_array_equal(
        np.stack([spans.rows, spans.first]), np.indices(labels.shape).reshape(2, -1)
    )
    np.testing.assert_array_equal(spans.last, spans.first)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_maps_of_any_kind_and_layout_have_the_same_spans(kind: type) -> None:
    labels = np.array([[0, 3, 3], [200, 200, 0]], kind)
    for same in (labels, np.asfortranarray(labels), np.repeat(labels, 2, axis=1)[:, ::2]):
        spans = list_spans(same)
        assert spans.labels[spans.index].tolist() == [3, 200]
        assert (spans.first.tolist(), spans.last.tolist()) == ([1, 0], [2, 1])
        assert spans.count_within(np.asfortranarray(same > 3)).tolist() == [0, 2]
