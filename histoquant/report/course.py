"""A plot of how values of patients run over time, a panel per value."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from histoquant.report import plots


def plot_courses(visits: pd.DataFrame, values: Mapping[str, str], width_in: float = 3.6) -> str:
    """Plot a line per patient, coloured by group.

    Parameters
    ----------
    visits : DataFrame
        patient, group, month and a column per value; visits without it are passed over.
    values : mapping of str to str
        Columns, and what their axes say.
    width_in : float, optional
        Width of a panel.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table, groups = plots._with_groups(visits), plots.list_groups(visits)
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(width_in * len(values), 3.2), layout="constrained")
        titles: dict[str, str] = {}
        for panel, (name, label) in enumerate(values.items()):
            axes = figure.add_subplot(1, len(values), panel + 1)
            for (patient, group), own in table.dropna(subset=[name]).groupby(["patient", "group"], sort=True):
                shape, color = plots._style(str(group), groups)
                gid = f"line{len(titles)}"
                titles[gid] = f"{patient}, {group}"
                axes.plot(
                    own["month"], own[name], f"{shape}-", color=color, linewidth=1, markersize=4.5,
                    markeredgecolor="white", markeredgewidth=0.5, alpha=0.85, gid=gid,
                )  # fmt: skip
            axes.set(xlabel="months of treatment", ylabel=label)
            axes.margins(0.05)
            axes.set_ylim(bottom=0)
            if panel == 0:
                plots._draw_legend(axes, groups, groups)
        return plots._to_svg(figure, titles, f"{', '.join(values.values())} of every patient over time")
