"""The page of a study of serial sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure as Canvas

from histoquant.protocol import Protocol
from histoquant.report import plots
from histoquant.report.article import Figure, Part, build_article
from histoquant.report.formats import format_count, format_interval, format_number, format_p
from histoquant.report.table import Cell, Column, Table, make_table
from histoquant.serial.blocks import Block
from histoquant.serial.compare import Comparison, Measured, tell_limit
from histoquant.serial.gallery import show_block
from histoquant.serial.nulls import Envelope

_CELL_UM = 8.0
_KINDS = {
    "cross_pairs_shuffled": "markers shuffled between places",
    "cross_pairs_in_spaces": "sites moved, in the spaces between fibers",
}
_NAMES = {
    "density_spearman": "Spearman, smoothed densities",
    "manders_1": "Manders, first in second",
    "manders_2": "Manders, second in first",
    "field_rho": "Fields, within patients",
}
_HOW = (
    "Sections are registered to the one with most tissue, from overviews of 4 um/px: every turn and both "
    "sides up are tried, an affine map fitted to blocks of tissue that agree, then a smooth bend. The "
    "error is the distance at which blocks that were held back are found.",
    "Overlap is the correlation of the densities of positive cells of two markers, averaged over discs "
    "of a radius, with the noise of few cells taken out: pairs of cells of both markers, beyond what is "
    "expected of them, by the geometric mean of the pairs of each. 1: the same sites; 0: independent. "
    "With few cells an estimate may lie beyond 1. What is expected comes from other places of the "
    "biopsy, and follows the spaces between fibers: how dense cells of each marker are so far from the "
    "nearest fiber. Were ground even: the same with all ground alike, which tells independent markers "
    "on rendered tissue to overlap by 0.1.",
    "Two kinds of chance; in both each marker keeps its own sites. Markers shuffled between places: the "
    "cells of the second marker are moved as they are; what both share because all cells lie between "
    "fibers counts as overlap. Sites moved, in the spaces between fibers: cells are put where the new "
    "place has space for them; what is then left goes beyond these spaces. On rendered tissue with "
    "fibers known, P by it fell below 0.05 for 6 % of single biopsies with independent markers and for "
    "2 of 45 sets of eight. Where many fibers are missed, do not read an overlap of 0.1 or less as "
    "shared sites.",
    "Spearman and Manders of smoothed densities fall short of the overlap of the densities themselves, "
    "the more so the fewer cells there are.",
    "Intervals: jackknife over blocks if there are six or more, else over places; then they hold for "
    "these biopsies only.",
)


def build_page(
    blocks: Sequence[Block],
    left_out: Mapping[str, str],
    registrations: pd.DataFrame,
    comparisons: Sequence[Comparison],
    measured: Mapping[str, Measured],
    protocol: Protocol,
) -> str:
    """Write the page: what was found first, then against which chance, then how well places are known.

    Parameters
    ----------
    blocks : sequence of Block
        Registered; a section that could not be is named with its reason.
    left_out : mapping of str to str
        Sections in no block, with the reason.
    registrations : DataFrame
        See `tabulate_registrations`.
    comparisons : sequence of Comparison
        Of markers.
    measured : mapping of str to Measured
        By section.
    protocol : Protocol
        Of tissue.

    Returns
    -------
    str
        HTML, complete in itself: pictures and plots are inside.
    """
    lost = registrations["registered"].eq("no")
    told = tell_comparisons(comparisons)
    parts = [
        Part(
            "Overlap", state=told[0], points=told[1:], tables=[_tabulate_overlap(one) for one in comparisons]
        ),
        *([Part("Against chance", figures=figures)] if (figures := _plot_all(comparisons)) else []),
        *(
            [Part("Other measures", tables=[_tabulate_others(one) for one in comparisons])]
            if any(one.envelopes for one in comparisons)
            else []
        ),
        Part(
            "Registration",
            state=_tell_registrations(registrations),
            bad=bool(lost.any()),
            points=[f"{name}: left out: {reason}." for name, reason in left_out.items()],
            tables=[_tabulate_registrations(registrations)],
        ),
        *(
            Part(f"Block {block.title}", texts=[text], pictures=pictures)
            for block in blocks
            for text, pictures in [show_block(block, measured, protocol)]
        ),
        Part("How it was computed", points=_HOW),
    ]
    draws = sorted({one.draw for one in measured.values()}) or ["nothing measured"]
    facts = {"blocks": format_count(len(blocks)), "draw of fields": " and ".join(draws)}
    return build_article("histoquant: serial sections", "The same places under several markers", facts, parts)


def tell_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """Tell in sentences what was found, and what cannot be decided.

    Parameters
    ----------
    comparisons : sequence of Comparison
        Of markers.

    Returns
    -------
    list of str
        Two per pair of markers, one if nothing can be said; one in all if no two markers were compared.
    """
    told = []
    for one in comparisons:
        pair = " and ".join(one.markers)
        row = _choose_row(one)
        if row is None:
            told.append(f"{pair}: nothing can be said: {one.rows[0]['note'] if one.rows else 'no places'}.")
            continue
        test = one.envelopes["cross_pairs_in_spaces"]
        interval = format_interval(row["ci_low"], row["ci_high"], 2)
        value = "not to be estimated" if np.isnan(row["estimate"]) else f"{row['estimate']:.2f} ({interval})"
        told.append(
            f"{pair}: overlap within {row['scale_um']:g} um {value}, beyond what the spaces between fibers "
            f"make expect; P against sites moved in these spaces {format_p(test.p)}; {row['cells']} and "
            f"{row['cells_2']} cells in {row['windows']} places of {row['blocks']} "
            f"{'biopsy' if row['blocks'] == 1 else 'biopsies'}."
        )
        told.append(_tell_undecidable(one))
    return told or ["No two markers were measured on registered sections."]


def _tell_undecidable(one: Comparison) -> str:
    limit = tell_limit(one.error_um)
    return (
        f"{' and '.join(one.markers)}: places are known to {one.error_um:.0f} um (median), so that nothing "
        f"is decided about what lies within {limit:.0f} um. Whether one and the same cell bears both markers "
        f"is not decided: a lymphocyte is about {_CELL_UM:g} um wide, "
        + (
            "less than the error"
            if one.error_um > _CELL_UM / 2
            else "and sections 4 um thick or more hold different parts of it, or another cell"
        )
        + "."
    )


def _choose_row(one: Comparison) -> dict[str, Any] | None:
    """The overlap at the first decidable radius of 50 um or more."""
    rows = [row for row in one.rows if row["measure"] == "overlap" and row["scale_um"] is not None]
    sure = [row for row in rows if row["decidable"] and row["scale_um"] >= 50]
    return sure[0] if sure else None


def _tabulate_overlap(one: Comparison) -> Table:
    rows = []
    even = {r["scale_um"]: r["estimate"] for r in one.rows if r["measure"] == "overlap_on_even_ground"}
    for row in one.rows:
        if row["measure"] != "overlap" or row["scale_um"] is None:
            continue
        shown = (format_number(row["estimate"], 2), format_interval(row["ci_low"], row["ci_high"], 2))
        plain = format_number(even[row["scale_um"]], 2)
        rows.append((f"{row['scale_um']:g}", *shown, plain, row["note"] or "–"))
    columns = (
        *(Column("Within, um"), Column("Overlap"), Column("Interval"), Column("Were ground even")),
        Column("Note", False),
    )
    return make_table(f"Overlap of {' and '.join(one.markers)}.", columns, rows)


def _tabulate_others(one: Comparison) -> Table:
    rows = []
    for row in one.rows:
        if row["measure"] not in _NAMES:
            continue
        scale = "–" if row["scale_um"] is None else f"{row['scale_um']:g}"
        rows.append(
            (
                _NAMES[row["measure"]],
                scale,
                format_number(row["estimate"], 2),
                format_interval(row["ci_low"], row["ci_high"], 2),
                format_number(row["chance_low"], 2),
            )
        )
    columns = (
        *(Column("Measure", False), Column("Scale, um"), Column("Value"), Column("Interval")),
        Column("By chance"),
    )
    return make_table(f"{' and '.join(one.markers)}: other measures.", columns, rows)


def _tell_registrations(table: pd.DataFrame) -> str:
    others = table[table["section"] != table["reference"]]
    done = others[others["registered"].eq("yes")]
    lost = others[others["registered"].eq("no")]
    text = f"{len(done)} of {len(others)} sections registered"
    if len(done):
        text += f", median error {done['error_um'].median():.0f} um"
    return text + (f"; not registrable: {', '.join(lost['section'])}." if len(lost) else ".")


def _tabulate_registrations(table: pd.DataFrame) -> Table:
    rows = []
    for row in table.to_dict("records"):
        own = row["section"] == row["reference"]
        state = "ok" if row["registered"] == "yes" else "failed"
        numbers = (
            ("–",) * 5
            if own or state == "failed"
            else (
                row["flipped"],
                format_number(row["angle_deg"], 0),
                format_number(row["error_um"], 1),
                format_number(row["error_90_um"], 1),
                f"{row['found_share']:.0%} of {row['places']}",
            )
        )
        said = "reference" if own else "registered" if state == "ok" else "not registrable"
        rows.append(
            (row["section"], Cell(said, state=state), *numbers, row["draw"] or "–", row["reason"] or "–")
        )
    columns = (
        *(Column("Section", False), Column("State", False), Column("Flipped", False), Column("Turn, °")),
        *(Column("Error, um"), Column("90 %, um"), Column("Held back and found")),
        *(Column("Fields", False), Column("Note", False)),
    )
    return make_table("Sections and their errors on blocks of tissue that were held back.", columns, rows)


def _plot_all(comparisons: Sequence[Comparison]) -> list[Figure]:
    figures = []
    for one in comparisons:
        for name, envelope in one.envelopes.items():
            if np.isnan(envelope.p):
                continue
            pair = " and ".join(one.markers)
            caption = (
                f"{pair}: {_KINDS[name]}; P {format_p(envelope.p)}. Band: 95 % global envelope of chance."
            )
            figures.append(Figure(Markup(plot_envelope(envelope, f"{pair}, {_KINDS[name]}")), caption))
    return figures


def plot_envelope(envelope: Envelope, label: str) -> str:
    """Plot pairs by those of chance over the radius.

    Parameters
    ----------
    envelope : Envelope
        Of two markers.
    label : str
        Title for readers that do not see the picture.

    Returns
    -------
    str
        An `<svg>` element.
    """
    with mpl.rc_context(plots._SETTINGS):
        figure = Canvas(figsize=(3.6, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(envelope.radii_um, envelope.low, envelope.high, color="#BBBBBB", linewidth=0)
        axes.axhline(1, color="#555555", linewidth=0.8)
        axes.plot(envelope.radii_um, envelope.ratio, color="#0072B2", marker="o", markersize=3.5)
        axes.set_xlabel("Radius, µm")
        axes.set_ylabel("Pairs, by those of chance")
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        return plots._to_svg(figure, {}, label)
