# This module touches files: it writes the tables, pictures and page of blots.
"""A set of blots: measured, normalised to the loading control, compared between groups, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.blot.measure import BlotSettings, Lane, find_lanes, measure_bands, measure_density
from histoquant.blot.read import Loaded, read_blot, read_lanes
from histoquant.blot.wedge import Wedge
from histoquant.errors import StudyError
from histoquant.pictures import encode_jpeg
from histoquant.protocol import StatisticsSettings
from histoquant.results import open_run, write_bytes, write_table
from histoquant.stats import compare_groups

BAND_COLUMNS = (
    *("image", "protein", "lane", "sample", "group", "left_px", "right_px", "top_px", "bottom_px"),
    *("volume", "peak", "background", "saturated", "nonlinear", "reason"),
)
SAMPLE_COLUMNS = ("protein", "sample", "group", "lanes", "normalised", "fold", "note")
TEST_COLUMNS = (
    *("protein", "group", "group_2", "n", "n_2", "mean", "sd", "mean_2", "sd_2", "estimate_name", "estimate"),
    *("ci_low", "ci_high", "statistic", "p", "p_exact", "method", "note"),
)
_GREEN, _RED = (60, 140, 60), (200, 40, 40)


@dataclass(frozen=True)
class Blots:
    """What was measured.

    Attributes
    ----------
    bands, samples, tests : DataFrame
        Columns `BAND_COLUMNS`, `SAMPLE_COLUMNS`, `TEST_COLUMNS`.
    overlays : dict of str to bytes
        JPEG by image: found boxes, red where saturated or without a band.
    notes : tuple of str
        What was left out or looks odd.
    """

    bands: pd.DataFrame
    samples: pd.DataFrame
    tests: pd.DataFrame
    overlays: dict[str, bytes]
    notes: tuple[str, ...]


def analyse_blots(
    images: Sequence[Path],
    lanes: Path | None,
    loading: str,
    control: str,
    settings: BlotSettings,
    seed: int = 0,
    wedge: Wedge | None = None,
) -> Blots:
    """Measure the bands of some strips; with a table of lanes, normalise and compare.

    Parameters
    ----------
    images : sequence of Path
        One strip, one protein each.
    lanes : Path or None
        What is in which lane; without it bands are measured only.
    loading : str
        Protein of the loading control.
    control : str
        Group whose mean is 1.
    settings : BlotSettings
        How a blot is read.
    seed : int, optional
        Of permutations.
    wedge : Wedge, optional
        What density each pixel value stands for.

    Raises
    ------
    HistoquantError
        A file is wrong, two images have one name, or the table names an image that is not given.
    """
    names = [path.name for path in images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError("is the name of two images", twice[0], "rename one")
    table = read_lanes(lanes) if lanes else {}
    if missing := sorted(set(table) - set(names)):
        raise StudyError("is in the table of lanes, but was not given", missing[0], "add the image")
    rows: list[dict[str, Any]] = []
    overlays: dict[str, bytes] = {}
    notes: list[str] = []
    for path in images:
        pixels = read_blot(path)
        if wedge is not None and wedge.palest > np.iinfo(pixels.dtype).max:
            raise StudyError(
                f"has values up to {wedge.palest:.0f}, beyond those of {path.name}",
                "step wedge",
                "scan both with the same number of bits",
            )
        bands, remarks = _measure_image(path.name, pixels, table.get(path.name), settings, wedge)
        if lanes and path.name not in table:
            remarks = [*remarks, f"{path.name} is not in the table of lanes: measured, not compared."]
        overlays[path.name] = draw_bands(pixels, bands)
        rows += bands
        notes += remarks
    frame = pd.DataFrame(rows, columns=list(BAND_COLUMNS))
    samples, more = normalise_bands(frame, loading, control)
    tests = compare_samples(samples, control, seed)
    return Blots(frame, samples, tests, overlays, (*notes, *(more if lanes else ())))


def _measure_image(
    name: str,
    pixels: npt.NDArray[Any],
    listed: Sequence[Loaded] | None,
    settings: BlotSettings,
    wedge: Wedge | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the bands; where the lanes found are not those listed, the listed ones without a volume."""
    found = find_lanes(measure_density(pixels, settings.bright, wedge), len(listed) if listed else None)
    if listed is None:
        known = [Loaded(at, "", "", "", lane) for at, lane in enumerate(found, start=1)]
    elif all(one.place for one in listed):
        known = list(listed)
    elif len(found) == len(listed):
        known = [one._replace(place=one.place or lane) for one, lane in zip(listed, found, strict=True)]
    else:
        known = list(listed)
    placed = [(one, _clip(one.place, pixels.shape)) for one in known]
    measured = iter(measure_bands(pixels, [place for _, place in placed if place], settings, wedge))
    blank = {"reason": "not found: give its left_px and right_px", "saturated": False, "nonlinear": False}
    rows = [
        {"image": name, "protein": one.protein, "lane": one.lane, "sample": one.sample, "group": one.group}
        | (next(measured) if place else blank)
        for one, place in placed
    ]
    lost = sum(place is None for _, place in placed)
    notes = (
        [f"{name}: {len(found)} lanes found, {len(known)} listed; give the places of {lost}."] if lost else []
    )
    if not known:
        notes = [f"{name}: no lane found; give a table of lanes with places."]
    flagged = [str(row["lane"]) for row in rows if row["saturated"]]
    if flagged:
        notes.append(f"{name}: saturated, a lower bound only: lane {', '.join(flagged)}.")
    if wedge is not None and np.median(pixels) > 1.05 * wedge.palest:
        notes.append(
            f"{name}: most of it is paler than the palest step; add a step of clear film to the wedge."
        )
    return rows, notes


