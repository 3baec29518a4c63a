"""What thresholds and stain vectors do to the result, and what negative controls say of thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.inclusion import count_half_area
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.tables import build_patients

Row = dict[str, Any]

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)
"""Factors by which every marker's threshold is changed."""
VECTORS = ("default", "slide", "batch")
"""Stain vectors that are tried: the usual ones, those estimated on the slide, those of the slide's batch."""
CALLED = "called by the reviewer"
"""What the reason of a cell says whose call is a person's."""
USED = "as used"
"""What stands for the run's own vectors."""
_KEYS = ("analysis", "marker", "marker_2", "group", "group_2")
_VALUES = ("n", "n_2", "estimate_name", "estimate", "p")
SENSITIVITY_COLUMNS = (*_KEYS, "threshold_factor", *_VALUES)
SENSITIVITY_VECTORS_COLUMNS = (*_KEYS, "vectors", *_VALUES)
RECALLED_COLUMNS = ("field", "label", "vectors", "positive", "countable", "dab_od")
"""Cells of one section as they are called by other stain vectors."""
VECTORS_COLUMNS = (
    *("section", "batch", "slide_source", "slide_haematoxylin_deg", "slide_dab_deg"),
    *("batch_haematoxylin_deg", "batch_dab_deg", "slide_vectors", "batch_vectors"),
)
"""Which vectors were tried on a section, and their angles to the default ones."""
THRESHOLD_COLUMNS = ("batch", "marker", "cells", "dab_od_99", "threshold_od", "share_above", "note")
_SHARE = 0.99
_LEAST_CELLS = 200  # of which two lie beyond
_LEAST = 3


def try_thresholds(
    objects: pd.DataFrame, fields: pd.DataFrame, sections: pd.DataFrame, protocol: Protocol
) -> pd.DataFrame:
    """Count stored cells again by other thresholds; no pixel is read.

    Every marker's `threshold_od` is multiplied by `FACTORS`, all at once. A cell that a reviewer called
    keeps that call.

    Parameters
    ----------
    objects : DataFrame
        Of fields with status `ok`: section, field, kind, fraction_in_field, countable, positive, dab_od, and
        reason where a reviewer may have called cells.
    fields, sections : DataFrame
        fields.csv and sections.csv.
    protocol : Protocol
        Thresholds.

    Returns
    -------
    DataFrame
        Columns `SENSITIVITY_COLUMNS`: rows `ratio` (mean cells per fiber over the patients, of every group),
        `correlation` (Spearman's rho and its P) and `group` (difference of the group means, group_2 - group,
        and the P of Mann-Whitney), each by factor; as statistics.csv computes P. A section none of whose
        objects are given has no value.
    """
    if objects.empty:
        return pd.DataFrame(columns=list(SENSITIVITY_COLUMNS))
    fields = fields[fields["section"].isin(objects["section"])]
    marker = objects["section"].map(sections.set_index("section")["marker"])
    used = {name: protocol.markers.get(name, MarkerSettings()).threshold_od for name in marker.unique()}
    threshold = marker.map(used).to_numpy(float)
    found = {
        factor: _average(objects[recall_cells(objects, threshold, factor)], fields, sections, protocol)
        for factor in FACTORS
    }
    return _compare_variants(found, "threshold_factor")


def try_vectors(
    objects: pd.DataFrame,
    recalled: pd.DataFrame,
    fields: pd.DataFrame,
    sections: pd.DataFrame,
    protocol: Protocol,
) -> pd.DataFrame:
    """Count stored cells as they were called anew by other stain vectors; no pixel is read.

    Parameters
    ----------
    objects : DataFrame
        As for `try_thresholds`, with label.
    recalled : DataFrame
        section, field, label, vectors (of `VECTORS`), positive, countable: cells whose field was measured by
        vectors other than those used. What is not in it is called as stored.
    fields, sections : DataFrame
        fields.csv and sections.csv.
    protocol : Protocol
        Of the run.

    Returns
    -------
    DataFrame
        Columns `SENSITIVITY_VECTORS_COLUMNS`: rows as of `try_thresholds`, by vectors, `USED` first.
    """
    if objects.empty:
        return pd.DataFrame(columns=list(SENSITIVITY_VECTORS_COLUMNS))
    fields = fields[fields["section"].isin(objects["section"])]
    counts = count_half_area(objects["fraction_in_field"]) & objects["kind"].eq("cell")
    cells = objects.loc[counts, ["section", "field", "label", "positive", "countable"]]
    found, rest = {}, (fields, sections, protocol)
    for name in (USED, *VECTORS):
        anew = recalled.loc[recalled["vectors"].eq(name)].drop(columns="vectors")
        both = cells.merge(anew, on=["section", "field", "label"], how="left", suffixes=("", "_anew"))
        found[name] = _average(both[_take_new(both, "positive") & _take_new(both, "countable")], *rest)
    return _compare_variants(found, "vectors")


def recall_cells(
    objects: pd.DataFrame, threshold_od: npt.NDArray[np.float64], factor: float
) -> npt.NDArray[np.bool_]:
    """Call cells again by a changed threshold.

    Parameters
    ----------
    objects : DataFrame
        See `try_thresholds`.
    threshold_od : ndarray of float, shape (objects,)
        The threshold by which each was called.
    factor : float
        Of the threshold.

    Returns
    -------
    ndarray of bool, shape (objects,)
        Cells that count and are positive.

    Examples
    --------
    >>> cells = pd.DataFrame({"kind": "cell", "fraction_in_field": 1.0, "countable": True,
    ...     "positive": [True, False, True], "dab_od": [0.11, 0.09, 0.0]})
    >>> recall_cells(cells, np.full(3, 0.1), 1.2).tolist()  # the last is a reviewer's call
    [False, False, True]
    """
    dab, called = objects["dab_od"].to_numpy(float), objects["positive"].to_numpy(bool)
    by_rule = called == (dab > threshold_od)
    if "reason" in objects:
        by_rule &= ~objects["reason"].str.contains(CALLED, regex=False).fillna(False).to_numpy(bool)
    positive = np.where(by_rule, dab > threshold_od * factor, called)
    counts = count_half_area(objects["fraction_in_field"]) & objects["countable"].astype(bool)
    return np.asarray(positive & counts & objects["kind"].eq("cell"), bool)


