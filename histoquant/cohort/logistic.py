"""Logistic regression of an outcome: a screen of every variable, then those that pass it together.

Few patients and strong variables often separate: some combination of variables tells the outcome without an
error, and maximum likelihood has no finite answer. Separation is detected by linear programming (Konis 2007);
Firth's penalised likelihood with profile intervals (Heinze and Schemper 2002) is always fitted as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import linalg, stats

from histoquant.cohort.groups import list_levels, name_kind
from histoquant.errors import StudyError

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

ML, FIRTH = "maximum likelihood, Wald", "Firth, profile"
LOGISTIC_COLUMNS = (
    *("model", "variable", "term", "method", "n", "events", "odds_ratio", "ci_low", "ci_high", "p"),
    *("coefficient", "standard_error", "p_variable", "vif", "separated", "note"),
)
_FEW_EVENTS = 10  # events per coefficient below this: Peduzzi et al. 1996, J Clin Epidemiol 49, 1373-1379
_INFLATED = 5.0  # variance inflation from which a coefficient is called collinear
_DEPENDENT = 1e-8  # share of a column's length that is its own, below which it adds nothing


@dataclass(frozen=True)
class Design:
    """Columns of a model, standardised, with what was left out.

    Attributes
    ----------
    values : ndarray of float, shape (n, terms)
        Each of mean 0 and standard deviation 1.
    scales : ndarray of float, shape (terms,)
        Standard deviations, in the variable's unit.
    variables, terms : tuple of str
        Variable and name of each column.
    outcome : ndarray of bool, shape (n,)
        Of the patients without a missing value.
    notes : tuple of str
        Columns left out and why, patients left out.
    """

    values: Floats
    scales: Floats
    variables: tuple[str, ...]
    terms: tuple[str, ...]
    outcome: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def regress_outcome(
    table: pd.DataFrame, outcome: pd.Series[Any], threshold: float = 0.10, confidence: float = 0.95
) -> pd.DataFrame:
    """Screen every variable alone, then fit those with p below a threshold together.

    Parameters
    ----------
    table : DataFrame
        A row per patient, a column per variable, as for `histoquant.cohort.groups.describe_variables`.
        Numbers are per unit, yes against no, a category's levels against its first.
    outcome : Series
        True where the outcome occurred, same index; patients whose outcome is missing are left out.
    threshold : float, optional
        P of the likelihood ratio below which a variable enters; penalised where it separates.
    confidence : float, optional
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns `LOGISTIC_COLUMNS`; a row per `model` (univariate, multivariate), term and method (`ML` and
        `FIRTH`; what maximum likelihood cannot give is missing). `p_variable` is that of the likelihood
        ratio of the whole variable (univariate only), `separated` whether the model separates the outcome.

    Raises
    ------
    StudyError
        The outcome has another index than the table.

    References
    ----------
    Firth D (1993), Biometrika 80, 27-38. Heinze G, Schemper M (2002), Stat Med 21, 2409-2419.
    """
    if not table.index.equals(outcome.index):
        raise StudyError("the outcomes are not of these patients", "outcome", "give both the same index")
    known = outcome.notna()
    rows, chosen = [], []
    for name in table:
        found = fit_model(table.loc[known, [name]], outcome[known].astype(bool), confidence)
        rows += [{"model": "univariate", **row} for row in found]
        p = next((row["p_variable"] for row in found if "p_variable" in row), 1.0)
        chosen += [name] if p < threshold else []
    if chosen:
        found = fit_model(table.loc[known, chosen], outcome[known].astype(bool), confidence)
        for row in found:
            row.pop("p_variable", None)
        rows += [{"model": "multivariate", **row} for row in found]
    return pd.DataFrame(rows, columns=list(LOGISTIC_COLUMNS)).astype({"n": "Int64", "events": "Int64"})


def fit_model(table: pd.DataFrame, outcome: pd.Series[Any], confidence: float = 0.95) -> list[Row]:
    """Fit one model by maximum likelihood and by Firth's method.

    Parameters
    ----------
    table, outcome, confidence
        As for `regress_outcome`; the outcome is known for all.

    Returns
    -------
    list of dict
        Keys of `LOGISTIC_COLUMNS` but `model`, a row per term and method; one row without a term, whose note
        says why, where nothing can be fitted.
    """
    design = make_design(table, outcome)
    n, events = design.outcome.size, int(design.outcome.sum())
    about: Row = {"n": n, "events": events}
    width = len(design.terms)
    trouble = _refuse(n, events, width)
    if trouble:
        variable = table.columns[0] if table.shape[1] == 1 else ""
        return [{**about, "variable": variable, "note": "; ".join([*design.notes, trouble])}]
    infinite = find_separation(design)
    firth, p_firth = _fit_firth(design, confidence)
    ordinary, p_ordinary = ([{}] * width, p_firth) if infinite else _fit_ordinary(design, confidence)
    vif = inflate_variance(design.values)
    notes = [*design.notes, *_warn(n, events, width, vif, infinite)]
    rows = []
    for method, terms in ((ML, ordinary), (FIRTH, firth)):
        for at, found in enumerate(terms):
            named = {
                "variable": design.variables[at],
                "term": design.terms[at],
                "method": method,
                "vif": vif[at],
            }
            own = notes + ([] if found or method == FIRTH else ["no finite estimate"])
            rows.append({**about, **named, **found, "separated": bool(infinite), "note": "; ".join(own)})
    return [{**row, "p_variable": p_ordinary} for row in rows]


def make_design(table: pd.DataFrame, outcome: pd.Series[Any]) -> Design:
    """Turn variables into columns of numbers, without patients who miss a value and columns that add nothing.

    Parameters
    ----------
    table, outcome
        As for `fit_model`.

    Returns
    -------
    Design
    """
    complete = table.notna().all(axis=1)
    kept = table[complete]
    lost = int((~complete).sum())
    notes = [f"{lost} patient(s) with a missing value left out"] if lost else []
    columns, names = [], []
    for variable, values in kept.items():
        for term, column in _code(str(variable), values):
            columns.append(column)
            names.append((str(variable), term))
    matrix = np.column_stack(columns) if columns else np.empty((len(kept), 0))
    kept_at, dropped = _select_columns(matrix, [term for _, term in names])
    matrix = matrix[:, kept_at]
    scales = matrix.std(axis=0) if len(matrix) else np.ones(matrix.shape[1])
    return Design(
        (matrix - matrix.mean(axis=0)) / scales if len(matrix) else matrix,
        scales,
        tuple(names[at][0] for at in kept_at),
        tuple(names[at][1] for at in kept_at),
        outcome[complete].to_numpy(bool),
        (*notes, *dropped),
    )


def find_separation(design: Design) -> tuple[str, ...]:
    """Name the terms whose maximum likelihood estimate is infinite; none if the data do not separate.

    References
    ----------
    Konis K (2007), Linear programming algorithms for detecting separated data in binary logistic regression
    models, DPhil thesis, Oxford.
    """
    from firthmodels import detect_separation

    found = detect_separation(design.values, design.outcome.astype(int))
    # The intercept alone cannot be infinite while both outcomes occur and the columns have mean 0.
    return tuple(term for term, finite in zip(design.terms, found.is_finite, strict=False) if not finite)


def inflate_variance(values: Floats) -> Floats:
    """Compute by how much collinearity inflates each coefficient's variance (VIF).

    Parameters
    ----------
    values : ndarray of float, shape (n, terms)
        Independent columns of mean 0 and standard deviation 1.

    Returns
    -------
    ndarray of float, shape (terms,)
        1 where a column has nothing to do with the others.

    Examples
    --------
    >>> inflate_variance(np.array([[1.0, 1], [-1, 1], [1, -1], [-1, -1]])).tolist()
    [1.0, 1.0]
    """
    inverse: Floats = np.diag(np.linalg.inv(values.T @ values / len(values)))
    return inverse


def _code(variable: str, values: pd.Series[Any]) -> list[tuple[str, Floats]]:
    kind = name_kind(values)
    if kind == "category":
        first, *others = [level for level in list_levels(values) if (values == level).any()] or [""]
        return [
            (f"{variable}: {level} against {first}", (values == level).to_numpy(np.float64))
            for level in others
        ]
    return [(variable, values.to_numpy(np.float64))]


def _select_columns(matrix: Floats, terms: Sequence[str]) -> tuple[list[int], list[str]]:
    """Columns that vary and are no combination of those before them, and why others are left out."""
    basis = np.ones((len(matrix), 1)) / np.sqrt(max(1, len(matrix)))
    kept, notes = [], []
    for at, term in enumerate(terms):
        column = matrix[:, at]
        if not len(column) or np.ptp(column) == 0:
            notes.append(f"{term} has one value only and was left out")
            continue
        column = column - column.mean()
        column = column / np.linalg.norm(column)
        own = column - basis @ (basis.T @ column)
        if np.linalg.norm(own) < _DEPENDENT:
            notes.append(f"{term} follows from the variables before it and was left out")
            continue
        basis = linalg.orth(np.column_stack([basis, own / np.linalg.norm(own)]))
        kept.append(at)
    return kept, notes


def _refuse(n: int, events: int, width: int) -> str:
    """Why nothing can be fitted; empty if it can."""
    if not width:
        return "no variable to fit"
    if not 0 < events < n:
        return "all patients have one outcome: nothing to fit"
    if n <= width + 1:
        return f"{n} patients are too few for {width + 1} coefficients"
    return ""


def _warn(n: int, events: int, width: int, vif: Floats, infinite: Sequence[str]) -> list[str]:
    notes = []
    if infinite:
        notes.append(f"separated by {', '.join(infinite)}: take Firth's")
    per_term = min(events, n - events) / width
    if per_term < _FEW_EVENTS:
        notes.append(f"{per_term:.1f} events per coefficient, fewer than {_FEW_EVENTS}")
    if vif.max() > _INFLATED:
        notes.append(f"collinear: variance inflated up to {vif.max():.0f} times")
    return notes


def _tell(beta: float, se: float, bounds: Sequence[float], p: float, scale: float) -> Row:
    """A term's results per unit of its variable."""
    with np.errstate(over="ignore"):
        ratio, low, high = (float(np.exp(one / scale)) for one in (beta, *bounds))
    numbers = {"coefficient": float(beta / scale), "standard_error": float(se / scale)}
    return numbers | {"odds_ratio": ratio, "ci_low": low, "ci_high": high, "p": float(p)}


