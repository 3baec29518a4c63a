"""Tables of a cohort as papers print them, and as HTML that a word processor takes and as LaTeX."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from histoquant.cohort.logistic import FIRTH, ML
from histoquant.report.formats import (
    ABSENT,
    format_count,
    format_interval,
    format_mean_sd,
    format_number,
    format_p,
    format_text,
    is_absent,
)
from histoquant.report.table import Cell, Column, Table, make_table

Record = Mapping[Hashable, Any]

EFFECTS = {
    "difference_of_shares": "Δ",
    "probability_of_superiority": "PS",
    "cramers_v": "V",
    "epsilon_squared": "ε²",
}
_GROUPS_REMARK = (
    "Counts with per cent of the patients with a value; {summary}. Chi-square is Pearson's without Yates' "
    "correction, Mann-Whitney asymptotic without continuity correction. Exact: Fisher's test, where an "
    "expected count is below 5, or all splits. Effect: Δ difference of shares, second less first group, in "
    "points (Newcombe); PS probability that a patient of the second group has the larger value (Newcombe's "
    "method 5); V Cramér's; ε² of Kruskal-Wallis. Holm and FDR adjust P for all variables of the table."
)
_LOGISTIC_REMARK = (
    "Odds ratios per unit of a number, of yes against no, or of a level against the first. Maximum "
    "likelihood with Wald's interval and P; beside it Firth's penalised likelihood with profile interval and "
    "ratio P, to be taken where the data separate. Variables enter the multivariate model by P of the "
    "likelihood ratio below {enter:g}."
)
_LATEX = {
    **{"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_"},
    **{"$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$"},
    **{"±": r"$\pm$", "−": r"$-$", "–": "--", "Δ": r"$\Delta$", "ε": r"$\varepsilon$", "²": r"$^2$"},
    **{"ρ": r"$\rho$", "∞": r"$\infty$", "χ": r"$\chi$", "\u202f": r"\,", "µ": r"$\mu$", "×": r"$\times$"},
}

_PAGE_ROWS = 40
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def print_groups(
    caption: str, summaries: pd.DataFrame, tests: pd.DataFrame, sizes: Mapping[str, int], mean: bool
) -> Table:
    """Print variables by group.

    Parameters
    ----------
    caption : str
        Of the table.
    summaries, tests : DataFrame
        What `describe_variables` and `compare_variables` made.
    sizes : mapping of str to int
        Patients of each group, in order.
    mean : bool
        Numbers as mean ± SD, otherwise as median and quartiles.

    Returns
    -------
    Table
    """
    columns = (
        Column("Variable", False),
        *(Column(f"{name} (n = {n})") for name, n in sizes.items()),
        *(Column("P"), Column("Exact P"), Column("Effect (95 % CI)"), Column("Holm"), Column("FDR")),
        Column("Note", False),
    )
    rows: list[list[str]] = []
    tested = {row["variable"]: row for row in tests.to_dict("records")}
    for name, own in summaries.groupby("variable", sort=False):
        result = _print_test(tested[name])
        levels = {
            str(level): {str(row["group"]): row for row in part.to_dict("records")}
            for level, part in own.groupby("level", sort=False)
        }
        kind = own["kind"].iloc[0]
        if kind == "category":
            rows.append([str(name), *([""] * len(sizes)), *result])
            result = [""] * len(result)
        shown = {str(name): levels["yes"]} if kind == "flag" else levels
        for level, part in shown.items():
            label = str(name) if kind != "category" else f"– {level}"
            rows.append([label, *(_print_cell(part[one], mean) for one in sizes), *result])
    summary = "numbers as mean ± SD" if mean else "numbers as median (quartiles)"
    return make_table(caption, columns, rows, _GROUPS_REMARK.format(summary=summary))


def print_logistic(caption: str, rows: pd.DataFrame, enter: float) -> Table:
    """Print logistic regressions of one kind of model.

    Parameters
    ----------
    caption : str
        Of the table.
    rows : DataFrame
        Rows of one model of what `regress_outcome` made.
    enter : float
        P below which variables enter the multivariate model.

    Returns
    -------
    Table
    """
    columns = (
        *(Column("Variable", False), Column("n (events)"), Column("OR (95 % CI)"), Column("P")),
        *(Column("Firth OR (95 % CI)"), Column("Firth P"), Column("P to enter"), Column("VIF")),
        Column("Note", False),
    )
    lines = []
    for (variable, term), own in rows.assign(
        term=rows["term"].astype(object).where(rows["term"].notna(), "")
    ).groupby(["variable", "term"], sort=False):
        found = {str(row["method"]): row for row in own.to_dict("records")}
        first = next(iter(found.values()))
        blank: Record = {}
        ordinary, firth = found.get(ML, blank), found.get(FIRTH, blank)
        lines.append(
            [
                str(term or variable or "all"),
                f"{format_count(first['n'])} ({format_count(first['events'])})",
                *(text for one in (ordinary, firth) for text in (print_odds(one), format_p(one.get("p")))),
                format_p(first.get("p_variable")),
                format_number(first.get("vif"), 1),
                format_text(firth.get("note", first["note"])),
            ]
        )
    return make_table(caption, columns, lines, _LOGISTIC_REMARK.format(enter=enter))


def print_outcomes(outcomes: pd.DataFrame) -> Table:
    """Print the outcome of every patient and what decided it."""
    columns = (
        *(Column("Patient", False), Column("Outcome", False), Column("Rule", False), Column("Visits")),
        *(Column("Last day"), Column("Day of 12 months"), Column("mRS"), Column("Relapse", False)),
        Column("Left open", False),
    )
    rows = (
        (
            *(row["patient"], Cell(row["outcome"], state="incomplete" if row["open"] else ""), row["rule"]),
            *(format_count(row[name]) for name in ("visits", "last_day", "day_12_months", "mrs_12_months")),
            row["relapse"] + (f", day {row['relapse_day']:.0f}" if row["relapse"] == "yes" else ""),
            format_text(row["open"]),
        )
        for row in outcomes.to_dict("records")
    )
    return make_table("Outcome of every patient.", columns, rows)


def print_markers(statistics: pd.DataFrame, summaries: pd.DataFrame) -> Table:
    """Print markers by outcome, as Table 4 of the study, from `Markers.statistics` and `.summaries`."""
    columns = (
        *(Column("Marker", False), Column("Group", False), Column("n"), Column("Mean ± SD")),
        *(Column("Median (quartiles)"), Column("P"), Column("Exact P"), Column("Shift (95 % CI)")),
        Column("Note", False),
    )
    lines: list[list[str]] = []
    tests = statistics[statistics["analysis"].eq("group")]
    for marker, own in summaries.groupby("variable", sort=False):
        test = next(iter(tests[tests["marker"].eq(marker)].to_dict("records")), {})
        shift = f"{format_number(test.get('estimate'))} ({_bounds(test, 3)})"
        result = [
            format_p(test.get("p")),
            format_p(test.get("p_exact")),
            shift,
            format_text(test.get("note")),
        ]
        if is_absent(test.get("estimate")):
            result[2] = ABSENT
        for at, row in enumerate(own.to_dict("records")):
            lines.append(
                [
                    *(str(marker) if not at else "", str(row["group"]), format_count(row["n"])),
                    format_mean_sd(row["mean"], row["sd"]),
                    f"{format_number(row['median'])} ({_bounds(row, 3, 'q1', 'q3')})" if row["n"] else ABSENT,
                    *(result if not at else [""] * len(result)),
                ]
            )
    remark = (
        "Positive cells per fiber, one value per patient. Shift: Hodges-Lehmann, second less first group."
    )
    return make_table("Markers by outcome.", columns, lines, remark)


def print_correlations(statistics: pd.DataFrame) -> Table:
    """Print Spearman's rho of every pair of markers."""
    columns = (
        *(Column("Markers", False), Column("n"), Column("ρ (95 % CI)"), Column("P"), Column("Exact P")),
        Column("Note", False),
    )
    rows = (
        (
            f"{row['marker']} and {row['marker_2']}",
            format_count(row["n"]),
            f"{format_number(row['estimate'])} ({_bounds(row, 3)})"
            if row["estimate"] == row["estimate"]
            else ABSENT,
            *(format_p(row["p"]), format_p(row["p_exact"]), format_text(row["note"])),
        )
        for row in statistics[statistics["analysis"].eq("correlation")].to_dict("records")
    )
    return make_table("Correlation of markers over patients (Spearman).", columns, rows)


