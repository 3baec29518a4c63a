"""The study's tables as a reader sees them: captions, units, sensible digits, nothing dropped silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pandas as pd

from histoquant.report.formats import (
    ABSENT,
    format_count,
    format_equals_p,
    format_interval,
    format_mean_sd,
    format_number,
    format_p,
    format_text,
    is_absent,
)
from histoquant.report.table import Cell, Column, Row, Table, make_table

_MAIN_PAIR = {"BAFF-R", "CD19"}
_RULES = {
    "half_area": "more than half of the area inside (half-area, this report)",
    "centroid": "centroid inside",
    "clipped": "any part inside (clipped at the edge)",
    "whole": "whole objects only (cut ones discarded)",
    "counting_frame": "unbiased counting frame (rectangles only)",
}


def list_states(run: Mapping[str, Any], sections: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """List status and reason of every section, from run.json and from sections.csv."""
    states = {
        str(row["section"]): (
            format_text(row["status"]),
            "" if is_absent(row["reason"]) else str(row["reason"]),
        )
        for row in sections.to_dict("records")
    }
    for section, state in (run.get("sections") or {}).items():
        states.setdefault(str(section), (str(state.get("status", "pending")), str(state.get("reason") or "")))
    return states


def tell_state(run: Mapping[str, Any], sections: pd.DataFrame) -> str:
    """Tell in a sentence whether every section was measured."""
    states = [status for status, _ in list_states(run, sections).values()]
    if not states:
        return "The run holds no section."
    good = states.count("ok")
    if good == len(states):
        return "The section was measured." if good == 1 else f"All {good} sections were measured."
    parts = [f"{states.count(state)} {state}" for state in sorted(set(states) - {"ok"})]
    return f"{good} of {len(states)} sections were measured in full; {', '.join(parts)}."


def tabulate_problems(run: Mapping[str, Any], sections: pd.DataFrame) -> Table | None:
    """Tabulate the sections that are not `ok`, the worst first; None if there are none."""
    order = {"failed": 0, "incomplete": 1, "pending": 2, "excluded": 3}
    bad = [
        (section, status, reason or "no reason stored")
        for section, (status, reason) in list_states(run, sections).items()
        if status != "ok"
    ]
    bad.sort(key=lambda item: order.get(item[1], -1))
    if not bad:
        return None
    return make_table(
        "Sections not measured in full.",
        (Column("Section", False), Column("Status", False), Column("Reason", False)),
        ((name, Cell(status, state=status), reason) for name, status, reason in bad),
        "Failed: no value. Incomplete: fewer usable fields than asked; the value is used in the statistics. "
        "Excluded: left out by quality control or a reviewer. Pending: not measured yet.",
    )


def split_statistics(statistics: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split statistics into correlations (BAFF-R with CD19 first), group comparisons, and the rest.

    Parameters
    ----------
    statistics : DataFrame
        Columns of statistics.csv.

    Returns
    -------
    correlations, comparisons, others : DataFrame
    """
    if statistics.empty:
        return statistics, statistics, statistics
    paired = ~statistics["marker_2"].map(is_absent).astype(bool)
    grouped = ~statistics["group_2"].map(is_absent).astype(bool) & ~paired
    pairs = statistics[paired]
    rank = [
        ({row["marker"], row["marker_2"]} != _MAIN_PAIR, not is_absent(row["group"]))
        for row in pairs.to_dict("records")
    ]
    ordered = pairs.iloc[sorted(range(len(pairs)), key=rank.__getitem__)]
    return ordered, statistics[grouped], statistics[~paired & ~grouped]


def tabulate_comparisons(comparisons: pd.DataFrame, confidence: float) -> list[Table]:
    """Tabulate group comparisons as the paper's Table 4, one table per pair of groups."""
    if comparisons.empty:
        return []
    tables = []
    for (group, group_2), rows in comparisons.groupby(["group", "group_2"], sort=True):
        columns = (
            Column("Marker", False), Column(f"{group}: mean ± SD (n)"), Column(f"{group_2}: mean ± SD (n)"),
            Column("P"), Column("exact or permutation P"), Column(_name_effect(rows)),
            Column(f"{100 * confidence:g} % CI"), Column("Note", False),
        )  # fmt: skip
        tables.append(
            make_table(
                f"Positive cells per fiber, {group} and {group_2}.",
                columns,
                map(_compare, rows.to_dict("records")),
                f"n: patients. {_list_methods(rows)} Differences are {group_2} − {group}. "
                "P values are not adjusted for the number of comparisons.",
            )
        )
    return tables


