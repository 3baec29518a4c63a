"""Plots as SVG text: small, the same bytes every time, and with every patient named on hover."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histoquant.report.formats import is_absent

Floats = npt.NDArray[np.float64]

# Shape and Okabe-Ito colour together tell groups apart.
_GROUP_STYLES = (
    ("o", "#0072B2"),
    ("^", "#D55E00"),
    ("s", "#009E73"),
    ("D", "#CC79A7"),
    ("v", "#E69F00"),
    ("P", "#000000"),
)
_NO_GROUP = ("X", "#777777")
_INK = "#333333"
# A point takes so much of a panel's height.
_POINT_SHARE = 0.04
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "histoquant",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.8,
}
NO_GROUP = "no group"


def list_groups(patients: pd.DataFrame) -> list[str]:
    """List the groups in sorted order, patients without one last.

    Parameters
    ----------
    patients : DataFrame
        Column group.

    Returns
    -------
    list of str

    Examples
    --------
    >>> list_groups(pd.DataFrame({"group": ["b", None, "a", "b"]}))
    ['a', 'b', 'no group']
    """
    names = [NO_GROUP if is_absent(group) else str(group) for group in patients["group"]]
    return sorted(set(names) - {NO_GROUP}) + [NO_GROUP] * (NO_GROUP in names)


def plot_scatter(patients: pd.DataFrame, marker: str, marker_2: str, width_in: float = 3.9) -> str:
    """Plot one marker against another, a point per patient.

    Parameters
    ----------
    patients : DataFrame
        Columns patient, group and one per marker (positive cells per fiber).
    marker, marker_2 : str
        Markers on the x and the y axis.
    width_in : float, optional
        Width of the plot.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table = _with_groups(patients).dropna(subset=[marker, marker_2])
    groups = list_groups(patients)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width_in, 0.92 * width_in), layout="constrained")
        axes = figure.add_subplot()
        titles: dict[str, str] = {}
        for row in table.to_dict("records"):
            shape, color = _style(row["group"], groups)
            gid = f"point{len(titles)}"
            titles[gid] = f"{row['patient']}: {marker} {row[marker]:.3f}, {marker_2} {row[marker_2]:.3f}"
            _draw_point(axes, row[marker], row[marker_2], shape, color, gid)
        axes.set_xlabel(f"{marker}-positive cells per fiber")
        axes.set_ylabel(f"{marker_2}-positive cells per fiber")
        axes.margins(0.06)
        axes.set_xlim(left=0.0)
        axes.set_ylim(bottom=0.0)
        _draw_legend(axes, [group for group in groups if group in set(table["group"])], groups)
        return _to_svg(figure, titles, f"{marker_2} against {marker}, one point per patient")


