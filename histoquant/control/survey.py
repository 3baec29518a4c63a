# This module touches files: it reads the quantisation tables of JPEG files.
"""Survey: a slide looked at in some of its fields, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile

from histoquant.errors import HistoquantError
from histoquant.pictures import encode_webp
from histoquant.prepare import FieldTask, measure_quality, prepare_section
from histoquant.protocol import Protocol
from histoquant.qc.compression import read_jpeg_quality
from histoquant.qc.verdict import Values, Verdict, decide, judge_artefacts
from histoquant.slide import open_slide
from histoquant.stains import separate_stains
from histoquant.study import Section

_DQT = b"\xff\xdb"
_HEAD_BYTES = 65_536
_PICTURE_PX = 380


@dataclass(frozen=True)
class SlideCheck:
    """A section looked at.

    Attributes
    ----------
    section : Section
        Of the study.
    verdict : {"pass", "look", "repeat"}
        Fit to count; fit, but look first; not fit.
    reasons : tuple of str
        Sentences; empty if it passes.
    values : dict of str to float
        Median of each measure over the fields.
    fields : tuple of dict
        Measures of each field.
    overview : bytes or None
        WebP of the section with its fields, or of its first image.
    """

    section: Section
    verdict: Verdict
    reasons: tuple[str, ...]
    values: dict[str, float] = field(default_factory=dict)
    fields: tuple[dict[str, float], ...] = ()
    overview: bytes | None = None


def check_section(section: Section, protocol: Protocol, seed: int) -> SlideCheck:
    """Look at the first fields that a run with this seed would measure, and judge the slide.

    Nothing is segmented. A section that cannot be opened, or has no room for a field, is to be repeated:
    its reason is that of the failure.

    Parameters
    ----------
    section : Section
        Of a study.
    protocol : Protocol
        Settings, with the limits.
    seed : int
        The run's seed.

    Returns
    -------
    SlideCheck
    """
    try:
        prepared = prepare_section(section, protocol, seed)
        tasks = prepared.tasks[: protocol.qc.fields]
        fields = tuple(_measure_task(task, protocol) for task in tasks)
        overview = prepared.overview or _draw_image(tasks[0])
    except HistoquantError as error:
        return SlideCheck(section, "repeat", (f"cannot be checked: {error}",))
    verdict, reasons = decide(fields, protocol.qc)
    spoilt, left_out = judge_artefacts(prepared.receipt, protocol.qc)
    verdict, reasons = "repeat" if spoilt else verdict, (*reasons, *left_out)
    lost = [str(row["reason"]) for row in prepared.failed]
    short = prepared.fields_asked - len(prepared.tasks) - len(lost)
    lost += (
        [f"no room for {short} of {prepared.fields_asked} fields: choose a larger section"] if short else []
    )
    if (lost or left_out) and verdict == "pass":
        verdict = "look"
    return SlideCheck(section, verdict, (*reasons, *lost), take_medians(fields), fields, overview)


def take_medians(fields: Sequence[Values]) -> dict[str, float]:
    """Median of each measure over the fields in which it could be taken; NaN if in none.

    Examples
    --------
    >>> take_medians([{"a": 1.0}, {"a": 3.0}, {"a": float("nan")}])
    {'a': 2.0}
    """
    names = dict.fromkeys(name for values in fields for name in values)
    known = {name: [v[name] for v in fields if np.isfinite(v.get(name, np.nan))] for name in names}
    return {name: float(np.median(values)) if values else float("nan") for name, values in known.items()}


def read_file_quality(path: Path) -> float:
    """JPEG quality that a file's own luminance table tells: that of its last compression.

    Parameters
    ----------
    path : Path
        A JPEG, or a TIFF of JPEG tiles.

    Returns
    -------
    float
        NaN if the file has no such table, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
        if not data.startswith(b"\xff\xd8"):
            with tifffile.TiffFile(path) as tiff:
                data = tiff.pages.first.jpegtables or b""
    except Exception:  # tifffile raises anything on what is no TIFF
        return float("nan")
    start = data.find(_DQT)
    table = data[start + 5 : start + 69]
    eight_bit = start >= 0 and len(table) == 64 and data[start + 4] == 0
    return read_jpeg_quality(list(table)) if eight_bit else float("nan")


def _draw_image(task: FieldTask) -> bytes:
    """A camera image, small."""
    with open_slide(task.path, task.mpp, task.kind) as slide:
        return encode_webp(
            slide.overview(max(slide.width_px, slide.height_px) * task.mpp / _PICTURE_PX).pixels
        )


def _measure_task(task: FieldTask, protocol: Protocol) -> dict[str, float]:
    place = task.field
    with open_slide(task.path, task.mpp, task.kind) as slide:
        patch = slide.read(place.left_um, place.top_um, place.width_um, place.height_um)
    settings = protocol.model_copy(update={"qc": protocol.qc.model_copy(update={"check": True})})
    stains = separate_stains(patch, task.white, task.vectors, settings.working_mpp)
    values = measure_quality(task, patch, stains, settings)
    # The worst of what pixels and file tell; fmin leaves out what is unknown.
    worst = np.fmin(values["jpeg_quality"], read_file_quality(task.path))
    return {**values, "jpeg_quality": float(worst)}