def _compare(row: Row) -> tuple[str, ...]:
    return (
        format_text(row["marker"]),
        f"{format_mean_sd(row['mean'], row['sd'])} ({format_count(row['n'])})",
        f"{format_mean_sd(row['mean_2'], row['sd_2'])} ({format_count(row['n_2'])})",
        format_p(row["p"]), format_p(row["p_exact"]), format_number(row["estimate"]),
        format_interval(row["ci_low"], row["ci_high"]), format_text(row["note"]),
    )  # fmt: skip


_ESTIMATES = {"hodges_lehmann_shift": "difference (Hodges–Lehmann)", "spearman_rho": "Spearman’s rho"}


def _name_effect(rows: pd.DataFrame) -> str:
    names = [_name_estimate(name) for name in rows["estimate_name"].unique() if not is_absent(name)]
    return f"Effect: {', '.join(names)}" if names else "Effect"


def _name_estimate(name: object) -> str:
    return _ESTIMATES.get(str(name), str(name).replace("_", " "))


def _tell_effect(row: Row) -> str:
    if is_absent(row["estimate"]):
        return ABSENT
    name = "" if is_absent(row["estimate_name"]) else _name_estimate(row["estimate_name"]) + " "
    return name + format_number(row["estimate"])


def _list_methods(rows: pd.DataFrame) -> str:
    methods = [str(method).rstrip(".") for method in rows["method"].unique() if not is_absent(method)]
    return f"{'. '.join(methods)}." if methods else ""


def tabulate_correlations(correlations: pd.DataFrame, confidence: float) -> Table | None:
    """Tabulate correlations over patients; None if there are none."""
    if correlations.empty:
        return None
    columns = (
        Column("Markers", False), Column("n"), Column("Spearman’s rho"), Column(f"{100 * confidence:g} % CI"),
        Column("P"), Column("exact or permutation P"), Column("Note", False),
    )  # fmt: skip
    rows = (
        (
            f"{row['marker']} – {row['marker_2']}" + ("" if is_absent(row["group"]) else f", {row['group']}"),
            format_count(row["n"]), format_number(row["estimate"]),
            format_interval(row["ci_low"], row["ci_high"]), format_p(row["p"]), format_p(row["p_exact"]),
            format_text(row["note"]),
        )
        for row in correlations.to_dict("records")
    )  # fmt: skip
    return make_table(
        "Correlation over patients.", columns, rows, f"n: patients. {_list_methods(correlations)}"
    )


def tabulate_others(others: pd.DataFrame) -> Table | None:
    """Tabulate rows of statistics.csv that are neither correlation nor comparison; None if there are none."""
    if others.empty:
        return None
    columns = (
        Column("Analysis", False), Column("Marker", False), Column("Group", False), Column("n"),
        Column("mean ± SD"), Column("Estimate", False), Column("P"), Column("Note", False),
    )  # fmt: skip
    rows = (
        (
            format_text(row["analysis"]), format_text(row["marker"]), format_text(row["group"]),
            format_count(row["n"]), format_mean_sd(row["mean"], row["sd"]), _tell_effect(row),
            format_p(row["p"]), format_text(row["note"]),
        )
        for row in others.to_dict("records")
    )  # fmt: skip
    return make_table("Other analyses.", columns, rows, _list_methods(others))


def caption_scatter(row: Row) -> str:
    """Write the caption of a scatter plot."""
    rho = format_number(row["estimate"], 2)
    return (
        f"{row['marker_2']} against {row['marker']}, one point per patient: Spearman’s rho = {rho}, "
        f"n = {format_count(row['n'])}, P {format_equals_p(row['p'])}."
    )


def caption_sizes(sizes: pd.DataFrame) -> str:
    """Write the caption of the distribution of fiber sizes.

    Parameters
    ----------
    sizes : DataFrame
        Fibers: group, area_um2, min_feret_um.

    Returns
    -------
    str

    Examples
    --------
    >>> caption_sizes(pd.DataFrame({"group": "a", "area_um2": [1000.0], "min_feret_um": [30.0]}))[-50:]
    'a, 1 fiber: 30.0 µm (30.0 to 30.0), area 1000 µm².'
    """
    parts = []
    for group, own in sizes.groupby(sizes["group"].map(format_text), sort=True):
        low, middle, high = (format_number(own["min_feret_um"].quantile(q), 1) for q in (0.25, 0.5, 0.75))
        fibers = "1 fiber" if len(own) == 1 else f"{format_count(len(own))} fibers"
        name = "no group" if group == ABSENT else group
        area = format_count(own["area_um2"].median())
        parts.append(f"{name}, {fibers}: {middle} µm ({low} to {high}), area {area} µm²")
    return (
        "Minimal Feret diameter of the counted fibers of all sections, controls left out. Median (quartiles) "
        f"and median cross-sectional area: {'; '.join(parts)}."
    )


