"""The page of a validation: what was compared, how it agrees, and what that does not mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from histoquant.agreement import LEAST, describe_limits, measure_limits
from histoquant.report.agreement import plot_differences, plot_identity
from histoquant.report.article import Figure, Part, build_article
from histoquant.report.formats import format_count, format_interval, format_number, format_text, is_absent
from histoquant.report.settings import format_time
from histoquant.report.table import Column, Table, make_table
from histoquant.validation.cells import REACH_UM
from histoquant.validation.pairs import QUANTITIES
from histoquant.validation.truth import Truth

_NAMES = {
    "fibers": "fibers",
    "positive_cells": "positive cells",
    "cells_per_fiber": "positive cells per fiber",
}
_MEANINGS = {
    "precision": "of the run's positive cells, the share that the truth has too",
    "recall": "of the truth's positive cells, the share that the run found",
    "f1": "precision and recall in one number",
    "sensitivity": "of matched cells positive in the truth, the share the run calls positive",
    "specificity": "of matched cells negative in the truth, the share the run calls negative",
    "agreement": "share of matched cells called alike",
    "kappa": "agreement beyond chance: 0 none, 1 perfect",
}
_HOW = (
    "Both counted the same fields, the run's own: this is measurement error. How much a section's value "
    "would change with other fields is another matter and stands in the run's report.",
    "Differences are run − truth. Bias: their mean. Limits of agreement: {limits}. The per cent are those of "
    "the ratio run / truth (from logarithms), since counts differ more where there is more to count; pairs "
    "with a zero have no ratio.",
    "ICC(2,1): share of the variance that both have in common, a constant shift counting against it. CCC: "
    "Lin's concordance, nearness to the line of identity. Both rise with the spread of the values, so they "
    "compare only between studies of like spread; the limits of agreement do not.",
    "A marked point counts in the field that it lies in; an outline, or a point with a nucleus radius "
    "(+ 1.5 µm), if more than half of its area lies inside. Marks of which nobody can tell, and cells of the "
    f"run matched to them, count neither way. Cells match one to one up to {REACH_UM:g} µm apart.",
)
_LIMITS = (
    "Fields of one section, and cells of one field, are alike. Their intervals take them as independent and "
    "are too narrow; those of sections are not.",
    "A person errs too. Where there are two readers, compare them with each other first: the run cannot "
    "agree with them better than they with one another.",
    "The result holds for this stain, scanner, protocol and version. Validate again when one of them "
    "changes.",
    "For research; not a diagnosis.",
)


def build_page(
    truth: Truth,
    run: Mapping[str, Any],
    pairs: pd.DataFrame,
    sections: pd.DataFrame,
    agreement: pd.DataFrame,
    notes: Sequence[str],
    confidence: float,
) -> str:
    """Write the page of a validation.

    Parameters
    ----------
    truth : Truth
        What the run was compared with.
    run : mapping
        run.json.
    pairs, sections, agreement : DataFrame
        See `histoquant.validation.pairs`.
    notes : sequence of str
        What was left out or looks odd.
    confidence : float
        Of limits and intervals.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    facts = {
        "truth": f"{truth.name} ({truth.form})",
        "sections": format_count(len(sections)),
        "fields": format_count(len(pairs)),
        "run": format_time(run.get("finished")),
        "protocol hash": str(run.get("protocol_hash") or "")[:12],
    }
    told = tell_agreement(agreement, truth.name, confidence)
    tables = [
        table
        for level in ("section", "field")
        for table in (
            tabulate_differences(agreement, level, confidence),
            tabulate_coefficients(agreement, level, confidence),
        )
        if table
    ]
    cells = tabulate_cells(agreement, confidence)
    how = [text.replace("{limits}", describe_limits(confidence)) for text in _HOW]
    parts = [
        Part("Result", state=told[0], points=told[1:], texts=notes),
        Part("Counts", figures=_draw(pairs, sections, truth.name, confidence), tables=tables),
        *([Part("Cells", tables=[cells])] if cells else []),
        Part("Sections", tables=[tabulate_sections(sections)]),
        Part("How it was compared", points=how),
        Part("What it does not mean", points=_LIMITS),
    ]
    subtitle = f"The run's counts against {truth.name}, in the same fields, by the half-area rule"
    return build_article(f"histoquant: validation against {truth.name}", subtitle, facts, parts)


