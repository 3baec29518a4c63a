"""A forest plot: estimates with their intervals, a row each, on a logarithmic axis."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from histoquant.report import plots

_REACH = 1e4  # what lies further from 1 is drawn as an arrow


def plot_forest(rows: pd.DataFrame, axis_label: str, width_in: float = 6.4) -> str:
    """Plot ratios with their intervals; the line is at 1.

    Parameters
    ----------
    rows : DataFrame
        label, estimate, ci_low, ci_high, text (written at the right); drawn from top to bottom. Rows without
        an estimate only show their text. Bounds beyond 1 / 10,000 and 10,000 end in an arrow.
    axis_label : str
        What the ratios are.
    width_in : float, optional
        Width of the plot.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table = rows.reset_index(drop=True)
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(width_in, 0.75 + 0.27 * max(1, len(table))), layout="constrained")
        axes = figure.add_subplot()
        numbers = table[["estimate", "ci_low", "ci_high"]].to_numpy(np.float64)
        shown = np.clip(numbers[np.isfinite(numbers) & (numbers > 0)], 1 / _REACH, _REACH)
        low, high = min(0.5, shown.min(initial=1)) / 1.3, max(2.0, shown.max(initial=1)) * 1.3
        axes.axvline(1, color="#999999", linewidth=0.8)
        titles: dict[str, str] = {}
        for at, (estimate, ci_low, ci_high) in enumerate(numbers):
            if np.isfinite(estimate):
                gid = f"point{at}"
                titles[gid] = f"{table['label'][at]}: {table['text'][at]}"
                _draw_row(axes, at, (estimate, ci_low, ci_high), (low, high), gid)
            axes.annotate(
                str(table["text"][at]),
                (1.02, at),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        axes.set(xscale="log", xlim=(low, high), ylim=(len(table) - 0.4, -0.6), xlabel=axis_label)
        axes.set_yticks(range(len(table)), [plots._shorten(str(label), 40) for label in table["label"]])
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return plots._to_svg(figure, titles, f"{axis_label} with intervals")


def _draw_row(
    axes: mpl.axes.Axes,
    at: int,
    numbers: tuple[float, float, float],
    ends: tuple[float, float],
    gid: str,
) -> None:
    """A line from bound to bound with the estimate on it; what leaves the axis ends in an arrow."""
    estimate, ci_low, ci_high = numbers
    color = plots._GROUP_STYLES[0][1]
    low = ends[0] if np.isnan(ci_low) else max(ci_low, ends[0])
    high = ends[1] if np.isnan(ci_high) else min(ci_high, ends[1])
    axes.plot([low, high], [at, at], color=color, linewidth=1.4)
    for bound, end, shape in ((ci_low, ends[0], "<"), (ci_high, ends[1], ">")):
        if not ends[0] <= bound <= ends[1]:
            axes.plot([end], [at], shape, color=color, markersize=5, clip_on=False)
    axes.plot(
        [np.clip(estimate, *ends)], [at], "s", color=color, markersize=6, markeredgecolor="white", gid=gid
    )
