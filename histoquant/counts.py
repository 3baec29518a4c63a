"""From objects to the counts of a field, from fields to the value of a section."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.protocol import StatisticsSettings

Row = dict[str, Any]


def count_field(objects: pd.DataFrame) -> Row:
    """Count the fibers and positive cells of one field.

    Parameters
    ----------
    objects : DataFrame
        Objects of one field, counted or not: `kind` ("fiber", "cell"), `counted`, `straddling`,
        `positive` (bool). What does not count, for want of a nucleus say, is not `counted`.

    Returns
    -------
    dict
        `fibers`, `positive_cells` and `positive_fibers` of counted objects; `cells_per_fiber` (nan
        without fibers); `straddling_fibers` and `straddling_cells`, counted or not, positive or not;
        `status` ("ok", "no_fibers") and `reason`.

    Examples
    --------
    >>> objects = pd.DataFrame({"kind": ["fiber", "fiber", "cell"], "counted": [True, True, True],
    ...     "straddling": [True, False, False], "positive": [False, False, True]})
    >>> count_field(objects)["cells_per_fiber"]
    0.5
    """
    kind = objects["kind"].to_numpy(object)
    fiber, cell = kind == "fiber", kind == "cell"
    # What is missing is not true.
    counted, positive, straddling = (
        objects[name].to_numpy(bool, na_value=False) for name in ("counted", "positive", "straddling")
    )
    fibers, cells = int((fiber & counted).sum()), int((cell & positive & counted).sum())
    return {
        "fibers": fibers,
        "positive_cells": cells,
        "cells_per_fiber": cells / fibers if fibers else float("nan"),
        "positive_fibers": int((fiber & counted & positive).sum()),
        "straddling_fibers": int((fiber & straddling).sum()),
        "straddling_cells": int((cell & straddling).sum()),
        "status": "ok" if fibers else "no_fibers",
        "reason": "" if fibers else "no fiber counts in this field",
    }


def summarise_section(
    fields: pd.DataFrame, fields_asked: int, settings: StatisticsSettings, rng: np.random.Generator
) -> Row:
    """Summarise the fields of one section.

    Every number comes from the same fields, those with status `ok`: a field without fibers has no ratio,
    so its cells are left out of totals, pooled ratio and density too, and named in `reason`.

    Parameters
    ----------
    fields : DataFrame
        Rows of the section: `fibers`, `positive_cells`, `cells_per_fiber`, `positive_fibers`,
        `tissue_mm2`, `status`, `reason`. May be empty.
    fields_asked : int
        Fields that were asked for.
    settings : StatisticsSettings
        Draws and confidence of the interval.
    rng : numpy.random.Generator
        For the bootstrap.

    Returns
    -------
    dict
        `fields_asked`; `fields` used; totals `fibers`, `positive_cells`, `positive_fibers`;
        `cells_per_fiber` (mean of the ratios), its `cells_per_fiber_sd` (n - 1) and percentile bootstrap
        interval `ci_low`, `ci_high` over fields (nan with fewer than two); `cells_per_fiber_pooled`
        (total / total); `positive_cells_per_mm2` of tissue; `status` ("ok", "incomplete", "failed", or
        "excluded" if all fields are); `reason`.
    """
    used = fields[fields["status"].eq("ok")]
    ratios = np.sort(used["cells_per_fiber"].to_numpy(dtype=np.float64))
    cells, fibers = int(used["positive_cells"].sum()), int(used["fibers"].sum())
    tissue_mm2 = float(used["tissue_mm2"].sum())
    low, high = bootstrap_mean(ratios, settings, rng)
    return {
        "fields_asked": fields_asked,
        "fields": len(used),
        "fibers": fibers,
        "positive_cells": cells,
        "cells_per_fiber": float(ratios.mean()) if ratios.size else float("nan"),
        "cells_per_fiber_sd": float(ratios.std(ddof=1)) if ratios.size > 1 else float("nan"),
        "ci_low": low,
        "ci_high": high,
        "cells_per_fiber_pooled": cells / fibers if fibers else float("nan"),
        "positive_cells_per_mm2": cells / tissue_mm2 if tissue_mm2 > 0 else float("nan"),
        "positive_fibers": int(used["positive_fibers"].sum()),
        "status": judge_section(fields, fields_asked),
        "reason": explain_section(fields, fields_asked),
    }


def bootstrap_mean(
    values: npt.NDArray[np.float64], settings: StatisticsSettings, rng: np.random.Generator
) -> tuple[float, float]:
    """Bound a mean by the percentile bootstrap.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        One value per field.
    settings : StatisticsSettings
        Draws and confidence.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    tuple of float
        Lower and upper bound; nan with fewer than two values.

    Examples
    --------
    >>> bootstrap_mean(np.array([2.0, 2.0]), StatisticsSettings(), np.random.default_rng(0))
    (2.0, 2.0)
    """
    if values.size < 2:
        return float("nan"), float("nan")
    # In slices, so that many draws of many fields stay within a few megabytes.
    slices = np.array_split(np.arange(settings.draws), max(1, settings.draws * values.size // 1_000_000))
    means = np.concatenate(
        [values[rng.integers(values.size, size=(part.size, values.size))].mean(axis=1) for part in slices]
    )
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def judge_section(fields: pd.DataFrame, fields_asked: int) -> str:
    """Judge a section by the status of its fields: ok, incomplete, excluded or failed."""
    used = int(fields["status"].eq("ok").sum())
    if used:
        return "ok" if used >= fields_asked else "incomplete"
    return "excluded" if len(fields) and fields["status"].eq("excluded").all() else "failed"


def explain_section(fields: pd.DataFrame, fields_asked: int) -> str:
    """Say what became of the fields that are not used; empty if all asked for are."""
    left_out = fields[~fields["status"].eq("ok")]
    used, missing = len(fields) - len(left_out), fields_asked - len(fields)
    parts = []
    for status, group in left_out.groupby("status", sort=True):
        reasons = sorted({str(reason) for reason in group["reason"].dropna() if str(reason)})
        parts.append(f"{len(group)} {status}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    no_fibers = left_out[left_out["status"].eq("no_fibers")]
    if cells := int(no_fibers["positive_cells"].sum()):
        parts.append(f"{cells} positive cells in fields without fibers are in no total")
    if missing > 0:
        parts.append(f"{missing} not drawn")
    if used >= fields_asked and not parts:
        return ""
    return ", ".join([f"{used} of {fields_asked} fields used", *parts])
