# This module touches files: it reads stored objects of a run.
"""Compare the positive cells of markers on the sections of blocks, from what a run has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoquant.fields import spawn_generator
from histoquant.geometry import Field
from histoquant.objects import select_countable
from histoquant.protocol import Protocol
from histoquant.results import read_json, read_labels, read_objects, read_record
from histoquant.serial.blocks import Block
from histoquant.serial.density import SCALES_UM, correlate_fields, smooth_windows
from histoquant.serial.intervals import choose_units
from histoquant.serial.nulls import Envelope, move_sites, shuffle_markers
from histoquant.serial.overlap import RADII_UM, count_pairs, estimate_overlap
from histoquant.serial.spaces import FINE_UM, Spaces, class_ground
from histoquant.serial.windows import Window, list_windows
from histoquant.study import Section

COLUMNS = (
    *(
        "marker",
        "marker_2",
        "measure",
        "scale_um",
        "estimate",
        "ci_low",
        "ci_high",
        "chance_low",
        "chance_high",
    ),
    *("p", "decidable", "windows", "blocks", "area_mm2", "cells", "cells_2", "error_um", "note"),
)
# Median of a Rayleigh distance by its standard deviation, and the radius that holds nine tenths of it.
_MEDIAN, _NINE_TENTHS = 1.1774, 2.1460


@dataclass(frozen=True)
class Measured:
    """What a run has stored of a section.

    Attributes
    ----------
    fields : tuple of Field
        With status `ok`.
    cells : DataFrame
        field, x_um, y_um, positive of every cell that may count.
    draw : str
        `matched` or `independent`.
    grounds : mapping of int to Spaces
        By field, of those whose fibers are stored: how far ground lies from them.
    """

    fields: tuple[Field, ...]
    cells: pd.DataFrame
    draw: str
    grounds: Mapping[int, Spaces] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Two markers compared.

    Attributes
    ----------
    markers : pair of str
    windows : tuple of Window
        Places measured on sections of both.
    error_um : float
        Typical error of their places against one another; nan without windows.
    rows : list of dict
        `COLUMNS`.
    envelopes : dict of str to Envelope
        By kind of chance.
    """

    markers: tuple[str, str]
    windows: tuple[Window, ...]
    error_um: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    envelopes: dict[str, Envelope] = field(default_factory=dict)


def read_measured(run: Path, section: Section, protocol: Protocol) -> Measured | None:
    """Read what a run has stored of a section; None if nothing was measured."""
    folder = run / "sections" / section.folder
    record = read_record(folder)
    if record is None or not (folder / "objects.parquet").is_file():
        return None
    names = ("center_x_um", "center_y_um", "width_um", "height_um")
    fields = tuple(
        Field(int(row["field"]), row["shape"], *(float(row[name]) for name in names))
        for row in record["fields"]
        if row["status"] in ("ok", "no_fibers")
    )
    objects = read_objects(folder / "objects.parquet")
    cells = objects[objects["kind"].eq("cell") & select_countable(objects, protocol.markers[section.marker])]
    receipt = read_json(folder / "receipt.json") or {}
    kept = cells[["field", "x_um", "y_um", "positive"]].reset_index(drop=True)
    grounds = {one.number: found for one in fields if (found := _read_spaces(folder, one)) is not None}
    return Measured(fields, kept, str(receipt.get("draw", "independent")), grounds)