def tabulate_patients(patients: pd.DataFrame) -> Table | None:
    """Tabulate patients, a column per marker; None if there are none."""
    if patients.empty:
        return None
    markers = [str(name) for name in patients.columns if name not in ("patient", "group")]
    columns = (Column("Patient", False), Column("Group", False), *(Column(marker) for marker in markers))
    rows = (
        (
            format_text(row["patient"]),
            format_text(row["group"]),
            *(format_number(row[name]) for name in markers),
        )
        for row in patients.to_dict("records")
    )
    return make_table(
        "Positive cells per fiber of each patient.",
        columns,
        rows,
        "Several sections of one patient and marker are averaged. Controls are not among the patients.",
    )


def tabulate_sections(sections: pd.DataFrame, fields: pd.DataFrame, confidence: float) -> Table | None:
    """Tabulate sections; None if there are none."""
    if sections.empty:
        return None
    columns = (
        Column("Section", False), Column("Status", False), Column("Fields"), Column("Fibers"),
        Column("Positive cells"), Column("Cells per fiber, mean ± SD"), Column(f"{100 * confidence:g} % CI"),
        Column("Pooled"), Column("Cells per mm²"), Column("Cut fibers / cells"), Column("Positive fibers"),
    )  # fmt: skip
    cut = _sum_straddling(fields)
    rows = (_list_section(at, row, cut) for at, row in enumerate(sections.to_dict("records"), 1))
    return make_table(
        "Sections.",
        columns,
        rows,
        "Fields: used / asked. Mean, SD and interval are over the section’s fields (the interval by "
        "bootstrap: sampling error between fields only). Pooled: all positive cells / all fibers. Per mm²: "
        "positive cells per mm² of tissue. Cut: straddling objects, those that a field’s edge cuts, counted "
        "or not. Positive fibers: DAB-positive fibers, reported apart, never counted as cells.",
    )


def _list_section(at: int, row: Row, cut: Mapping[str, tuple[float, float]]) -> tuple[str | Cell, ...]:
    fibers, cells = cut.get(str(row["section"]), (None, None))
    control = "" if is_absent(row["control"]) else f" ({row['control']} control)"
    return (
        Cell(f"{row['section']}{control}", href=f"#section-{at}"),
        Cell(format_text(row["status"]), state=str(row["status"])),
        f"{format_count(row['fields'])} / {format_count(row['fields_asked'])}",
        format_count(row["fibers"]), format_count(row["positive_cells"]),
        format_mean_sd(row["cells_per_fiber"], row["cells_per_fiber_sd"]),
        format_interval(row["ci_low"], row["ci_high"]), format_number(row["cells_per_fiber_pooled"]),
        format_number(row["positive_cells_per_mm2"], 1), f"{format_count(fibers)} / {format_count(cells)}",
        format_count(row["positive_fibers"]),
    )  # fmt: skip


def _sum_straddling(fields: pd.DataFrame) -> dict[str, tuple[float, float]]:
    fields = fields[fields["status"].eq("ok")]
    if fields.empty:
        return {}
    # A field without a count leaves the sum of the others; a section without any count has none.
    sums = fields.groupby("section")[["straddling_fibers", "straddling_cells"]].sum(min_count=1)
    return {str(section): (float(row.iloc[0]), float(row.iloc[1])) for section, row in sums.iterrows()}