def _clip(lane: Lane | None, shape: tuple[int, ...]) -> Lane | None:
    """The part of a place that is in the image."""
    if lane is None or lane.left >= shape[1] or lane.top >= shape[0]:
        return None
    return lane._replace(right=min(lane.right, shape[1]), bottom=min(lane.bottom, shape[0]))


def normalise_bands(bands: pd.DataFrame, loading: str, control: str) -> tuple[pd.DataFrame, list[str]]:
    """Divide by the loading control of the same lane, average a sample's lanes, then by the control's mean.

    Saturated bands, and those not found, enter nothing: their lanes are left out, and it is noted. So are
    lanes without a sample, and samples without a group.

    Parameters
    ----------
    bands : DataFrame
        Columns `BAND_COLUMNS`.
    loading, control : str
        Protein of the loading control; group whose mean is 1.

    Returns
    -------
    samples : DataFrame
        Columns `SAMPLE_COLUMNS`, a row per protein and sample.
    notes : list of str
        What could not be done.

    Raises
    ------
    StudyError
        A sample is in two groups, or the loading control in two images for one lane.
    """
    good = bands["volume"].where(~bands["saturated"].astype(bool) & bands["volume"].notna())
    used = bands.assign(good=good)
    base = used[used["protein"].eq(loading)]
    others = used[~used["protein"].eq(loading) & used["protein"].ne("")]
    targets = others[others["sample"].ne("")]
    notes = _note_names(others, control)
    if targets.empty:
        return pd.DataFrame(columns=list(SAMPLE_COLUMNS)), notes
    if base.empty:
        notes.append(f"No image holds the loading control {loading}: volumes are not normalised.")
        return pd.DataFrame(columns=list(SAMPLE_COLUMNS)), notes
    keys = ["lane", "sample"]
    if base.duplicated(keys).any():
        raise StudyError("is in two images for one lane and sample", loading, "analyse each blot by itself")
    merged = targets.merge(base[[*keys, "good"]], on=keys, how="left", suffixes=("", "_base"))
    merged["ratio"] = merged["good"] / merged["good_base"].where(merged["good_base"] > 0)
    rows = []
    for (protein, sample, group), own in merged.groupby(["protein", "sample", "group"], sort=True):
        left = int(own["ratio"].isna().sum())
        note = (
            f"{left} of {len(own)} lanes left out: saturated or not found, there or in {loading}"
            if left
            else ""
        )
        rows.append((protein, sample, group, len(own) - left, own["ratio"].mean(), float("nan"), note))
    samples = pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS))
    if not samples["group"].eq(control).any():
        notes.append(f"No sample is of the group {control}: there is no fold.")
    center = samples[samples["group"].eq(control)].groupby("protein")["normalised"].mean()
    samples["fold"] = samples["normalised"] / samples["protein"].map(center)
    return samples, notes


