"""Variance components and sizes against a published example and closed forms, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import invoke
from scipy import stats

from histoquant.errors import ResultsError
from histoquant.planning.analyse import plan_study, write_plan
from histoquant.planning.components import (
    Components,
    attenuate,
    plan_patients,
    simulate_power,
    split_variance,
)
from histoquant.protocol import Protocol
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS

# Davies 1947, Statistical methods in research and production: yield of dyestuff, six batches of five.
DYESTUFF = (
    "1545 1440 1440 1520 1580 1540 1555 1490 1560 1495 1595 1550 1605 1510 1560 "
    "1445 1440 1595 1465 1545 1595 1630 1515 1635 1625 1520 1455 1450 1480 1445"
)


def make_fields(values: np.ndarray) -> pd.DataFrame:
    """Fields of shape (patients, sections, fields); patients in two groups by turns."""
    rows = [
        {"patient": f"P{i:02d}", "group": "AB"[i % 2], "section": f"P{i:02d}-{j}", "cells_per_fiber": value}
        for (i, j, _), value in np.ndenumerate(values)
    ]
    return pd.DataFrame(rows)


def make_pilot(folder: Path, patients: int, error: float) -> Path:
    """A run's folder of two markers that go together, ten fields per section."""
    rng = np.random.default_rng(4)
    parts = []
    own = rng.normal(0, 0.1, patients)
    for marker, mean in (("BAFF-R", 0.5), ("CD19", 0.4)):
        values = mean + own[:, None, None] + rng.normal(0, error, (patients, 1, 10))
        table = make_fields(values)
        table["field"] = table.groupby("section").cumcount() + 1
        parts.append(table.assign(marker=marker, section=table["patient"] + "-" + marker, status="ok"))
    folder.mkdir()
    pd.concat(parts).reindex(columns=list(FIELD_COLUMNS)).to_csv(folder / "fields.csv", index=False)
    sections = pd.concat(parts).drop_duplicates("section").reindex(columns=list(SECTION_COLUMNS))
    sections.to_csv(folder / "sections.csv", index=False)
    run = {"protocol": Protocol().model_dump(mode="json"), "seed": 0, "finished": "2026-01-01T00:00:00Z"}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_variances_of_dyestuff() -> None:
    """Lme4's documentation prints, by REML, 1764 between batches and 2451 within."""
    values = np.array(DYESTUFF.split(), float).reshape(6, 1, 5)
    found = split_variance(make_fields(values), within_groups=False)
    assert (round(found.patient), round(found.field), found.section) == (1764, 2451, 0)
    assert found.mean == 1527.5


def test_nested_variances_are_those_of_the_analysis_of_variance() -> None:
    """On balanced data with all of them positive, REML and the mean squares give the same."""
    rng = np.random.default_rng(0)
    p, s, f = 20, 2, 10
    values = 1 + rng.normal(0, 0.3, (p, 1, 1)) + rng.normal(0, 0.2, (p, s, 1)) + rng.normal(0, 0.4, (p, s, f))
    values[1::2] += 0.3
    within = values.var(axis=2, ddof=1).mean()
    means = values.mean(axis=2)
    sections = f * means.var(axis=1, ddof=1).mean()
    people = means.mean(axis=1)
    spread = sum(((people[g::2] - people[g::2].mean()) ** 2).sum() for g in (0, 1)) / (p - 2)
    found = split_variance(make_fields(values), within_groups=True)
    assert found.field == pytest.approx(within, rel=1e-3)
    assert found.section == pytest.approx((sections - within) / f, rel=1e-2)
    assert found.patient == pytest.approx((s * f * spread - sections) / (s * f), rel=1e-2)
    # Without means of their own the groups' difference counts as patients.
    assert split_variance(make_fields(values), within_groups=False).patient > found.patient


def test_variances_of_pilots_that_break_formulas() -> None:
    constant = split_variance(make_fields(np.ones((5, 1, 4))), False)
    assert (constant.patient, constant.field) == (0, 0)
    two = split_variance(make_fields(np.random.default_rng(0).normal(size=(2, 1, 8))), False)
    assert np.isnan(two.patient) and two.field == pytest.approx(1, rel=0.6)
    single = split_variance(make_fields(np.random.default_rng(0).normal(size=(6, 1, 1))), False)
    assert np.isnan(single.field)


def test_power_is_that_of_theory() -> None:
    rng = np.random.default_rng(0)
    assert simulate_power(20, 0.0, 4000, rng) == pytest.approx(0.05, abs=0.014)
    # Asymptotic efficiency 3 / pi against the t test, whose power is closed.
    n, effect = 40, 0.7
    shift = effect * np.sqrt(n / 2 * 3 / np.pi)
    theory = stats.norm.sf(stats.norm.ppf(0.975) - shift)
    assert simulate_power(n, effect, 4000, rng) == pytest.approx(theory, abs=0.03)


def test_patients_per_group() -> None:
    rng = np.random.default_rng(0)
    size, power = plan_patients(0.5, 1.0, 0.8, 2000, rng)
    # t test 64 (Cohen 1988, Table 2.4.1); Mann-Whitney needs pi / 3 times as many.
    assert size == pytest.approx(64 * np.pi / 3, rel=0.08) and power == pytest.approx(0.8, abs=0.04)
    assert plan_patients(0.001, 1.0, 0.8, 100, rng) == pytest.approx((0, float("nan")), nan_ok=True)
    assert plan_patients(1.0, 0.0, 0.8, 100, rng) == (4, 1.0)


