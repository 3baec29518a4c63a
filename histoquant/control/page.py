"""The page of a check: verdicts, thumbnails, measures, and charts of the controls."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from histoquant.control.charts import CHARTED, is_rejected, plot_series
from histoquant.control.survey import SlideCheck
from histoquant.control.westgard import MEANINGS
from histoquant.qc.judge import RULES
from histoquant.report.article import Figure, Image, Part, build_article
from histoquant.report.build import encode_data
from histoquant.report.formats import format_number
from histoquant.report.table import Cell, Column, Table, make_table

_STATES = {"pass": "ok", "look": "incomplete", "repeat": "failed"}
_NAMES = {
    "blur_um": "Blur, µm", "blurred_share": "Out of focus", "jpeg_quality": "JPEG quality",
    "hole_share": "Holes", "clipped_share": "Clipped", "unevenness": "Uneven light",
    "haematoxylin_strong_od": "Haematoxylin, OD",
    "dab_background_od": "Brown background, OD", "haematoxylin_angle_deg": "Haematoxylin off, °",
    "dab_angle_deg": "DAB off, °", "negative_share": "Negative stain",
}  # fmt: skip
_HOW = (
    "Measured are the first fields that a run with the same seed would draw; values are medians over them. A "
    "dash: nothing to measure it on, as with a JPEG quality above about 92.",
    "Repeat: a fault of scan or stain in at least the protocol's share of the fields (qc.repeat_share). "
    "Look: any limit passed in any field. Limits stand in the section qc of the protocol.",
    "Folds, pen marks, bubbles, brown edges and parts out of focus are looked for on the overview of a "
    "slide, and no field is drawn there (section qc.artefacts). Fibers cut along: only a run looks for them.",
    "A slide that passes is fit to be measured. It says nothing about the antibody: that is what positive "
    "and negative controls are for.",
)


def build_page(
    checks: Sequence[SlideCheck], series: pd.DataFrame, rejected: pd.DataFrame, facts: dict[str, str]
) -> str:
    """Write the page of a check.

    Parameters
    ----------
    checks : sequence of SlideCheck
        In order.
    series : DataFrame
        Of `judge_history`; empty without a history.
    rejected : DataFrame
        Rows of it, slides of this study, that broke a rule.
    facts : dict of str to str
        Below the title.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    bad = any(check.verdict == "repeat" for check in checks) or bool(rejected["rules"].map(is_rejected).any())
    parts = [
        Part(
            "Verdict",
            state=f"{tell_verdicts(checks)}{_tell_rejected(rejected)}",
            bad=bad,
            tables=[tabulate_verdicts(checks)],
        ),
        *([Part("Slides", pictures=shown)] if (shown := _show(checks)) else []),
        Part("Measures", tables=[tabulate_measures(checks)]),
        *([_chart(series, rejected)] if len(series) else []),
        Part("How it was judged", points=_HOW),
    ]
    return build_article("histoquant: quality of slides", "Fit to count?", facts, parts)


def tell_verdicts(checks: Sequence[SlideCheck]) -> str:
    """Tell in a sentence how many slides have each verdict."""
    counts = {name: sum(check.verdict == name for check in checks) for name in _STATES}
    return (
        f"Of {len(checks)} slides: pass {counts['pass']}, look {counts['look']}, repeat {counts['repeat']}."
    )


def _tell_rejected(rejected: pd.DataFrame) -> str:
    own = rejected[rejected["rules"].map(is_rejected).astype(bool)]
    return f" Controls that break a rule: {', '.join(sorted(set(own['section'])))}." if len(own) else ""


def tabulate_verdicts(checks: Sequence[SlideCheck]) -> Table:
    """Tabulate verdicts, the worst first."""
    order = list(reversed(_STATES))
    rows = (
        (check.section.id, Cell(check.verdict, state=_STATES[check.verdict]), "; ".join(check.reasons) or "–")
        for check in sorted(checks, key=lambda check: order.index(check.verdict))
    )
    return make_table(
        "Verdict on every slide.",
        (Column("Section", False), Column("Verdict", False), Column("Reasons", False)),
        rows,
    )


def tabulate_measures(checks: Sequence[SlideCheck]) -> Table:
    """Tabulate the median of every measure that has a limit."""
    names = list(dict.fromkeys(rule.measure for rule in RULES))
    rows = (
        (check.section.id, *(format_number(check.values.get(name, float("nan"))) for name in names))
        for check in checks
    )
    columns = (Column("Section", False), *(Column(_NAMES[name]) for name in names))
    return make_table("Median over the fields looked at.", columns, rows)


def _show(checks: Sequence[SlideCheck]) -> list[Image]:
    return [
        Image(encode_data(check.overview), f"{check.section.id}: {check.verdict}")
        for check in checks
        if check.overview is not None
    ]


def _name(measure: object) -> str:
    """Name of a charted measure within a sentence."""
    name = CHARTED[str(measure)]
    return name[0].lower() + name[1:]


def _chart(series: pd.DataFrame, rejected: pd.DataFrame) -> Part:
    """Charts of the series that have a baseline, and what their rules say of this study's controls."""
    figures, waiting = [], 0
    for (marker, control, measure), own in series.groupby(["marker", "control", "measure"], sort=True):
        if own["mean"].isna().any():
            waiting += 1
            continue
        name = CHARTED[str(measure)]
        about = f"{marker}, {control} control: {_name(measure)}"
        caption = f"{about}. Lines: mean and 1, 2 and 3 SD of the baseline."
        figures.append(Figure(Markup(plot_series(own, name)), caption))
    texts = [f"{waiting} series have too few controls for a baseline, and are not judged."] if waiting else []
    points = [
        f"{row['section']} (batch {row['batch']}), {_name(row['measure'])}: {row['rules']}."
        for row in rejected.to_dict("records")
    ] or ["No control of this study breaks a rule."]
    broken = sorted({name for rules in rejected["rules"] for name in rules.split()}, key=list(MEANINGS).index)
    points += [f"{name}: {MEANINGS[name]}." for name in broken]
    return Part("Controls", texts=texts, points=points, figures=figures)