def print_places(places: pd.DataFrame) -> Table:
    """Print where the counted positive cells sit, by marker and outcome."""
    names = list(dict.fromkeys(places["place"]))
    columns = (
        *(Column("Marker", False), Column("Group", False), Column("Positive cells")),
        *(Column(f"{name}, %") for name in names),
    )
    rows = []
    for (marker, group), own in places.groupby(["marker", "group"], sort=True):
        share = own.set_index("place")["percent"].reindex(names).fillna(0.0)
        cells = format_count(own["cells"].sum())
        rows.append((str(marker), str(group), cells, *(format_number(value, 1) for value in share)))
    remark = "Cells, not patients, are counted here: a patient with many cells weighs more."
    return make_table("Where the counted positive cells sit.", columns, rows, remark)


def write_html(tables: Sequence[Table]) -> str:
    """Write tables as a page that a word processor takes: style in every cell, lines above and below.

    A table longer than a page repeats its head there, and breaks between rows only.

    Parameters
    ----------
    tables : sequence of Table
        In order.

    Returns
    -------
    str
        HTML.
    """
    parts = [
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Tables</title></head>\n'
        "<body style=\"font-family:'Times New Roman',serif;font-size:10pt\">"
    ]
    thick, thin, pad = "1.5pt solid black", "0.75pt solid black", "padding:2pt 6pt"
    for table in tables:
        last = len(table.rows) - 1
        line = f"border-top:{thick};border-bottom:{thin};{pad}"
        head = _row((column.title for column in table.columns), table, line, "th")
        body = [
            _row(
                (cell.text for cell in row),
                table,
                pad + (f";border-bottom:{thick}" if at == last else ""),
                "td",
            )
            for at, row in enumerate(table.rows)
        ]
        parts.append(
            f'<p style="margin:12pt 0 3pt 0"><b>{escape(table.caption)}</b></p>\n'
            '<table cellspacing="0" cellpadding="4" style="border-collapse:collapse;font-size:9pt">\n'
            f"<thead>{head}</thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>"
        )
        if table.remark:
            parts.append(f'<p style="font-size:8pt;margin:3pt 0 12pt 0">{escape(table.remark)}</p>')
    return "\n".join([*parts, "</body></html>\n"])