def _note_names(bands: pd.DataFrame, control: str) -> list[str]:
    """What the names of samples and groups leave out of the comparison; a sample has one group."""
    groups = bands[bands["sample"].ne("")].groupby("sample")["group"].agg(lambda own: sorted(set(own)))
    for sample, own in groups.items():
        if len(own) > 1:
            raise StudyError(
                f"is in the groups {' and '.join(name or '(none)' for name in own)}",
                f"sample {sample}",
                "give it one group in every row",
            )
    nameless = bands.loc[bands["sample"].eq(""), ["protein", "lane"]].itertuples(index=False)
    lanes = ", ".join(f"{protein} lane {lane}" for protein, lane in nameless)
    alone = sorted(str(sample) for sample, own in groups.items() if own == [""])
    named = {own[0] for own in groups} - {""}
    notes = {
        "No image holds a protein other than the loading control: nothing to normalise.": bands.empty,
        f"Left out, since they have no sample: {lanes}.": bool(lanes),
        f"Not compared, since they have no group: {', '.join(alone)}.": bool(alone),
        f"No sample is of a group other than {control}: nothing to compare.": named == {control},
    }
    return [text for text, holds in notes.items() if holds]


def compare_samples(samples: pd.DataFrame, control: str, seed: int = 0) -> pd.DataFrame:
    """Compare the fold of every group with the control's; n counts samples, not lanes."""
    rows: list[dict[str, Any]] = []
    for protein, own in samples.groupby("protein", sort=True):
        values = {g: v["fold"].to_numpy(float) for g, v in own.groupby("group", sort=True)}
        for group in values:
            if group not in ("", control) and control in values:
                rng = np.random.default_rng([seed, len(rows)])
                row = compare_groups(values[control], values[group], StatisticsSettings(), rng)
                rows.append({"protein": protein, "group": control, "group_2": group, **row})
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def draw_bands(pixels: npt.NDArray[Any], bands: Sequence[Mapping[str, Any]]) -> bytes:
    """The strip with a box per band and the lane's number, as JPEG."""
    low, high = (float(v) for v in np.percentile(pixels, [0.1, 99.9]))
    grey = np.clip((pixels - low) / max(high - low, 1.0) * 255, 0, 255).astype(np.uint8)
    canvas = np.ascontiguousarray(np.stack([grey] * 3, axis=-1))
    for band in bands:
        if "left_px" not in band:
            continue
        bad = band["saturated"] or "no band" in band["reason"]
        color = _RED if bad else _GREEN
        corner = (int(band["left_px"]) + 1, int(band["top_px"]))
        cv2.rectangle(canvas, corner, (int(band["right_px"]) - 2, int(band["bottom_px"]) - 1), color, 1)
        place = (corner[0] + 3, max(corner[1] - 4, 12))
        cv2.putText(canvas, str(band["lane"]), place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
    return encode_jpeg(canvas, 85)


def write_blots(out: Path, blots: Blots, page: str) -> Path:
    """Write bands.csv, lanes.csv (to correct by hand), samples.csv, comparisons.csv, overlays and the page.

    Raises
    ------
    ResultsError
        The folder cannot be made, or another run writes to it.
    """
    with open_run(out):
        (out / "overlays").mkdir(exist_ok=True)
        write_table(out / "bands.csv", blots.bands)
        places = blots.bands[list(BAND_COLUMNS[:9])]
        pixels = list(BAND_COLUMNS[5:9])
        write_table(
            out / "lanes.csv",
            places.astype(dict.fromkeys(pixels, "float64")).astype(dict.fromkeys(pixels, "Int64")),
        )
        write_table(out / "samples.csv", blots.samples)
        write_table(out / "comparisons.csv", blots.tests)
        for name, picture in blots.overlays.items():
            write_bytes(out / "overlays" / f"{Path(name).stem}.jpg", picture)
        write_bytes(out / "blot.html", page.encode())
    return out / "blot.html"