def tell_agreement(agreement: pd.DataFrame, name: str, confidence: float) -> list[str]:
    """Tell in sentences how far sections differ.

    Parameters
    ----------
    agreement : DataFrame
        Columns of agreement.csv.
    name : str
        Whose truth.
    confidence : float
        Of limits and intervals.

    Returns
    -------
    list of str
        At least one.

    Examples
    --------
    >>> rows = [("bias_percent", 20, 1.5, -0.5, 3.5), ("limit_low_percent", 20, -7.0, -9, -5),
    ...     ("limit_high_percent", 20, 11.0, 8, 14)]
    >>> table = pd.DataFrame(rows, columns=["measure", "n", "estimate", "ci_low", "ci_high"])
    >>> print(tell_agreement(table.assign(marker="", level="section", quantity="fibers"), "Li", 0.95)[0])
    Fibers: over 20 sections the run is 1.5 % above Li (95 % CI −0.5 to 3.5 %); of 20 single sections, \
about 19 are expected to differ by −7.0 to 11.0 %.
    """
    told = []
    for (marker, level, quantity), rows in agreement.groupby(["marker", "level", "quantity"], sort=False):
        found = rows.set_index("measure")
        if level != "section" or is_absent(found.loc["bias_percent", "estimate"]):
            continue
        bias, low, high = (found.loc[f"{part}_percent"] for part in ("bias", "limit_low", "limit_high"))
        side = "above" if bias["estimate"] >= 0 else "below"
        interval = format_interval(bias["ci_low"], bias["ci_high"], 1)
        shift = format_number(abs(bias["estimate"]), 1)
        told.append(
            f"{_name(str(marker), str(quantity))}: over {format_count(bias['n'])} {level}s the run is "
            f"{shift} % {side} {name} ({100 * confidence:g} % CI {interval} %); "
            f"of 20 single {level}s, about {20 * confidence:.0f} are expected to differ by "
            f"{format_interval(low['estimate'], high['estimate'], 1)} %."
        )
    return told or ["Too few sections for limits of agreement in per cent; see the tables."]


def tabulate_differences(agreement: pd.DataFrame, level: str, confidence: float) -> Table | None:
    """Tabulate bias and limits of agreement of a level; None if there are none."""
    ci = f"({100 * confidence:g} % CI)"
    columns = (
        Column("Quantity", False), Column("n"), Column(f"Bias {ci}"), Column(f"Lower limit {ci}"),
        Column(f"Upper limit {ci}"), Column(f"Bias, % {ci}"), Column(f"Lower limit, % {ci}"),
        Column(f"Upper limit, % {ci}"), Column("Note", False),
    )  # fmt: skip
    return _tabulate(
        f"Differences by {level}, run − truth.",
        columns,
        agreement[agreement["level"].eq(level)],
        ("bias", "limit_low", "limit_high", "bias_percent", "limit_low_percent", "limit_high_percent"),
    )


def tabulate_coefficients(agreement: pd.DataFrame, level: str, confidence: float) -> Table | None:
    """Tabulate ICC and CCC of a level; None if there are none."""
    ci = f"({100 * confidence:g} % CI)"
    columns = (
        Column("Quantity", False), Column("n"), Column(f"ICC(2,1) {ci}"), Column(f"CCC {ci}"),
        Column("Note", False),
    )  # fmt: skip
    own = agreement[agreement["level"].eq(level)]
    return _tabulate(f"Coefficients of agreement by {level}.", columns, own, ("icc", "ccc"))


