# This module touches files: it writes a synthetic study.
"""Plan and write a study with a planted correlation and group difference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy import stats

from histoquant.protocol import Positive, Settings, Share
from histoquant.synthetic.section import render_section
from histoquant.synthetic.settings import RenderSettings
from histoquant.synthetic.slide import write_section
from histoquant.synthetic.truth import tell_truth, true_ratio, write_truth

CANDIDATES = 400


class MarkerPlan(Settings):
    """Planted values of one marker."""

    mean: tuple[Positive, Positive]
    """Mean positive cells per fiber of the first and of the second group."""
    sd: tuple[Positive, Positive]
    """Standard deviation over the patients of each group."""
    compartment: Literal["nucleus", "membrane", "cytoplasm", "cell"] = "membrane"
    """Part of the cell that holds DAB."""
    loading: Share = 0.9
    """Correlation of the marker with the patient's severity."""


PAPER_MARKERS = {
    "BAFF": MarkerPlan(mean=(0.06, 0.06), sd=(0.03, 0.05), compartment="cell", loading=0.3),
    "BAFF-R": MarkerPlan(mean=(0.27, 0.42), sd=(0.14, 0.23)),
    "CD19": MarkerPlan(mean=(0.18, 0.36), sd=(0.08, 0.21)),
}


class StudyPlan(Settings):
    """A study to make up; means and deviations as in Zhao et al. 2020, table 4."""

    patients: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (4, 4)
    """Patients of the first and of the second group."""
    groups: tuple[str, str] = ("non-refractory", "refractory")
    """Names of the groups."""
    markers: dict[str, MarkerPlan] = PAPER_MARKERS
    """Markers by name."""
    correlated: tuple[str, str] = ("BAFF-R", "CD19")
    """Markers whose correlation is planted."""
    spearman: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """Planted rank correlation of these two over all patients."""
    render: RenderSettings = RenderSettings()
    """What all sections share."""
    vary: bool = True
    """Vary fibers, stains, light and focus from section to section."""


@dataclass(frozen=True)
class _Job:
    """One section to make."""

    folder: Path
    section: str
    planted: float
    compartment: str
    seed: int
    plan: StudyPlan


def plan_study(rng: np.random.Generator, plan: StudyPlan) -> pd.DataFrame:
    """Draw the planted value of every section.

    Every patient has a severity on which the markers load; values are gamma distributed with the
    group's mean and deviation. With few patients a draw strays far from both, so the nearest of 400 is taken.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    plan : StudyPlan
        Patients, groups, markers.

    Returns
    -------
    DataFrame
        patient, group, marker, planted (expected positive cells per fiber of the whole section).
    """
    group = np.repeat([0, 1], plan.patients)
    draws = [_draw_values(rng, plan, group) for _ in range(CANDIDATES)]
    values = min(draws, key=lambda values: _distance(values, plan, group))
    names = [f"P{number:02d}" for number in range(1, len(group) + 1)]
    table = pd.DataFrame(values, columns=list(plan.markers))
    table.insert(0, "group", np.array(plan.groups)[group])
    table.insert(0, "patient", names)
    long = table.melt(["patient", "group"], var_name="marker", value_name="planted")
    return long.sort_values(["patient", "marker"], ignore_index=True)


def _draw_values(
    rng: np.random.Generator, plan: StudyPlan, group: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Values, one row per patient, one column per marker."""
    severity = rng.standard_normal(len(group))
    columns = []
    for marker in plan.markers.values():
        mean, sd = np.array(marker.mean)[group], np.array(marker.sd)[group]
        own = rng.standard_normal(len(group))
        latent = marker.loading * severity + np.sqrt(1 - marker.loading**2) * own
        columns.append(stats.gamma.ppf(stats.norm.cdf(latent), (mean / sd) ** 2, scale=sd**2 / mean))
    return np.column_stack(columns)


def _distance(values: npt.NDArray[np.float64], plan: StudyPlan, group: npt.NDArray[np.int64]) -> float:
    """How far a draw is from the planned correlation and group means."""
    names = list(plan.markers)
    means = np.array([[values[group == which, i].mean() for which in (0, 1)] for i in range(len(names))])
    planned = np.array([marker.mean for marker in plan.markers.values()])
    distance = float(np.abs(means / planned - 1).mean())
    if len(group) > 2 and set(plan.correlated) <= set(names):
        first, second = (values[:, names.index(name)] for name in plan.correlated)
        distance += abs(float(stats.spearmanr(first, second).statistic) - plan.spearman)
    return distance


def spawn_rng(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on the seed and a name alone, not on order.

    Examples
    --------
    >>> spawn_rng(0, "P01-CD19").random() == spawn_rng(0, "P01-CD19").random()
    True
    """
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])


