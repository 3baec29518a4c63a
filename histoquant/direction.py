"""In which direction fibers are cut: across, or along, where a count of them means nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.protocol import FiberSettings

LONGITUDINAL = "longitudinal"
"""Reason of a fiber that is cut along its length: it is reported, not counted."""


def find_longitudinal(
    min_feret_um: npt.ArrayLike, max_feret_um: npt.ArrayLike, settings: FiberSettings
) -> npt.NDArray[np.bool_]:
    """Find fibers that are cut along their length, or nearly so.

    A cylinder cut at an angle to its axis shows an ellipse that is as much longer than wide as the cut is
    aslant: 3 to 1 is 70 degrees off the transverse plane. Small angular fibers can be slim without
    being cut so, therefore the length counts too.

    Parameters
    ----------
    min_feret_um, max_feret_um : array_like of float, shape (n,)
        Width and length of fibers.
    settings : FiberSettings
        `longitudinal_ratio` and `longitudinal_length_um`; both must be exceeded.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> find_longitudinal([50, 50, 15], [90, 200, 60], FiberSettings())
    array([False,  True, False])
    """
    width, length = np.asarray(min_feret_um, float), np.asarray(max_feret_um, float)
    slim = length > settings.longitudinal_ratio * width
    return np.asarray(slim & (length > settings.longitudinal_length_um))


def measure_longitudinal(objects: pd.DataFrame) -> float:
    """Measure which part of the fibers' area in a field is of longitudinal ones.

    Parameters
    ----------
    objects : DataFrame
        Objects of one field: kind, area_um2, fraction_in_field, reason.

    Returns
    -------
    float
        0 to 1; nan without fibers.

    Examples
    --------
    >>> measure_longitudinal(pd.DataFrame({"kind": "fiber", "area_um2": [100.0, 400.0],
    ...     "fraction_in_field": [1.0, 0.25], "reason": ["", "longitudinal"]}))
    0.5
    """
    fibers = objects[objects["kind"].eq("fiber")]
    area = fibers["area_um2"] * fibers["fraction_in_field"]
    total = float(area.sum())
    return float(area[fibers["reason"].str.contains(LONGITUDINAL)].sum()) / total if total else float("nan")


def tell_direction(objects: pd.DataFrame, settings: FiberSettings) -> str:
    """Say that a field's fibers are cut along their length, if too many are.

    Parameters
    ----------
    objects : DataFrame
        See `measure_longitudinal`.
    settings : FiberSettings
        `longitudinal_share`.

    Returns
    -------
    str
        Empty where there is nothing to say.
    """
    share = measure_longitudinal(objects)
    if not share > settings.longitudinal_share:
        return ""
    return f"{share:.0%} of the fiber area is longitudinal: fiber counts are not valid here".replace(
        "%", " %"
    )
