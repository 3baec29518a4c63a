import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.ranks import find_median, find_quantile, rank_groups

VALUES = arrays(
    st.sampled_from([np.float32, np.float64]),
    st.integers(1, 60),
    elements=st.floats(-100, 100, width=32),
)


@given(VALUES, st.floats(0, 1))
def test_quantiles_are_those_of_numpy_to_the_bit(values, share):
    assert find_quantile(values, share) == float(np.quantile(values, share))


@given(VALUES)
def test_medians_are_those_of_numpy_to_the_bit(values):
    assert find_median(values) == float(np.median(values))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_values_of_any_shape_stay_as_they_are(share):
    values = np.array([[3, 1], [2, 0]], np.float32)
    assert find_quantile(values, share) == 3 * share
    np.testing.assert_array_equal(values, [[3, 1], [2, 0]])


def test_one_value_is_every_quantile():
    one = np.array([7.0])
    assert [find_quantile(one, 0.3), find_quantile(one, 1.0), find_median(one)] == [7.0, 7.0, 7.0]


@given(arrays(np.float32, 40, elements=st.floats(-4, 4, width=32)), st.integers(0, 100), st.floats(0, 1))
def test_quantiles_of_groups_are_those_of_each_alone(values, seed, share):
    groups = np.random.default_rng(seed).integers(0, 12, values.size)
    found = rank_groups(values, groups, 14, share)
    for group, quantile in enumerate(found):
        own = values[groups == group].astype(float)
        if own.size:
            np.testing.assert_allclose(quantile, np.quantile(own, share), rtol=1e-12, atol=1e-12)
        else:
            assert np.isnan(quantile)


def test_no_value_gives_no_quantile_of_any_group():
    assert np.isnan(rank_groups(np.zeros(0, np.float32), np.zeros(0, np.int64), 2, 0.5)).all()
