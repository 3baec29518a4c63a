import itertools
import re

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from histoquant.report.plots import list_groups, plot_groups, plot_scatter, spread_points

NAN = float("nan")
NASTY = ("<script>alert(1)</script>", "张三", 'µ "q" & O\'Neil $x_1$')


def test_plots_name_patients_and_keep_their_marks():
    patients = pd.DataFrame(
        {"patient": NASTY, "group": ["a", "b", None], "X": [0.1, 0.2, 0.3], "Y": [0.3, NAN, 0.1]}
    )
    assert list_groups(patients) == ["a", "b", "no group"]
    scatter, groups = plot_scatter(patients, "X", "Y"), plot_groups(patients, ["X", "Y"])
    assert scatter.count("<title>") == 2
    assert groups.count("<title>") == 5
    assert "&lt;script&gt;" in groups
    assert "<script" not in groups
    assert 'id="figure' not in scatter
    assert "<style" not in scatter


def test_patients_without_a_positive_cell_are_all_seen():
    patients = pd.DataFrame({"patient": list("abcd"), "group": "g", "X": 0.0})
    places = re.findall(r'<use xlink:href="[^"]*" x="([0-9.]+)" y="([0-9.]+)" style="fill: #0072b2',
                        plot_groups(patients, ["X"]))  # fmt: skip
    assert len(places) == 4 and len({x for x, _ in places}) == 4


def test_like_values_are_spread_apart():
    shifts = spread_points(np.full(30, 0.4), 0.1)
    assert len(set(shifts)) == 30
    assert np.abs(shifts).max() <= 0.35
    assert spread_points(np.array([]), 0.1).size == 0
    assert spread_points(np.array([0.26, 0.0, 0.24, 0.5]), 0.04).tolist() == [0.12, 0.0, 0.0, 0.0]


@given(st.lists(st.floats(0.0, 1.0), max_size=20), st.floats(0.01, 0.5))
def test_points_that_would_hide_each_other_are_shifted_differently(values, apart):
    heights = np.array(values)
    shifts = spread_points(heights, apart)
    assert np.abs(shifts).max(initial=0.0) <= 0.3
    for first, second in itertools.combinations(range(len(values)), 2):
        if abs(heights[first] - heights[second]) < apart:
            assert shifts[first] != shifts[second]