def tabulate_rules(rules: pd.DataFrame) -> list[Table]:
    """Tabulate counting rules against the half-area rule, over the study and, if given, per section.

    Parameters
    ----------
    rules : DataFrame
        Columns rule, fibers, positive_cells, cells_per_fiber and optionally section.

    Returns
    -------
    list of Table
        Empty if `rules` is.
    """
    if rules.empty:
        return []
    total = rules.groupby("rule", sort=False).agg(
        {"fibers": "sum", "positive_cells": "sum", "cells_per_fiber": "mean"}
    )
    base = total["cells_per_fiber"].get("half_area")
    rows = (
        (_RULES.get(str(rule), str(rule)), format_count(row["fibers"]), format_count(row["positive_cells"]),
         format_number(row["cells_per_fiber"]),
         "reference" if rule == "half_area" else _tell_difference(row["cells_per_fiber"], base))
        for rule, row in total.iterrows()
    )  # fmt: skip
    columns = (
        Column("Rule", False), Column("Fibers"), Column("Positive cells"), Column("Cells per fiber"),
        Column("against half-area"),
    )  # fmt: skip
    remark = (
        "Cells per fiber: mean over sections."
        if "section" in rules
        else "Counts over all fields of the study."
    )
    tables = [make_table("The same fields counted by other rules.", columns, rows, remark)]
    return tables + ([_tabulate_section_rules(rules)] if "section" in rules else [])


def _tell_difference(value: Any, base: Any) -> str:
    if is_absent(value) or is_absent(base) or base == 0:
        return ABSENT
    percent = format_number(100 * (value / base - 1), 1)
    return f"{percent} %" if percent.startswith("−") else f"+{percent} %"


def _tabulate_section_rules(rules: pd.DataFrame) -> Table:
    names = [str(rule) for rule in rules["rule"].unique()]
    wide = rules.pivot_table(
        index="section", columns="rule", values="cells_per_fiber", sort=False, dropna=False
    )
    rows = (
        (str(section), *(format_number(row.get(name)) for name in names)) for section, row in wide.iterrows()
    )
    columns = (Column("Section", False), *(Column(name.replace("_", " ")) for name in names))
    return make_table("Cells per fiber of each section by rule.", columns, rows)


def tabulate_validations(
    validations: Mapping[str, pd.DataFrame], confidence: float, readers: bool = False
) -> Table | None:
    """Tabulate how the run agrees with other counts in its own fields; None if nobody has compared.

    Parameters
    ----------
    validations : mapping of str to DataFrame
        agreement.csv by the path of the page of its comparison.
    confidence : float
        Of limits and intervals.
    readers : bool, optional
        Whether these are comparisons of two readers instead.
    """
    ci = f"({100 * confidence:g} % CI)"
    columns = (
        Column("Compared" if readers else "Compared with", False), Column("Quantity", False),
        Column("Sections"), Column(f"Bias, % {ci}"), Column("Limits of agreement, %"),
        Column(f"ICC(2,1) {ci}"),
    )  # fmt: skip
    rows = [row for href, agreement in validations.items() for row in _list_agreement(href, agreement)]
    if not rows:
        return None
    what, side = ("Two blinded readers", "first − second") if readers else ("This run", "run − other")
    return make_table(
        f"{what}{'' if readers else ' against other counts'} in the same fields, by section.",
        columns,
        rows,
        f"Differences are {side}. This is measurement error; the intervals above are of sampling. "
        "“7 of 9”: a count of 0 has no ratio, so that per cent are of 7 sections, the ICC of 9.",
    )


def _tell_pairs(pairs: Any, ratios: Any) -> str:
    """Pairs that were compared, and of how many there is a ratio, where these are fewer."""
    return format_count(pairs) if ratios == pairs else f"{format_count(ratios)} of {format_count(pairs)}"


def _list_agreement(href: str, agreement: pd.DataFrame) -> Iterator[tuple[str | Cell, ...]]:
    own = agreement[agreement["level"].eq("section")]
    for (marker, quantity), rows in own.groupby(["marker", "quantity"], sort=False):
        found = rows.set_index("measure")
        bias, low, high = (found.loc[f"{part}_percent"] for part in ("bias", "limit_low", "limit_high"))
        what = str(quantity).replace("cells_per_fiber", "cells per fiber").replace("_", " ")
        yield (
            Cell(unquote(unquote(href.split("/")[-2])), href),  # once for the link, once for the disk
            what if is_absent(marker) else f"{marker}, {what}",
            _tell_pairs(found["n"].max(), bias["n"]),
            _format_estimate(bias, 1),
            format_interval(low["estimate"], high["estimate"], 1),
            _format_estimate(found.loc["icc"], 3),
        )


def _format_estimate(row: Any, decimals: int) -> str:
    text = format_number(row["estimate"], decimals)
    return (
        text
        if is_absent(row["ci_low"])
        else f"{text} ({format_interval(row['ci_low'], row['ci_high'], decimals)})"
    )
