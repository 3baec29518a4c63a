"""What the page on sampling says: its formulae, and the counts behind its table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from histoquant.fields import draw_fields
from histoquant.planning.components import plan_fields
from histoquant.protocol import FieldSettings
from histoquant.synthetic import CellsSettings, truth_in_field

ROOT = Path(__file__).parents[1]


def test_the_mean_of_ratios_is_off_by_the_covariance_of_ratio_and_fibers() -> None:
    """Hartley and Ross 1954, for a finite list of fields of which each is as likely."""
    cells, fibers = np.array([0.0, 3.0, 30.0, 4.0]), np.array([30.0, 25.0, 12.0, 20.0])
    ratios = cells / fibers
    covariance = np.cov(ratios, fibers, ddof=0)[0, 1]
    assert ratios.mean() == pytest.approx(cells.sum() / fibers.sum() - covariance / fibers.mean())
    assert ratios.mean() > cells.sum() / fibers.sum()


def test_cells_in_foci_vary_as_a_compound_poisson_count() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 16, 400_000)  # mean 10, variance 10
    ends = np.cumsum(rng.poisson(2.0, 100_000))
    sums = np.concatenate([[0], np.cumsum(sizes)])
    counts = np.diff(sums[np.concatenate([[0], ends])])
    assert counts.mean() == pytest.approx(20, rel=0.02)
    assert counts.var() == pytest.approx(20 * (10 + 10 / 10), rel=0.03)


def test_fields_for_a_coefficient_of_error() -> None:
    assert (plan_fields(0.09, 0.3, 0.1), plan_fields(0.09, 0.3, 0.3)) == (100, 12)


def test_counts_of_the_benchmark_are_those_of_the_whole_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import sampling_error

    truth = sampling_error.make_truth(1, CellsSettings(), 1000.0)
    tissue = sampling_error.find_tissue(truth)
    assert 0.5 < tissue.mean() < 0.9
    settings = FieldSettings(count=2, width_um=300)
    drawn = draw_fields(tissue, np.zeros_like(tissue), 8.0, settings, np.random.default_rng(0)).fields
    assert len(drawn) == 2
    for field in drawn:
        assert truth_in_field(sampling_error.crop(truth, field), field) == truth_in_field(truth, field)
