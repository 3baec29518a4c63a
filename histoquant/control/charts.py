"""Charts: series of a history judged against their baselines, and drawn after Levey and Jennings."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from histoquant.control.westgard import WARNING, judge_series, set_baseline
from histoquant.report import plots

CHARTED = {
    "blur_um": "Blur, um",
    "haematoxylin_strong_od": "Haematoxylin of nuclei, OD",
    "dab_strong_od": "Strong DAB, OD",
    "dab_background_od": "Brown background, OD",
    "haematoxylin_angle_deg": "Haematoxylin off its vector, degrees",
}
"""Measures of controls that go into the history, and their names."""

COLUMNS = (
    "marker",
    "control",
    "measure",
    "slide",
    "section",
    "batch",
    "added",
    "value",
    "mean",
    "sd",
    "score",
)
_SHOWN = 60


def judge_history(history: pd.DataFrame, baseline: int) -> pd.DataFrame:
    """Judge every series of a history: one per marker, kind of control and measure.

    Parameters
    ----------
    history : DataFrame
        Of `histoquant.control.history.read_history`.
    baseline : int
        First controls of a series that set its mean and SD; rules apply to those after.

    Returns
    -------
    DataFrame
        `COLUMNS`, and `rules`, those broken, joined by spaces: empty in and before the end of the baseline.
    """
    parts = []
    for _, own in history.groupby(["marker", "control", "measure"], sort=True):
        limits = set_baseline(own["value"].tolist(), baseline)
        part = own.assign(mean=np.nan, sd=np.nan, score=np.nan, rules="")
        if limits is not None:
            scores = ((own["value"] - limits.mean) / limits.sd).tolist()
            later = judge_series(scores[limits.n :], own["batch"].tolist()[limits.n :])
            rules = [""] * limits.n + [" ".join(names) for names in later]
            part = part.assign(mean=limits.mean, sd=limits.sd, score=scores, rules=rules)
        parts.append(part)
    columns = [*COLUMNS, "rules"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def is_rejected(rules: str) -> bool:
    """Whether broken rules reject, and do not only warn.

    Examples
    --------
    >>> is_rejected("1-2s"), is_rejected("1-2s 1-3s"), is_rejected("")
    (False, True, False)
    """
    return bool(set(rules.split()) - {WARNING})


def plot_series(series: pd.DataFrame, label: str, width_in: float = 5.2) -> str:
    """Draw a Levey-Jennings chart: the last 60 controls, mean, and lines at 1, 2 and 3 SD.

    Parameters
    ----------
    series : DataFrame
        Rows of one series of `judge_history`, with a baseline.
    label : str
        Name of the y axis.
    width_in : float, optional
        Width.

    Returns
    -------
    str
        An `<svg>` element; a control that breaks a rejecting rule is a red diamond, named on hover.

    References
    ----------
    Levey S, Jennings ER. The use of control charts in the clinical laboratory. Am J Clin Pathol
    1950;20:1059-1066.
    """
    shown = series.tail(_SHOWN).reset_index(drop=True)
    mean, sd = float(shown["mean"].iloc[0]), float(shown["sd"].iloc[0])
    titles: dict[str, str] = {}
    with mpl.rc_context(plots._SETTINGS):
        figure = Figure(figsize=(width_in, 0.45 * width_in), layout="constrained")
        axes = figure.add_subplot()
        for at, style in ((0, "-"), (1, ":"), (2, "--"), (3, "-.")):
            for side in (-1, 1):
                axes.axhline(mean + side * at * sd, color=plots._INK, linewidth=0.6, linestyle=style)
        axes.plot(shown["value"], color="#0072B2", linewidth=0.8)
        for at, row in enumerate(shown.to_dict("records")):
            symbol, color = ("D", "#D55E00") if is_rejected(str(row["rules"])) else ("o", "#0072B2")
            axes.plot([at], [row["value"]], marker=symbol, color=color, markersize=5, gid=f"point{at}")
            rules = f" ({row['rules']})" if row["rules"] else ""
            titles[f"point{at}"] = f"{row['section']}, batch {row['batch']}: {row['value']:.3g}{rules}"
        axes.set(xlabel="control, oldest first", ylabel=label)
        return plots._to_svg(figure, titles, f"{label} of controls, with mean and 1, 2 and 3 SD")