def write_latex(table: Table, label: str) -> str:
    r"""Write a table for LaTeX with booktabs, shrunk to the width of the text; other scripts want xelatex.

    A table of more than 40 rows becomes several floats under one number, since a float must fit a page.

    Parameters
    ----------
    table : Table
        The table.
    label : str
        After `tab:`.

    Returns
    -------
    str

    Examples
    --------
    >>> table = make_table("A & B", [Column("Name", False), Column("P")], [["x_1", "< 0.001"]])
    >>> print(write_latex(table, "a").splitlines()[9])
    x\_1 & $<$ 0.001 \\
    """
    texts = [column.title for column in table.columns] + [cell.text for row in table.rows for cell in row]
    wide = any("\u2e80" <= letter < "\ufb00" for letter in "".join(texts))
    parts = _split_rows(table.rows)
    lines = ["% \\usepackage{booktabs,graphicx}" + (", \\usepackage{xeCJK}; made by xelatex" if wide else "")]
    for at, rows in enumerate(parts):
        lines += _write_float(table, rows, label if at == 0 else "", at == len(parts) - 1)
    return "\n".join(lines) + "\n"


def _split_rows(rows: Sequence[tuple[Cell, ...]]) -> list[Sequence[tuple[Cell, ...]]]:
    """Rows page by page; a row that belongs to the one above (no name, or a level) begins none."""
    starts = [at for at, row in enumerate(rows) if row[0].text and not row[0].text.startswith("– ")]
    cuts = [0]
    while len(rows) - cuts[-1] > _PAGE_ROWS:
        end = cuts[-1] + _PAGE_ROWS
        cuts.append(max((at for at in starts if cuts[-1] < at <= end), default=end))
    return [rows[start:end] for start, end in pairwise([*cuts, len(rows)])]