def suggest_thresholds(
    objects: pd.DataFrame, sections: pd.DataFrame, markers: Mapping[str, MarkerSettings]
) -> pd.DataFrame:
    """Find in negative controls the DAB that 99 % of cells stay under: a suggestion, which changes nothing.

    Parameters
    ----------
    objects : DataFrame
        Of negative controls, as for `try_thresholds`.
    sections : DataFrame
        sections.csv.
    markers : mapping of str to MarkerSettings
        Thresholds used.

    Returns
    -------
    DataFrame
        Columns `THRESHOLD_COLUMNS`, a row per batch and marker: cells measured; `dab_od_99`, nan with fewer
        than 200; the threshold used; and the share of these cells above it, all of them false.
    """
    negative = sections[sections["control"].eq("negative")]
    rows: list[Row] = []
    for (batch, name), own in negative.groupby([negative["batch"].fillna(""), "marker"], sort=True):
        cells = objects[objects["section"].isin(own["section"]) & objects["kind"].eq("cell")]
        counts = count_half_area(cells["fraction_in_field"]) & cells["countable"].astype(bool)
        dab = cells.loc[counts, "dab_od"].dropna().to_numpy(float)
        threshold = markers.get(str(name), MarkerSettings()).threshold_od
        enough = len(dab) >= _LEAST_CELLS
        rows.append(
            {
                "batch": batch,
                "marker": name,
                "cells": len(dab),
                "dab_od_99": round(float(np.quantile(dab, _SHARE)), 4) if enough else float("nan"),
                "threshold_od": threshold,
                "share_above": round(float((dab > threshold).mean()), 6) if len(dab) else float("nan"),
                "note": "" if enough else f"fewer than {_LEAST_CELLS} cells: measure more fields",
            }
        )
    return pd.DataFrame(rows, columns=list(THRESHOLD_COLUMNS))


def _average(
    positive: pd.DataFrame, fields: pd.DataFrame, sections: pd.DataFrame, protocol: Protocol
) -> pd.DataFrame:
    """Patients, as `build_patients` makes them, from positive cells."""
    used = fields[fields["status"].eq("ok")]
    counts = positive.groupby(["section", "field"]).size().to_frame("cells")
    ratios = used.join(counts, on=["section", "field"])
    ratio = ratios["cells"].fillna(0).astype(float) / ratios["fibers"].astype(float)
    means = ratio.groupby(ratios["section"]).mean()
    return build_patients(sections.assign(cells_per_fiber=sections["section"].map(means)), protocol.markers)


def _take_new(both: pd.DataFrame, column: str) -> pd.Series[bool]:
    """The new call where there is one."""
    anew = both[f"{column}_anew"]
    return anew.where(anew.notna(), both[column]).astype(bool)


def _compare_variants(found: Mapping[Any, pd.DataFrame], column: str) -> pd.DataFrame:
    """Rows of every comparison, those of one comparison together, in the order of the variants."""
    rows = [row | {column: name} for name, patients in found.items() for row in _compare(patients)]
    table = pd.DataFrame(rows, columns=[*_KEYS, column, *_VALUES])
    rank = table.groupby(list(_KEYS), sort=False).ngroup()
    return table.iloc[np.argsort(rank.to_numpy(), kind="stable")].reset_index(drop=True)


def _compare(patients: pd.DataFrame) -> Iterable[Row]:
    from scipy import stats  # late: whoever opens a run's folder loads this module for its columns

    markers = [name for name in patients.columns if name not in ("patient", "group")]
    groups = sorted(name for name in patients["group"].unique() if name)
    for marker in markers:
        for group in groups or [""]:
            own = patients[patients["group"].eq(group)] if group else patients
            values = own[marker].dropna()
            yield _blank("ratio", marker=marker, group=group, n=len(values), estimate_name="mean",
                         estimate=values.mean())  # fmt: skip
    for first, second in combinations(markers, 2):
        pairs = patients[[first, second]].dropna()
        row = _blank("correlation", marker=first, marker_2=second, n=len(pairs), estimate_name="rho")
        if len(pairs) >= _LEAST and (np.ptp(pairs.to_numpy(float), axis=0) > 0).all():
            rho, p = stats.spearmanr(pairs[first], pairs[second])
            row |= {"estimate": float(rho), "p": float(p)}
        yield row
    for marker in markers:
        for one, two in combinations(groups, 2):
            a, b = (patients.loc[patients["group"].eq(group), marker].dropna() for group in (one, two))
            row = _blank("group", marker=marker, group=one, group_2=two, n=len(a), n_2=len(b),
                         estimate_name="difference")  # fmt: skip
            if min(len(a), len(b)) >= _LEAST and np.ptp(np.concatenate([a, b])) > 0:
                p = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue
                row |= {"estimate": float(b.mean() - a.mean()), "p": float(p)}
            yield row


def _blank(analysis: str, **values: Any) -> Row:
    empty = dict.fromkeys(("marker_2", "group", "group_2"), "")
    return {"analysis": analysis, **empty, "p": float("nan"), "estimate": float("nan"), **values}