def _read_spaces(folder: Path, one: Field) -> Spaces | None:
    """Class the ground of a field by its stored fibers, a pixel per um; None without fibers."""
    path = folder / "fields" / f"{one.number}_fibers.tif"
    if not path.is_file():
        return None
    stored = read_labels(path)
    if not stored.labels.any():
        return None
    # Every other pixel or so: windows do not look closer.
    step = max(int(FINE_UM / stored.mpp), 1)
    classes = class_ground(stored.labels, stored.mpp)[step // 2 :: step, step // 2 :: step]
    shift = (step // 2 - (step - 1) / 2) * stored.mpp
    return Spaces(classes.copy(), stored.x_um + shift, stored.y_um + shift, stored.mpp * step)


def compare_markers(
    blocks: Sequence[Block], measured: Mapping[str, Measured], seed: int, confidence: float = 0.95
) -> list[Comparison]:
    """Compare every pair of markers over all blocks.

    Parameters
    ----------
    blocks : sequence of Block
        Registered.
    measured : mapping of str to Measured
        By section.
    seed : int
        Of the draws of chance.
    confidence : float, optional
        Of the intervals.

    Returns
    -------
    list of Comparison
        By markers, sorted.
    """
    names = sorted({s.marker for block in blocks for s in block.registered if s.id in measured})
    found = []
    for pair in combinations(names, 2):
        windows, errors = _gather(blocks, measured, pair)
        error_um = float(np.average(errors, weights=[w.area_um2 for w in windows])) if windows else np.nan
        comparison = Comparison(pair, tuple(windows), error_um)
        if len(windows) >= 3:
            rng = spawn_generator(seed, f"serial {pair[0]} {pair[1]}")
            _compare(comparison, rng, confidence)
        else:
            row = _begin(comparison)
            note = "fewer than three places of 0.02 mm2 were measured on both markers"
            comparison.rows.append({**row, "measure": "overlap", "decidable": False, "note": note})
        found.append(comparison)
    return found


def tell_limit(error_um: float) -> float:
    """Radius below which an error of registration hides what lies together, um.

    Of places that are displaced by a normal error with this median length, a tenth lies further away.

    Examples
    --------
    >>> round(tell_limit(10.0), 1)
    18.2
    """
    return error_um / _MEDIAN * _NINE_TENTHS


def _gather(
    blocks: Sequence[Block], measured: Mapping[str, Measured], pair: tuple[str, str]
) -> tuple[list[Window], list[float]]:
    windows: list[Window] = []
    errors: list[float] = []
    for block in blocks:
        known = [section for section in block.registered if section.id in measured]
        for first in (s for s in known if s.marker == pair[0]):
            for second in (s for s in known if s.marker == pair[1]):
                own = [block.registrations[s.id] for s in (first, second)]
                assert own[0].transform is not None and own[1].transform is not None
                one, two = measured[first.id], measured[second.id]
                new = list_windows(
                    block.title,
                    (one.fields, two.fields),
                    (one.cells, two.cells),
                    (own[0].transform, own[1].transform),
                    (one.grounds, two.grounds),
                )
                windows += new
                errors += [float(np.hypot(own[0].error_um, own[1].error_um))] * len(new)
    return windows, errors


def _begin(comparison: Comparison) -> dict[str, Any]:
    windows = comparison.windows
    return {
        **dict.fromkeys(COLUMNS),
        "marker": comparison.markers[0],
        "marker_2": comparison.markers[1],
        "windows": len(windows),
        "blocks": len({window.block for window in windows}),
        "area_mm2": sum(window.area_um2 for window in windows) / 1e6,
        "cells": sum(int(window.first_positive.sum()) for window in windows),
        "cells_2": sum(int(window.second_positive.sum()) for window in windows),
        "error_um": comparison.error_um,
        "decidable": True,
        "note": "",
    }


def _compare(comparison: Comparison, rng: np.random.Generator, confidence: float) -> None:
    """Fill a comparison with rows and envelopes."""
    windows, rows, begin = comparison.windows, comparison.rows, _begin(comparison)
    units = choose_units([window.block for window in windows])
    limit = tell_limit(comparison.error_um)
    overlap = estimate_overlap(count_pairs(windows), units, confidence)
    even = estimate_overlap(count_pairs(windows, even=True), units, confidence)
    kinds = {"cross_pairs_shuffled": shuffle_markers(windows, rng)}
    kinds["cross_pairs_in_spaces"] = move_sites(windows, rng)
    comparison.envelopes.update(kinds)
    unknown = sum(window.spaces is None for window in windows)
    for at, radius in enumerate(RADII_UM):
        sure = bool(radius >= limit)
        about = {**begin, "scale_um": radius, "decidable": sure}
        note = "" if sure else f"the error of registration hides what lies within {limit:.0f} um"
        alike = f"all ground counts alike in {unknown} places: their fibers are not stored" if unknown else ""
        for name, estimate, also in (("overlap", overlap, alike), ("overlap_on_even_ground", even, "")):
            value, low, high = (float(part[at]) for part in estimate)
            told = "; ".join(filter(None, (note, also)))
            empty = "too few cells, or no more together than by chance" if np.isnan(value) else told
            found = {"estimate": value, "ci_low": low, "ci_high": high}
            rows.append({**about, "measure": name, **found, "note": empty})
        for name, envelope in kinds.items():
            chance = {"chance_low": envelope.low[at], "chance_high": envelope.high[at], "p": envelope.p}
            rows.append({**about, "measure": name, "estimate": envelope.ratio[at], **chance, "note": note})
    for scale in SCALES_UM:
        smooth = smooth_windows(windows, units, scale, confidence)
        about = {**begin, "scale_um": scale, "decidable": bool(scale >= limit)}
        for name, part, by_chance in (
            ("density_spearman", smooth.spearman, 0.0),
            ("manders_1", smooth.first, smooth.first_chance),
            ("manders_2", smooth.second, smooth.second_chance),
        ):
            value, low, high = (float(side[0]) for side in part)
            between = {"chance_low": by_chance, "chance_high": by_chance}
            rows.append(
                {**about, "measure": name, "estimate": value, "ci_low": low, "ci_high": high, **between}
            )
    fields = correlate_fields(windows, confidence)
    values = {"estimate": fields.rho, "ci_low": fields.low, "ci_high": fields.high, "p": fields.p}
    rows.append({**begin, "measure": "field_rho", **values, "note": fields.method})