def _write_float(table: Table, rows: Sequence[tuple[Cell, ...]], label: str, last: bool) -> list[str]:
    """One float of a table; without a label it continues the one before under its number."""
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    caption = escape_latex(table.caption)
    remark = table.remark if last else ""
    return [
        "\\begin{table}",
        *([] if label else ["\\addtocounter{table}{-1}"]),
        f"\\caption{{{caption}}}" if label else f"\\caption[]{{{caption} (continued)}}",
        *([f"\\label{{tab:{label}}}"] if label else []),
        *("\\footnotesize\\setlength{\\tabcolsep}{3pt}%", _FIT),
        *(f"\\begin{{tabular}}{{{align}}}", "\\toprule"),
        " & ".join(escape_latex(column.title) for column in table.columns) + " \\\\ \\midrule",
        *(" & ".join(escape_latex(cell.text) for cell in row) + " \\\\" for row in rows),
        *("\\bottomrule", "\\end{tabular}}"),
        *([f"\\par\\footnotesize {escape_latex(remark)}"] if remark else []),
        "\\end{table}",
    ]


def escape_latex(text: str) -> str:
    """Escape what LaTeX reads otherwise."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def tabulate(table: Table) -> pd.DataFrame:
    """Turn a printed table into one for a CSV file, an en dash meaning not available."""
    rows = [["" if cell.text == ABSENT else cell.text for cell in row] for row in table.rows]
    return pd.DataFrame(rows, columns=[column.title for column in table.columns])


def _row(texts: Iterable[str], table: Table, style: str, tag: str) -> str:
    cells = (
        f'<{tag} style="{style};text-align:{"right" if column.numeric else "left"}">{escape(text)}</{tag}>'
        for text, column in zip(texts, table.columns, strict=True)
    )
    return '<tr style="page-break-inside:avoid">' + "".join(cells) + "</tr>"


def _print_cell(row: Record, mean: bool) -> str:
    """One group's cell: count and per cent, or mean and SD, or median and quartiles; n where values lack."""
    if not row["n"]:
        return ABSENT
    if row["kind"] != "number":
        of = f"/{format_count(row['n'])}" if row["missing"] else ""
        return f"{format_count(row['count'])}{of} ({format_number(row['percent'], 1)} %)"
    digits = choose_decimals(row["mean"] if mean else row["median"], row["sd"])
    lost = f", n = {format_count(row['n'])}" if row["missing"] else ""
    if mean:
        return format_mean_sd(row["mean"], row["sd"], digits) + lost
    return f"{format_number(row['median'], digits)} ({_bounds(row, digits, 'q1', 'q3')}){lost}"


def choose_decimals(value: float, spread: float) -> int:
    """Choose decimals so that a number shows about three digits.

    Examples
    --------
    >>> choose_decimals(5210.3, 900.0), choose_decimals(52.1, 9.0), choose_decimals(0.06, 0.03)
    (0, 1, 3)
    """
    size = max(abs(value), 0.0 if np.isnan(spread) else spread)
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def _print_test(row: Record) -> list[str]:
    name = EFFECTS.get(str(row["effect_name"]), "")
    scale, digits = (100, 1) if name == "Δ" else (1, 3)
    effect = ABSENT
    if name:
        value, low, high = (row[part] * scale for part in ("effect", "ci_low", "ci_high"))
        effect = f"{name} {format_number(value, digits)} ({format_interval(low, high, digits)})"
    numbers = (
        format_p(row["p"]),
        format_p(row["p_exact"]),
        effect,
        format_p(row["p_holm"]),
        format_p(row["p_fdr"]),
    )
    return [*numbers, format_text(row["note"])]


def print_odds(row: Record) -> str:
    """Print an odds ratio with its interval."""
    if is_absent(row.get("odds_ratio")):
        return ABSENT
    numbers = [float(row[name]) for name in ("odds_ratio", "ci_low", "ci_high")]
    # Per unit of a large number a ratio lies near 1, and its digits further right.
    near = all(abs(value - 1) < 0.1 for value in numbers)
    texts = [_print_ratio(value, 4 if near else 2) for value in numbers]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def _print_ratio(value: float, digits: int) -> str:
    """A ratio with fixed decimals; a huge or tiny one as a power of ten."""
    if np.isfinite(value) and (value >= 1e5 or value < 0.005):
        power = int(np.floor(np.log10(value))) if value else 0
        return f"{value / 10.0**power:.1f} × 10^{format_count(power)}"
    return format_number(value, digits)


def _bounds(row: Record, digits: int, low: str = "ci_low", high: str = "ci_high") -> str:
    return format_interval(row[low], row[high], digits)