def test_attenuation_is_what_simulation_shows() -> None:
    rng = np.random.default_rng(1)
    rho, n = 0.8, 200_000
    truth = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    seen = truth + rng.normal(size=(n, 2)) * np.sqrt([5.0 / 10, 2.0 / 10])
    one, two = (Components(1.0, 1.0, 0.0, variance, n, n, 10 * n) for variance in (5.0, 2.0))
    factor = attenuate(one, two, (10, 10))
    assert np.corrcoef(seen.T)[0, 1] == pytest.approx(rho * factor, abs=0.01)
    # Two sections of ten fields: half the variance of one section, and of 20 fields.
    nested = Components(1.0, 3.0, 2.0, 10.0, n, 2 * n, 20 * n)
    assert attenuate(nested, nested, (20, 20), (2, 2)) == pytest.approx(3 / (3 + 2 / 2 + 10 / 20))


def test_sections_of_a_patient_share_the_error_between_them(tmp_path: Path) -> None:
    run = make_pilot(tmp_path / "pilot", 8, 0.3)
    fields = pd.read_csv(run / "fields.csv")
    fields["section"] += np.where(fields["field"].gt(5), "-2", "-1")
    fields.to_csv(run / "fields.csv", index=False)
    sections = pd.read_csv(run / "sections.csv")
    both = [sections.assign(section=sections["section"] + end) for end in ("-1", "-2")]
    pd.concat(both).to_csv(run / "sections.csv", index=False)
    (row,) = plan_study(run).tables["correlations"].to_dict("records")
    own = [split_variance(part, False) for _, part in fields.groupby("marker")]
    assert row["factor"] == pytest.approx(attenuate(own[0], own[1], (10, 10), (2, 2)))


def test_sections_left_out_of_the_statistics_are_left_out_of_a_plan(tmp_path: Path) -> None:
    run = make_pilot(tmp_path / "pilot", 6, 0.3)
    sections = pd.read_csv(run / "sections.csv")
    sections.loc[sections["section"].eq("P00-CD19"), "status"] = "excluded"
    sections.to_csv(run / "sections.csv", index=False)
    pilot = plan_study(run).tables["components"].set_index("marker")
    assert pilot["fields"].to_dict() == {"BAFF-R": 60, "CD19": 50}


def test_a_plan_of_a_pilot(tmp_path: Path) -> None:
    run = make_pilot(tmp_path / "pilot", 12, 0.3)
    done = invoke("plan", run, "--error", "0.2")
    assert done.returncode == 0, done.stderr
    assert (
        "BAFF-R: " in done.stdout
        and "field(s) per section for a coefficient of error of 20 %." in done.stdout
    )
    tables = {
        name: pd.read_csv(run / "plan" / f"{name}.csv") for name in ("components", "fields", "patients")
    }
    field = tables["components"].set_index("marker").loc["BAFF-R"]
    assert field["variance_field"] == pytest.approx(0.09, rel=0.3)
    errors = tables["fields"].set_index(["marker", "fields"])["coefficient_of_error"]
    assert errors["BAFF-R", 10] == pytest.approx(
        np.sqrt(field["variance_field"] / 10) / field["mean"], abs=1e-5
    )
    sizes = tables["patients"].set_index(["marker", "fields"])["patients_per_group"]
    assert sizes["CD19", 5] >= sizes["CD19", 60]
    rho = pd.read_csv(run / "plan/correlations.csv").iloc[0]
    assert 0 < rho["factor"] < 1 and rho["rho_without_error"] >= rho["rho"]
    assert (run / "plan/plan.html").read_text(encoding="utf-8").count("<table>") == 4


def test_a_ratio_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = make_pilot(tmp_path / "pilot", 4, 0.1)
    table = pd.read_csv(folder / "fields.csv", dtype=str)
    table.loc[2, "cells_per_fiber"] = "many"
    table.to_csv(folder / "fields.csv", index=False)
    with pytest.raises(ResultsError, match="row 4 has 'many' as cells_per_fiber"):
        plan_study(folder)


def test_pilots_too_small(tmp_path: Path) -> None:
    run = make_pilot(tmp_path / "pilot", 2, 0.3)
    found = plan_study(run)
    assert found.tables["patients"].empty and len(found.tables["fields"]) == 14
    assert found.tables["components"]["note"].str.contains("too few patients").all()
    assert write_plan(run, found).exists()
    fields = pd.read_csv(run / "fields.csv")
    fields[fields["field"].eq(1)].to_csv(run / "fields.csv", index=False)
    with pytest.raises(ResultsError, match="no section with two usable fields"):
        plan_study(run)


@pytest.mark.parametrize(
    ("wish", "message"),
    [({"error": 0.0}, "--error"), ({"power": 1.0}, "--power"), ({"difference": -1.0}, "--difference")],
)
def test_wishes_out_of_bounds(tmp_path: Path, wish: dict[str, float], message: str) -> None:
    with pytest.raises(ResultsError, match=f"{message}: .* is out of bounds; give"):
        plan_study(tmp_path, **wish)
