"""Overlap of smoothed densities by scale, and of fields: what is often reported, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from histoquant.serial.intervals import Estimate, jackknife
from histoquant.serial.windows import PIXEL_UM, Window

Floats = npt.NDArray[np.float64]
SCALES_UM = (25.0, 50.0, 100.0)
_EVERY = 2


class Smoothed(NamedTuple):
    """Overlap of smoothed densities at one scale.

    Attributes
    ----------
    scale_um : float
        Standard deviation of the smoothing.
    spearman : Estimate
        Rank correlation over places a scale apart, ranked within blocks.
    first, second : Estimate
        Manders' coefficients: share of the first marker's density that lies where the second's is above
        its mean over the block, and the reverse.
    first_chance, second_chance : float
        Share of the area there, which is what independent markers give.
    """

    scale_um: float
    spearman: Estimate
    first: Estimate
    second: Estimate
    first_chance: float
    second_chance: float


class FieldRho(NamedTuple):
    """Correlation of fields within patients.

    Attributes
    ----------
    rho, low, high, p : float
        nan where there are too few fields.
    fields, blocks : int
        Numbers.
    method : str
        How it was computed.
    """

    rho: float
    low: float
    high: float
    p: float
    fields: int
    blocks: int
    method: str


def smooth_windows(
    windows: Sequence[Window], units: npt.NDArray[np.int64], scale_um: float, confidence: float = 0.95
) -> Smoothed:
    """Measure the overlap of smoothed densities.

    Both fall short of the overlap of the densities themselves the fewer cells there are.

    Parameters
    ----------
    windows : sequence of Window
        Windows.
    units : ndarray of int, shape (windows,)
        See `choose_units`.
    scale_um : float
        Standard deviation of the smoothing.
    confidence : float, optional
        Of the intervals.

    Returns
    -------
    Smoothed
    """
    samples = [_sample(window, scale_um) for window in windows]
    window = np.repeat(np.arange(len(windows)), [len(sample) for sample in samples])
    values = np.vstack(samples)
    names = np.array([w.block for w in windows])[window]
    ranks, high = np.empty_like(values), np.empty(values.shape, bool)
    for block in np.unique(names):
        own = names == block
        ranks[own] = stats.rankdata(values[own], axis=0) / own.sum()
        high[own] = values[own] > values[own].mean(0)

    def measure(weight: Floats) -> Floats:
        w = weight[window]
        return np.array(
            [
                _correlate(ranks, w),
                _share(values[:, 0], high[:, 1], w),
                _share(values[:, 1], high[:, 0], w),
            ]
        )

    found = jackknife(measure, units, confidence)
    # The jackknife does not know the bounds of a correlation or of a share.
    one, two, three = (
        Estimate(*(np.clip(part[i : i + 1], least, 1) for part in found))
        for i, least in enumerate((-1, 0, 0))
    )
    return Smoothed(scale_um, one, two, three, float(high[:, 1].mean()), float(high[:, 0].mean()))


def correlate_fields(windows: Sequence[Window], confidence: float = 0.95) -> FieldRho:
    """Correlate the densities of positive cells of two markers over fields, within patients.

    Both are turned into normal scores; a linear mixed model of the second on the first, centred within
    blocks, with a random intercept per block, gives the slope, and slope times the ratio of the spreads
    within blocks is the correlation. With one block it is Spearman's.

    Parameters
    ----------
    windows : sequence of Window
        Windows.
    confidence : float, optional
        Of the interval.

    Returns
    -------
    FieldRho
    """
    table = pd.DataFrame(
        {
            "block": [window.block for window in windows],
            "first": [window.first_positive.sum() / window.area_um2 for window in windows],
            "second": [window.second_positive.sum() / window.area_um2 for window in windows],
        }
    )
    blocks, n = table["block"].nunique(), len(table)
    nothing = FieldRho(np.nan, np.nan, np.nan, np.nan, n, blocks, "too few fields that differ")
    if n - blocks < 4 or (table[["first", "second"]].nunique() < 3).any():
        return nothing
    z = stats.norm.ppf(0.5 + confidence / 2)
    if blocks == 1:
        found = stats.spearmanr(table["first"], table["second"])
        rho = float(found.statistic)
        # Variance of Fisher's z for ranks: Bonett & Wright 2000.
        half = z * np.sqrt((1 + rho**2 / 2) / (n - 3))
        middle = np.arctanh(np.clip(rho, -0.9999, 0.9999))
        low, high = np.tanh(middle - half), np.tanh(middle + half)
        return FieldRho(rho, float(low), float(high), float(found.pvalue), n, 1, "Spearman")
    for name in ("first", "second"):
        table[name] = stats.norm.ppf(stats.rankdata(table[name]) / (n + 1))
    mean = table.groupby("block")[["first", "second"]].transform("mean")
    within = table["first"] - mean["first"]
    spread = (table["second"] - mean["second"]).std()
    if not (within.std() > 0 and spread > 0):
        return nothing
    design = np.column_stack([np.ones(n), within, mean["first"] - mean["first"].mean()])
    if blocks < 3:
        design = design[:, :2]
    with warnings.catch_warnings():
        # A random intercept of no variance is a result, not a fault.
        warnings.simplefilter("ignore")
        fitted = MixedLM(table["second"].to_numpy(), design, table["block"].to_numpy()).fit(reml=True)
    factor = float(within.std() / spread)
    rho, error = float(fitted.params[1]) * factor, float(fitted.bse[1]) * factor
    return FieldRho(
        float(np.clip(rho, -1, 1)),
        float(np.clip(rho - z * error, -1, 1)),
        float(np.clip(rho + z * error, -1, 1)),
        float(fitted.pvalues[1]),
        n,
        blocks,
        "linear mixed model on normal scores, fields within patients",
    )


def _sample(window: Window, scale_um: float) -> Floats:
    """Smoothed densities of both markers, per um2, at places a scale apart."""
    pixel_um = PIXEL_UM * _EVERY
    mask = window.mask[::_EVERY, ::_EVERY].astype(np.float32)
    weight = cv2.GaussianBlur(mask, (0, 0), scale_um / pixel_um, borderType=cv2.BORDER_CONSTANT)
    step = max(round(scale_um / pixel_um), 1)
    seen = mask[::step, ::step] > 0
    parts = []
    for points in (window.first[window.first_positive], window.second[window.second_positive]):
        counts = np.zeros(mask.shape, np.float32)
        column, row = np.floor(points / pixel_um).astype(int).T
        inside = (row < mask.shape[0]) & (column < mask.shape[1])
        np.add.at(counts, (row[inside], column[inside]), 1)
        smooth = cv2.GaussianBlur(counts, (0, 0), scale_um / pixel_um, borderType=cv2.BORDER_CONSTANT)
        parts.append((smooth / np.maximum(weight, 1e-6))[::step, ::step][seen] / pixel_um**2)
    return np.column_stack(parts).astype(float)


def _correlate(ranks: Floats, weight: Floats) -> float:
    if weight.sum() < 3:
        return float("nan")
    away = ranks - np.average(ranks, axis=0, weights=weight)
    products = (weight[:, None, None] * away[:, :, None] * away[:, None, :]).sum(0)
    scale = np.sqrt(products[0, 0] * products[1, 1])
    return float(products[0, 1] / scale) if scale > 0 else float("nan")


def _share(values: Floats, where: npt.NDArray[np.bool_], weight: Floats) -> float:
    total = float((values * weight).sum())
    return float((values * weight * where).sum()) / total if total > 0 else float("nan")