def plot_groups(patients: pd.DataFrame, markers: Sequence[str]) -> str:
    """Plot every patient by group, a panel per marker, median and quartiles behind.

    Parameters
    ----------
    patients : DataFrame
        Columns patient, group and one per marker (positive cells per fiber).
    markers : sequence of str
        Markers to plot.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table, groups = _with_groups(patients), list_groups(patients)
    with mpl.rc_context(_SETTINGS):
        width = max(1.4, 0.75 * len(groups) + 0.3) * len(markers)
        figure = Figure(figsize=(width + 0.4, 3.6), layout="constrained")
        titles: dict[str, str] = {}
        for panel, marker in enumerate(markers):
            axes = figure.add_subplot(1, len(markers), panel + 1)
            _draw_panel(axes, table, groups, marker, titles)
            if panel == 0:
                axes.set_ylabel("positive cells per fiber")
        return _to_svg(figure, titles, "Positive cells per fiber by group, one point per patient")


def plot_sizes(sizes: pd.DataFrame, step_um: float = 5.0) -> str:
    """Plot how minimal Feret diameters of fibers are distributed, a line per group.

    Parameters
    ----------
    sizes : DataFrame
        Fibers: group, min_feret_um.
    step_um : float, optional
        Width of a class.

    Returns
    -------
    str
        An `<svg>` element.
    """
    table, groups = _with_groups(sizes), list_groups(sizes)
    edges = np.arange(0, table["min_feret_um"].max() + 2 * step_um, step_um)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(3.9, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for number, group in enumerate(groups):
            values = table.loc[table["group"] == group, "min_feret_um"].to_numpy(float)
            share = 100 * np.histogram(values, edges)[0] / len(values)
            line = ("-", "--", ":", "-.")[number % 4]
            axes.stairs(share, edges, color=_style(group, groups)[1], linestyle=line, label=_shorten(group))
        axes.set_xlabel("minimal Feret diameter (µm)")
        axes.set_ylabel("fibers (%)")
        axes.set_xlim(left=0.0)
        if len(groups) > 1:
            axes.legend(frameon=False)
        return _to_svg(figure, {}, "Distribution of minimal Feret diameters of fibers by group")


def spread_points(values: Floats, apart: float, width: float = 0.3) -> Floats:
    """Shift points of like value sideways so that each is seen.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        Heights of the points.
    apart : float
        Points at least so far apart in height do not hide each other.
    width : float, optional
        Largest shift.

    Returns
    -------
    ndarray of float, shape (n,)
        Shifts; the same for the same values.

    Examples
    --------
    >>> spread_points(np.array([1.0, 5.0, 1.0, 1.1]), 0.2).round(2).tolist()
    [0.0, 0.0, 0.12, -0.12]
    """
    order = np.argsort(values, kind="stable")
    ranks = np.zeros(len(values), int)
    for number, point in enumerate(order):
        below = order[:number]
        taken = set(ranks[below[values[point] - values[below] < apart]].tolist())
        ranks[point] = next(rank for rank in itertools.count() if rank not in taken)
    step = min(0.12, 2 * width / (ranks.max(initial=0) + 1))
    return np.asarray((ranks + 1) // 2 * np.where(ranks % 2, 1, -1) * step, float)


def _with_groups(patients: pd.DataFrame) -> pd.DataFrame:
    names = [NO_GROUP if is_absent(group) else str(group) for group in patients["group"]]
    return patients.assign(group=pd.Series(names, index=patients.index, dtype=object))


def _style(group: str, groups: list[str]) -> tuple[str, str]:
    return _NO_GROUP if group == NO_GROUP else _GROUP_STYLES[groups.index(group) % len(_GROUP_STYLES)]


def _draw_point(axes: Axes, x: float, y: float, shape: str, color: str, gid: str) -> None:
    axes.plot(
        [x], [y], shape, color=color, markersize=6.5, markeredgecolor="white", markeredgewidth=0.6,
        alpha=0.9, clip_on=False, gid=gid,
    )  # fmt: skip


def _draw_legend(axes: Axes, shown: list[str], groups: list[str]) -> None:
    for group in shown:
        shape, color = _style(group, groups)
        axes.plot([], [], shape, color=color, markersize=6.5, label=_shorten(group))
    if len(shown) > 1:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handletextpad=0.2)


def _draw_panel(
    axes: Axes, table: pd.DataFrame, groups: list[str], marker: str, titles: dict[str, str]
) -> None:
    # Where all values are zero, the axis has a height all the same.
    apart = _POINT_SHARE * (float(table[marker].max()) or 1.0)
    for position, group in enumerate(groups):
        rows = table[(table["group"] == group) & table[marker].notna()]
        values = rows[marker].to_numpy(dtype=float)
        # Quartiles of a handful of points would look surer than they are.
        if len(values) >= 5:
            axes.boxplot(
                [values], positions=[position], widths=0.62, showfliers=False, showcaps=False, zorder=1,
                whiskerprops={"visible": False},
                boxprops={"color": "#BBBBBB"}, medianprops={"color": _INK, "linewidth": 1.6},
            )  # fmt: skip
        shape, color = _style(group, groups)
        for patient, value, shift in zip(rows["patient"], values, spread_points(values, apart), strict=True):
            gid = f"point{len(titles)}"
            titles[gid] = f"{patient}: {marker} {value:.3f}"
            _draw_point(axes, position + shift, value, shape, color, gid)
    axes.set_title(marker, fontsize=10, color=_INK)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(bottom=0.0)
    axes.set_xticks(range(len(groups)), [textwrap.fill(_shorten(group), 11) for group in groups])


def _shorten(text: str, length: int = 28) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _to_svg(figure: Figure, titles: dict[str, str], label: str) -> str:
    """Write a figure as an element of the page: no prolog, no dates, no repeated ids."""
    stream = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The reader's browser has the glyphs (Chinese names, say) that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for gid, title in titles.items():
        svg = svg.replace(f'<g id="{gid}">', f"<g><title>{escape(title)}</title>", 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"\s*<style[^>]*>.*?</style>|\s*<!--.*?-->|\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    alt = escape(label, {'"': "&quot;"})
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{alt}" ', svg, count=1).strip()
