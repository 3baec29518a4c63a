"""Where the scatter of field values comes from, and what follows for the size of a study."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Floats = npt.NDArray[np.float64]

_LEAST = 3  # patients below which nothing is said about patients
_MOST = 2_000  # patients per group beyond which no study goes
_EFFICIENCY = 3 / np.pi  # of Mann-Whitney against Student's t where values are normal


@dataclass(frozen=True)
class Components:
    """Variances of a marker's field values.

    Attributes
    ----------
    mean : float
        Of all field values.
    patient, section, field : float
        Variance between patients, between sections of a patient (0 where no patient has two), and between
        fields of a section.
    patients, sections, fields : int
        How many there are.
    """

    mean: float
    patient: float
    section: float
    field: float
    patients: int
    sections: int
    fields: int

    def vary_value(self, fields: float, sections: float = 1.0) -> float:
        """Variance of a patient's value round that of the whole muscle, from fields and sections."""
        return self.section / sections + self.field / (sections * fields)


def split_variance(fields: pd.DataFrame, within_groups: bool) -> Components:
    """Split the variance of a marker's field values by a mixed model (REML).

    Parameters
    ----------
    fields : DataFrame
        patient, group, section, cells_per_fiber; a row per usable field of one marker.
    within_groups : bool
        Whether groups have means of their own, so that `patient` is the variance within groups.

    Returns
    -------
    Components
        `patient` is missing with fewer than 3 patients, `field` where no section has two fields.

    References
    ----------
    Pinheiro JC, Bates DM (2000), Mixed-effects models in S and S-PLUS, Springer.
    """
    values = fields["cells_per_fiber"].astype(float)
    numbers = {name: fields[name].nunique() for name in ("patient", "section")}
    patients, sections = numbers["patient"], numbers["section"]
    groups = fields["group"].nunique() if within_groups else 1
    about = (float(values.mean()), patients, sections, len(fields))
    if patients - groups < _LEAST - 1 or len(fields) <= sections:
        field = _pool(fields) if len(fields) > sections else float("nan")
        return Components(about[0], float("nan"), float("nan"), field, *about[1:])
    patient, section, field = _fit(fields, groups > 1, sections > patients)
    return Components(about[0], patient, section, field, *about[1:])


def plan_fields(field_variance: float, mean: float, wanted: float) -> int:
    """Find how many fields give a section's mean a wanted coefficient of error.

    Parameters
    ----------
    field_variance, mean : float
        Of the field values.
    wanted : float
        Coefficient of error: standard error / mean.

    Returns
    -------
    int

    Examples
    --------
    >>> plan_fields(0.09, 0.3, 0.1), plan_fields(0.09, 0.3, 0.3)
    (100, 12)
    """
    return max(1, int(np.ceil(round(field_variance / (mean * wanted) ** 2, 9))))


def plan_patients(
    difference: float, sd: float, power: float, draws: int, rng: np.random.Generator
) -> tuple[int, float]:
    """Find how many patients per group Mann-Whitney needs at P < 0.05, two-sided, by simulation.

    Parameters
    ----------
    difference, sd : float
        Between the groups' means, and of patients' values within a group (taken as normal).
    power : float
        Wanted.
    draws : int
        Simulated studies for every size tried.
    rng : numpy.random.Generator
        For them.

    Returns
    -------
    patients : int
        Per group; 0 if more than 2,000 would be needed.
    power : float
        Simulated at this size.
    """
    effect = abs(difference) / sd if sd > 0 else np.inf
    quantiles = stats.norm.ppf([0.975, power]).sum()
    start = 2 * (quantiles / effect) ** 2 / _EFFICIENCY
    if not start <= _MOST:
        return 0, float("nan")
    size = max(4, int(start))
    found = simulate_power(size, effect, draws, rng)
    step = 1 if found < power else -1
    while 4 <= size + step <= _MOST:
        after = simulate_power(size + step, effect, draws, rng)
        if step < 0 and after < power:
            break
        size, found = size + step, after
        if step > 0 and found >= power:
            break
    return size, found


