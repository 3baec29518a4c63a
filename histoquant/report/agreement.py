"""Plots of how two counts agree: against each other, and their differences."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histoquant.agreement import Limits
from histoquant.report import plots
from histoquant.report.formats import format_number

_BAND = "#56B4E9"


def plot_identity(pairs: pd.DataFrame, values_label: str, reference_label: str, width_in: float = 3.4) -> str:
    """Plot one count against the other with the line on which both are equal.

    Parameters
    ----------
    pairs : DataFrame
        name (shown on hover), group (its shape and colour), value, reference; rows with a nan are left out.
    values_label, reference_label : str
        Of the y and the x axis.
    width_in : float, optional
        Width of the plot.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table, groups = _prepare(pairs)
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(width_in, 0.95 * width_in), layout="constrained")
        axes = figure.add_subplot()
        top = 1.06 * max(table[["value", "reference"]].to_numpy().max(initial=0.0), 1e-3)
        axes.plot([0, top], [0, top], color=plots._INK, linewidth=0.8)
        titles = _draw(axes, table, groups, table["reference"], table["value"])
        axes.set(xlim=(0, top), ylim=(0, top), xlabel=reference_label, ylabel=values_label, aspect="equal")
        plots._draw_legend(axes, groups, groups)
        return plots._to_svg(figure, titles, f"{values_label} against {reference_label}, line of identity")


def plot_differences(
    pairs: pd.DataFrame, limits: Limits, mean_label: str, difference_label: str, width_in: float = 4.2
) -> str:
    """Plot differences against means, with bias, limits of agreement and their intervals.

    Parameters
    ----------
    pairs : DataFrame
        As for `plot_identity`.
    limits : Limits
        Of value - reference.
    mean_label, difference_label : str
        Of the x and the y axis.
    width_in : float, optional
        Width of the plot.

    Returns
    -------
    str
        An `<svg>` element.

    References
    ----------
    Bland JM, Altman DG (1986), Lancet 327, 307-310.
    """
    table, groups = _prepare(pairs)
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(width_in, 0.77 * width_in), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color="#999999", linewidth=0.8)
        for one, style in ((limits.bias, "-"), (limits.low, "--"), (limits.high, "--")):
            if not np.isnan(one.value):
                axes.axhspan(one.ci_low, one.ci_high, color=_BAND, alpha=0.22, linewidth=0)
                axes.axhline(one.value, color=plots._INK, linewidth=1.1, linestyle=style)
        mean = (table["value"] + table["reference"]) / 2
        titles = _draw(axes, table, groups, mean, table["value"] - table["reference"])
        axes.set(xlabel=mean_label, ylabel=difference_label)
        axes.margins(x=0.06, y=0.12)
        plots._draw_legend(axes, groups, groups)
        return plots._to_svg(figure, titles, f"{difference_label} against {mean_label}")


def _prepare(pairs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    table = pairs.dropna(subset=["value", "reference"])
    return table, sorted(set(table["group"].astype(str)))


def _draw(axes: Axes, table: pd.DataFrame, groups: list[str], x: Any, y: Any) -> dict[str, str]:
    """Draw a point per pair; titles by the point's ID."""
    titles: dict[str, str] = {}
    for row, at_x, at_y in zip(table.to_dict("records"), x, y, strict=True):
        shape, color = plots._style(str(row["group"]), groups)
        gid = f"point{len(titles)}"
        numbers = (format_number(row[name], 3).removesuffix(".000") for name in ("value", "reference"))
        titles[gid] = "{}: {} against {}".format(row["name"], *numbers)
        plots._draw_point(axes, at_x, at_y, shape, color, gid)
    return titles