def tabulate_cells(agreement: pd.DataFrame, confidence: float) -> Table | None:
    """Tabulate how cells and their calls agree; None without matched cells."""
    own = agreement[agreement["level"].eq("cell")]
    if own.empty:
        return None
    columns = (
        Column("Measure", False), Column("n"), Column("Value"), Column(f"{100 * confidence:g} % CI"),
        Column("Meaning", False), Column("Note", False),
    )  # fmt: skip
    rows = (
        (
            row["measure"].capitalize() + (f", {row['marker']}" if row["marker"] else ""),
            format_count(row["n"]), format_number(row["estimate"]),
            format_interval(row["ci_low"], row["ci_high"]), _MEANINGS[str(row["measure"])],
            format_text(row["note"]),
        )
        for row in own.to_dict("records")
    )  # fmt: skip
    return make_table("Positive cells found, and calls of matched cells.", columns, rows)


def tabulate_sections(sections: pd.DataFrame) -> Table:
    """Tabulate both counts of every section."""
    columns = (
        Column("Section", False), Column("Fields"), Column("Fibers, run"), Column("truth"),
        Column("Positive cells, run"), Column("truth"), Column("Cells per fiber, run"), Column("truth"),
    )  # fmt: skip
    rows = (
        (
            str(row["section"]),
            format_count(row["fields"]),
            *(format_count(row[f"{side}{part}"]) for part in QUANTITIES[:2] for side in ("", "true_")),
            *(format_number(row[f"{side}cells_per_fiber"]) for side in ("", "true_")),
        )
        for row in sections.to_dict("records")
    )
    return make_table(
        "Totals over the fields compared; cells per fiber is the mean of their ratios.", columns, rows
    )


def _name(marker: str, quantity: str) -> str:
    text = _NAMES[quantity]
    return f"{marker}, {text}" if marker else text.capitalize()


def _tabulate(
    caption: str, columns: Iterable[Column], rows: pd.DataFrame, measures: Sequence[str]
) -> Table | None:
    if rows.empty:
        return None
    lines = []
    for (marker, quantity), own in rows.groupby(["marker", "quantity"], sort=False):
        found = own.set_index("measure").loc[list(measures)]
        decimals = 3 if quantity == "cells_per_fiber" or "icc" in measures else 1
        notes = "; ".join(dict.fromkeys(str(note) for note in found["note"] if not is_absent(note)))
        lines.append(
            (
                _name(str(marker), str(quantity)),
                format_count(found["n"].max()),
                *(
                    _format(row, 1 if str(measure).endswith("percent") else decimals)
                    for measure, row in found.iterrows()
                ),
                format_text(notes),
            )
        )
    return make_table(caption, columns, lines)


def _format(row: Mapping[str, Any] | pd.Series[Any], decimals: int) -> str:
    if is_absent(row["estimate"]) or is_absent(row["ci_low"]):
        return format_number(row["estimate"], decimals)
    interval = format_interval(row["ci_low"], row["ci_high"], decimals)
    return f"{format_number(row['estimate'], decimals)} ({interval})"


def _draw(pairs: pd.DataFrame, sections: pd.DataFrame, name: str, confidence: float) -> list[Figure]:
    """Sections' ratios first, then the three quantities of fields; less than three pairs say nothing."""
    drawn = [("section", sections, "cells_per_fiber"), *(("field", pairs, part) for part in QUANTITIES)]
    figures = []
    for level, table, part in drawn:
        points = pd.DataFrame(
            {
                "name": table["section"]
                + (" field " + table["field"].astype(str) if level == "field" else ""),
                "group": table["marker"],
                "value": table[part].astype(float),
                "reference": table[f"true_{part}"].astype(float),
            }
        ).dropna()
        if len(points) < LEAST:
            continue
        limits = measure_limits(points["value"], points["reference"], confidence)
        what = _NAMES[part]
        one = f"{what}, one point per {level}"
        figures.append(
            Figure(
                Markup(plot_identity(points, f"{what}, run", f"{what}, {name}")),
                f"{one.capitalize()}. Line: both equal.",
            )
        )
        figures.append(
            Figure(
                Markup(plot_differences(points, limits, f"{what}, mean of both", "difference, run − truth")),
                f"{one.capitalize()}. Line: bias; dashed: limits of agreement; shaded: their intervals.",
            )
        )
    return figures