def simulate_power(size: int, effect: float, draws: int, rng: np.random.Generator) -> float:
    """Simulate how often Mann-Whitney finds a difference between two groups of normal values.

    Parameters
    ----------
    size : int
        Patients of either group.
    effect : float
        Difference of the means in standard deviations.
    draws : int
        Studies.
    rng : numpy.random.Generator
        For them.

    Returns
    -------
    float
        Share with P < 0.05, two-sided, asymptotic without continuity correction.
    """
    values = rng.normal(size=(draws, 2 * size))
    values[:, size:] += min(effect, 1e6)
    ranks = np.argsort(np.argsort(values, axis=1), axis=1) + 1.0
    u = ranks[:, size:].sum(axis=1) - size * (size + 1) / 2
    z = (u - size**2 / 2) / np.sqrt(size**2 * (2 * size + 1) / 12)
    return float((np.abs(z) > stats.norm.ppf(0.975)).mean())


def attenuate(
    first: Components, second: Components, fields: Sequence[float], sections: Sequence[float] = (1.0, 1.0)
) -> float:
    """Compute by what factor the error of fields and sections pulls a correlation towards zero.

    Parameters
    ----------
    first, second : Components
        Of the two markers, over all patients; their errors are taken as independent.
    fields, sections : sequence of float
        Mean number of fields, and of sections, per patient of either marker.

    Returns
    -------
    float
        Root of the product of both reliabilities (Spearman 1904, Am J Psychol 15, 72-101).

    Examples
    --------
    >>> one = Components(1.0, 3.0, 0.0, 10.0, 20, 20, 200)
    >>> attenuate(one, one, (10, 10))
    0.75
    """
    reliability = [
        one.patient / (one.patient + one.vary_value(n / m, m)) if one.patient > 0 else 0.0
        for one, n, m in zip((first, second), fields, sections, strict=True)
    ]
    return float(np.sqrt(reliability[0] * reliability[1]))


def _pool(fields: pd.DataFrame) -> float:
    """Variance within sections."""
    own = fields.groupby("section")["cells_per_fiber"]
    spread = ((fields["cells_per_fiber"] - own.transform("mean")) ** 2).sum()
    return float(spread / (len(fields) - own.ngroups))


def _fit(fields: pd.DataFrame, grouped: bool, nested: bool) -> tuple[float, float, float]:
    """Variances of patient, section and field by REML."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    scale = float(fields["cells_per_fiber"].std()) or 1.0
    values = fields["cells_per_fiber"].astype(float)
    table = fields.assign(y=(values - values.mean()) / scale)
    spread = table.groupby("patient")["y"].transform("mean").std()
    if not spread > 0 and not table.groupby("section")["y"].std().gt(0).any():
        return 0.0, 0.0, 0.0
    with warnings.catch_warnings():
        # At the border, a variance of 0, the optimiser complains and is right all the same.
        warnings.simplefilter("ignore")
        model = MixedLM.from_formula(
            "y ~ C(group)" if grouped else "y ~ 1",
            table,
            groups="patient",
            re_formula="1",
            vc_formula={"section": "0 + C(section)"} if nested else None,
        )
        tries = [_climb(model, method) for method in ("bfgs", "nm")]
    # One optimiser alone has been seen to stop short; the likelihood says which did not.
    found = max((one for one in tries if one is not None), key=lambda one: float(one.llf))
    section = float(found.vcomp[0]) if nested else 0.0
    numbers = (float(found.cov_re.iloc[0, 0]), section, float(found.scale))
    return (numbers[0] * scale**2, numbers[1] * scale**2, numbers[2] * scale**2)


def _climb(model: Any, method: str) -> Any:
    """A fit by one optimiser; None where it runs into a singular matrix."""
    try:
        return model.fit(reml=True, method=[method])
    except np.linalg.LinAlgError:
        return None
