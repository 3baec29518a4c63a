"""Spans of label maps: they say of every label what its pixels say."""

import numpy as np
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
    rim = np.pad(np.zeros((3, 5), bool), 1, constant_values=True)
    assert spans.touch_border(labels.shape).tolist() == [rim[labels == name].any() for name in names]


def test_an_empty_map_has_no_span() -> None:
    for shape in ((0, 0), (0, 4), (3, 0), (3, 4)):
        spans = list_spans(np.zeros(shape, np.int32))
        assert len(spans.labels) == len(spans.rows) == 0
        assert spans.count_within(np.ones(shape, bool)).size == 0
