"""The page of a set of blots."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from histoquant.blot.analyse import Blots
from histoquant.blot.measure import BlotSettings
from histoquant.blot.wedge import Wedge
from histoquant.report.article import Image, Part, build_article
from histoquant.report.build import encode_data
from histoquant.report.formats import format_count, format_interval, format_number, format_p, format_text
from histoquant.report.table import Column, Table, make_table

_LEGEND = (("measured", "rgb(60,140,60)"), ("saturated, or no band", "rgb(200,40,40)"))


def build_page(
    blots: Blots, settings: BlotSettings, loading: str, control: str, wedge: Wedge | None = None
) -> str:
    """Write the page: results, strips with their bands, every band, how it was measured."""
    facts = {
        "images": format_count(len(blots.overlays)),
        "bands": format_count(blots.bands["volume"].notna().sum()),
        "saturated": format_count(blots.bands["saturated"].astype(bool).sum()),
    }
    results = [_print_tests(blots.tests), _print_samples(blots.samples)]
    pictures = [
        Image(encode_data(picture), f"{name}: bands and lane numbers", _LEGEND)
        for name, picture in blots.overlays.items()
    ]
    parts = [
        Part("Results", texts=blots.notes, tables=[table for table in results if table.rows]),
        Part("Strips", pictures=pictures),
        Part("Bands", tables=[_print_bands(blots.bands)]),
        Part("How it was measured", points=_tell_method(settings, loading, control, wedge)),
    ]
    return build_article("histoquant: blots", "Band volumes, normalised and compared", facts, parts)


def _tell_signal(settings: BlotSettings, wedge: Wedge | None) -> str:
    if wedge is not None:
        return (
            f"optical density by {len(wedge.od)} steps of a wedge, "
            f"{wedge.od[0]:.2f} to {wedge.od[-1]:.2f} OD; "
            f"darker pixels count as saturated ({wedge.left_out} darker steps could hardly be told apart)"
        )
    unit = (
        "the share of full scale, bands bright"
        if settings.bright
        else "optical density, log10(white / value), white being the image's 99.5th percentile"
    )
    return f"{unit}; the scan must be linear in light"


def _tell_method(settings: BlotSettings, loading: str, control: str, wedge: Wedge | None) -> list[str]:
    ground = (
        "a straight line from the mean of 15 rows above the band to that of 15 rows below it"
        if settings.background == "linear"
        else "a rolling ball over the whole image"
    )
    return [
        f"Signal: {_tell_signal(settings, wedge)}.",
        f"Background: {ground}. Volume: the sum over the box of what lies above it.",
        "Saturated: over 1 % of the band's core is clipped, or its top is flat (width at 90 % of the height "
        "over 0.46 of that at 50 %). Its volume is a lower bound; it enters no sample.",
        *([] if wedge or settings.bright else [f"A peak above {settings.linear_od:g} OD is told, and kept."]),
        f"Normalised: volume / volume of {loading} in the same lane; a sample is the mean of its lanes.",
        f"Fold: normalised / mean of the samples of the group {control}.",
        "Groups: Mann-Whitney; n counts samples.",
    ]


def _print_tests(tests: pd.DataFrame) -> Table:
    columns = (
        *(Column("Protein", False), Column("Groups", False), Column("n"), Column("Mean fold")),
        *(Column("Shift of fold"), Column("95 % interval"), Column("P"), Column("P exact")),
        Column("Note", False),
    )
    return make_table("Fold by group.", columns, (_list_test(row) for row in tests.to_dict("records")))


def _list_test(row: dict[Hashable, Any]) -> tuple[str, ...]:
    return (
        str(row["protein"]),
        f"{row['group_2']} against {row['group']}",
        f"{row['n_2']} and {row['n']}",
        f"{format_number(row['mean_2'], 2)} and {format_number(row['mean'], 2)}",
        format_number(row["estimate"], 2),
        format_interval(row["ci_low"], row["ci_high"], 2),
        format_p(row["p"]),
        format_p(row["p_exact"]),
        format_text(row["note"]),
    )


def _print_samples(samples: pd.DataFrame) -> Table:
    columns = (
        *(Column("Protein", False), Column("Sample", False), Column("Group", False), Column("Lanes")),
        *(Column("Normalised"), Column("Fold"), Column("Note", False)),
    )
    rows = (
        (
            *(str(row["protein"]), format_text(row["sample"]), format_text(row["group"])),
            *(format_count(row["lanes"]), format_number(row["normalised"]), format_number(row["fold"], 2)),
            format_text(row["note"]),
        )
        for row in samples.to_dict("records")
    )
    return make_table("Every sample.", columns, rows)


def _print_bands(bands: pd.DataFrame) -> Table:
    columns = (
        *(Column("Image", False), Column("Lane"), Column("Protein", False), Column("Sample", False)),
        *(Column("Volume"), Column("Peak"), Column("Background"), Column("Note", False)),
    )
    rows = (
        (
            *(str(row["image"]), str(row["lane"]), format_text(row["protein"]), format_text(row["sample"])),
            *(format_number(row["volume"], 1), format_number(row["peak"]), format_number(row["background"])),
            format_text(row["reason"]),
        )
        for row in bands.to_dict("records")
    )
    return make_table(
        "Every band; volume in OD x px (bright bands: share of full scale x px).", columns, rows
    )