def _fit_ordinary(design: Design, confidence: float) -> tuple[list[Row], float]:
    """Terms by maximum likelihood, and p of the likelihood ratio of all of them."""
    from statsmodels.discrete.discrete_model import Logit

    columns = np.column_stack([design.values, np.ones(len(design.values))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Logit(design.outcome.astype(float), columns).fit(disp=False, maxiter=100)
    if not found.mle_retvals["converged"]:
        return [{}] * len(design.terms), float(found.llr_pvalue)
    bounds = found.conf_int(1 - confidence)
    rows = [
        _tell(found.params[at], found.bse[at], bounds[at], found.pvalues[at], scale)
        for at, scale in enumerate(design.scales)
    ]
    return rows, float(found.llr_pvalue)


def _fit_firth(design: Design, confidence: float) -> tuple[list[Row], float]:
    """Terms by Firth's penalised likelihood, and p of the penalised likelihood ratio of all of them."""
    from firthmodels import FirthLogisticRegression

    width = len(design.terms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirthLogisticRegression(backend="numpy", max_iter=500).fit(
            design.values, design.outcome.astype(int)
        )
        model.lrt(list(range(width)))
        bounds = model.conf_int(1 - confidence, method="pl", features=list(range(width)), max_iter=200)
    if not model.converged_:
        return [{}] * width, float("nan")
    rows = [
        _tell(model.coef_[at], model.bse_[at], bounds[at], model.lrt_pvalues_[at], scale)
        for at, scale in enumerate(design.scales)
    ]
    ratio = 2 * (model.loglik_ - penalise_null(design))
    return rows, float(stats.chi2.sf(max(ratio, 0.0), width))


def penalise_null(design: Design) -> float:
    """Compute the penalised log-likelihood of a model with all coefficients at 0 but the intercept.

    With slopes 0 the information is p (1 - p) X'X, so that the penalty counts as half an event and half a
    non-event for each of the k columns: p = (events + k / 2) / (n + k).
    """
    columns = np.column_stack([design.values, np.ones(len(design.values))])
    n, k = columns.shape
    events = int(design.outcome.sum())
    p = (events + k / 2) / (n + k)
    _, size = np.linalg.slogdet(columns.T @ columns)
    likelihood = events * np.log(p) + (n - events) * np.log1p(-p)
    return float(likelihood + (k * np.log(p * (1 - p)) + size) / 2)
