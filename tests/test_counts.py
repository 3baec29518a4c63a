import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoquant.counts import bootstrap_mean, count_field, summarise_section
from histoquant.protocol import StatisticsSettings

SETTINGS = StatisticsSettings(draws=500)


def make_objects() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("fiber", True, False, False),
            ("fiber", True, True, True),
            ("fiber", False, True, True),
            ("cell", True, False, True),
            ("cell", True, True, True),
            ("cell", False, False, True),
            ("cell", True, False, False),
            ("cell", False, True, True),
        ],
        columns=["kind", "counted", "straddling", "positive"],
    )


def make_fields(*rows: tuple[object, ...]) -> pd.DataFrame:
    names = "fibers positive_cells cells_per_fiber positive_fibers tissue_mm2 status reason"
    return pd.DataFrame(rows, columns=names.split())


def summarise(fields: pd.DataFrame, asked: int, seed: int = 0) -> dict[str, object]:
    return summarise_section(fields, asked, SETTINGS, np.random.default_rng(seed))


def test_counts_a_field() -> None:
    objects = make_objects()
    before = objects.copy(deep=True)
    assert count_field(objects) == {
        "fibers": 2,
        "positive_cells": 2,
        "cells_per_fiber": 1.0,
        "positive_fibers": 1,
        "straddling_fibers": 2,
        "straddling_cells": 2,
        "status": "ok",
        "reason": "",
    }
    pd.testing.assert_frame_equal(objects, before)


def test_nullable_columns_count_alike() -> None:
    nullable = make_objects().astype({"counted": "boolean", "positive": "boolean"})
    assert count_field(nullable) == count_field(make_objects())


def test_a_field_without_fibers_has_no_ratio() -> None:
    row = count_field(make_objects().query("kind == 'cell'"))
    assert np.isnan(row["cells_per_fiber"])
    assert (row["status"], row["positive_cells"]) == ("no_fibers", 2)
    assert count_field(make_objects().iloc[:0])["status"] == "no_fibers"


def test_mean_of_ratios_pooled_ratio_and_density() -> None:
    fields = make_fields((10, 1, 0.1, 0, 0.2, "ok", ""), (40, 16, 0.4, 2, 0.3, "ok", ""))
    row = summarise(fields, 2)
    assert row["cells_per_fiber"] == pytest.approx(0.25)
    assert row["cells_per_fiber_sd"] == pytest.approx(0.3 / 2**0.5)
    assert row["cells_per_fiber_pooled"] == pytest.approx(17 / 50)
    assert row["positive_cells_per_mm2"] == pytest.approx(34)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.1, 0.4))
    assert (row["fields"], row["fields_asked"]) == (2, 2)
    assert (row["fibers"], row["positive_cells"], row["positive_fibers"]) == (50, 17, 2)
    assert (row["status"], row["reason"]) == ("ok", "")


def test_unused_fields_are_in_no_number_and_named() -> None:
    nan = float("nan")
    fields = make_fields(
        (10, 1, 0.1, 0, 0.2, "ok", ""),
        (0, 5, nan, 0, 0.2, "no_fibers", "no fiber counts in this field"),
        (nan, nan, nan, nan, 0.2, "failed", "tile destroyed"),
        (30, 30, 1.0, 9, 0.2, "excluded", "fold"),
    )
    row = summarise(fields, 10)
    assert [row[key] for key in ("fields", "fibers", "positive_cells", "positive_fibers")] == [1, 10, 1, 0]
    assert row["cells_per_fiber"] == row["cells_per_fiber_pooled"] == 0.1
    assert np.isnan([row["cells_per_fiber_sd"], row["ci_low"], row["ci_high"]]).all()
    assert row["status"] == "incomplete"
    assert row["reason"] == (
        "1 of 10 fields used, 1 excluded (fold), 1 failed (tile destroyed), "
        "1 no_fibers (no fiber counts in this field), "
        "5 positive cells in fields without fibers are in no total, 6 not drawn"
    )


@pytest.mark.parametrize(
    ("statuses", "asked", "expected"),
    [
        (["ok", "ok"], 2, "ok"),
        (["ok"], 2, "incomplete"),
        (["ok", "no_fibers"], 2, "incomplete"),
        (["ok", "excluded"], 2, "incomplete"),
        (["no_fibers", "failed"], 2, "failed"),
        (["excluded", "failed"], 2, "failed"),
        (["excluded", "excluded"], 2, "excluded"),
        ([], 2, "failed"),
    ],
)
def test_status_of_a_section(statuses: list[str], asked: int, expected: str) -> None:
    fields = make_fields(*[(4, 2, 0.5, 0, 0.2, status, "") for status in statuses])
    row = summarise(fields, asked)
    assert row["status"] == expected
    assert (row["reason"] == "") == (expected == "ok")


def test_no_used_field_leaves_every_value_empty() -> None:
    row = summarise(make_fields(), 3)
    names = ["cells_per_fiber", "cells_per_fiber_sd", "ci_low", "ci_high", "cells_per_fiber_pooled"]
    assert np.isnan([row[name] for name in [*names, "positive_cells_per_mm2"]]).all()
    assert (row["fields"], row["fibers"], row["positive_cells"]) == (0, 0, 0)


def test_same_seed_same_summary_in_any_order_of_fields() -> None:
    rng = np.random.default_rng(4)
    rows = [(20, int(c), c / 20, 0, 0.2, "ok", "") for c in rng.integers(0, 9, 10)]
    fields = make_fields(*rows)
    assert summarise(fields, 10) == summarise(fields.iloc[::-1], 10)
    assert summarise(fields, 10) != summarise(fields, 10, seed=1)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=12), st.integers(0, 99))
@settings(max_examples=40)
def test_interval_lies_within_the_values(values: list[float], seed: int) -> None:
    low, high = bootstrap_mean(np.array(values), SETTINGS, np.random.default_rng(seed))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(1, 0.2, 400)
    low, high = bootstrap_mean(values, StatisticsSettings(draws=20_000), np.random.default_rng(0))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    low_90, high_90 = bootstrap_mean(values, StatisticsSettings(confidence=0.9), np.random.default_rng(0))
    assert low < low_90 < high_90 < high


@pytest.mark.parametrize("values", [[], [0.3]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert np.isnan(bootstrap_mean(np.array(values), SETTINGS, np.random.default_rng(0))).all()