def vary_section(rng: np.random.Generator, settings: RenderSettings) -> RenderSettings:
    """Another block, staining run and scan: fibers, stains, light and focus change.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    settings : RenderSettings
        What to vary around.

    Returns
    -------
    RenderSettings
    """
    layout, cells, staining = settings.layout, settings.cells, settings.staining
    strength = rng.uniform(0.8, 1.2)
    white = np.array(staining.white) + rng.uniform(-4, 4) + rng.uniform(-2, 2, 3)
    changes: dict[str, dict[str, Any]] = {
        "layout": {
            "fiber_um": layout.fiber_um * rng.uniform(0.88, 1.12),
            "roundness": min(layout.roundness * rng.uniform(0.6, 1.6), 1.0),
            "endomysium_um": layout.endomysium_um * rng.uniform(0.75, 1.6),
            "perimysium_um": layout.perimysium_um * rng.uniform(0.7, 1.4),
            "necrotic": layout.necrotic * rng.uniform(0.3, 1.7),
            "atrophic": layout.atrophic * rng.uniform(0.3, 1.7),
        },
        "cells": {"ring_od": (cells.ring_od[0], cells.ring_od[1] * rng.uniform(0.8, 1.1))},
        "staining": {
            "nucleus_od": staining.nucleus_od * strength,
            "fiber_od": staining.fiber_od * strength * rng.uniform(0.85, 1.15),
            "background_od": staining.background_od * rng.uniform(0.5, 1.5),
            "endomysium": rng.choice(["pale", "pale", "pale", "hue"]).item()
            if staining.endomysium == "pale"
            else staining.endomysium,
            "white": tuple(white.clip(0, 250).tolist()),
            "blur_um": staining.blur_um * rng.uniform(0.8, 1.3),
            "defocus_um": staining.defocus_um + rng.uniform(0, 0.5),
        },
    }
    varied = {
        name: type(part).model_validate({**part.model_dump(), **changes[name]})
        for name, part in (("layout", layout), ("cells", cells), ("staining", staining))
    }
    return settings.model_copy(update=varied)


def write_study(
    folder: Path,
    plan: StudyPlan,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Path:
    """Write slides, truth and the study table.

    Parameters
    ----------
    folder : Path
        Made if missing; gets STUDY.csv, truth.csv, slides/ID.svs, truth/ID_fibers.tif, truth/ID_cells.csv.
    plan : StudyPlan
        Patients, groups, markers, sections.
    seed : int, optional
        Same seed and plan, same bytes, whatever the number of workers.
    progress : callable, optional
        Called with the number of sections made and of all.
    workers : int, optional
        Processes.

    Returns
    -------
    Path
        The study table.
    """
    table = plan_study(spawn_rng(seed, "plan"), plan)
    table["section"] = table.patient + "-" + table.marker
    for name in ("slides", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [
        _Job(folder, section, float(planted), plan.markers[marker].compartment, seed, plan)
        for section, marker, planted in zip(table.section, table.marker, table.planted, strict=True)
    ]
    made = {}
    for done, counts in enumerate(_make_all(jobs, workers), start=1):
        made[counts["section"]] = counts
        if progress:
            progress(done, len(jobs))
    truth = table.merge(pd.DataFrame([made[job.section] for job in jobs]), on="section", validate="1:1")
    truth.to_csv(folder / "truth.csv", index=False, lineterminator="\n")
    study = table[["patient", "group", "marker"]].assign(slide="slides/" + table.section + ".svs")
    study.to_csv(folder / "STUDY.csv", index=False, lineterminator="\n")
    return folder / "STUDY.csv"


def _make_all(jobs: list[_Job], workers: int) -> Any:
    """Make sections, yielding their counts as they are done."""
    if workers <= 1:
        yield from map(_make_section, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        for future in as_completed([pool.submit(_make_section, job) for job in jobs]):
            yield future.result()


def _make_section(job: _Job) -> dict[str, Any]:
    """Render and write one section; its true counts."""
    rng = spawn_rng(job.seed, job.section)
    settings = vary_section(rng, job.plan.render) if job.plan.vary else job.plan.render
    cells = {
        **settings.cells.model_dump(),
        "positive_cells_per_fiber": job.planted,
        "compartment": job.compartment,
    }
    settings = settings.model_copy(update={"cells": type(settings.cells).model_validate(cells)})
    section = render_section(rng, settings)
    truth = tell_truth(section)
    write_section(section, job.folder / "slides" / f"{job.section}.svs")
    write_truth(truth, job.folder / "truth" / job.section)
    return {
        "section": job.section,
        "fibers": len(section.fibers),
        "positive_cells": int((section.cells.positive & section.cells.nucleus).sum()),
        "cells_per_fiber": true_ratio(truth),
        "positive_fibers": int(section.fibers.positive.sum()),
    }
