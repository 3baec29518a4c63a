# This module touches files: it writes a study of serial sections.
"""Write a study of serial sections with a planted overlap of two markers' infiltrates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from histoquant.protocol import Positive, Settings, Share
from histoquant.synthetic.serial import PoseSettings, arrange_series, render_series, share_foci
from histoquant.synthetic.settings import CellsSettings, LayoutSettings, RenderSettings
from histoquant.synthetic.slide import write_section
from histoquant.synthetic.study import spawn_rng, vary_section
from histoquant.synthetic.truth import tell_truth, write_truth

POSES = {
    "BAFF-R": PoseSettings(),
    "CD19": PoseSettings(angle_deg=97.0, flip=True, stretch=(1.02, 0.99)),
}


class SerialPlan(Settings):
    """A study of serial sections to make up."""

    patients: Annotated[int, Field(ge=1)] = 1
    """Patients, one block each."""
    markers: dict[str, PoseSettings] = POSES
    """Markers, and how their sections lie; the first two share infiltrates."""
    overlap: Share = 0.6
    """Share of the infiltrates of the first two markers that hold both."""
    foci_per_mm2: Positive = 6.0
    """Infiltrates of each marker."""
    focus_um: Positive = 60.0
    """Mean spread of an infiltrate."""
    render: RenderSettings = RenderSettings(
        layout=LayoutSettings(vessels_per_mm2=1.0),
        cells=CellsSettings(positive_cells_per_fiber=0.4, lymphocytes_per_fiber=0.3, focal=0.9),
    )
    """What all sections share."""


def write_series(folder: Path, plan: SerialPlan, seed: int = 0) -> Path:
    """Write slides, truth, landmarks and the study table.

    Parameters
    ----------
    folder : Path
        Made if missing; gets STUDY.csv, slides/ID.svs, truth/ID_fibers.tif, truth/ID_cells.csv and
        truth/ID_landmarks.csv (fiber, x_um, y_um: the same fiber has the same number on all sections).
    plan : SerialPlan
        Patients, markers, overlap.
    seed : int, optional
        Same seed and plan, same bytes.

    Returns
    -------
    Path
        The study table.
    """
    for name in ("slides", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(1, plan.patients + 1):
        patient = f"P{number:02d}"
        rng = spawn_rng(seed, patient)
        layout = arrange_series(rng, plan.render.size_um, plan.render.layout)
        foci = share_foci(rng, layout, plan.overlap, plan.foci_per_mm2, plan.focus_um)
        for at, (marker, pose) in enumerate(plan.markers.items()):
            section = f"{patient}-{marker}"
            own = spawn_rng(seed, section)
            settings = vary_section(own, plan.render)
            made = render_series(own, replace(layout, foci=foci[min(at, 1)]), settings, pose)
            write_section(made.section, folder / "slides" / f"{section}.svs")
            write_truth(tell_truth(made.section), folder / "truth" / section)
            made.landmarks.round(3).to_csv(
                folder / "truth" / f"{section}_landmarks.csv", index=False, lineterminator="\n"
            )
            rows.append((patient, "", marker, f"slides/{section}.svs", "A"))
    table = pd.DataFrame(rows, columns=["patient", "group", "marker", "slide", "block"])
    table.to_csv(folder / "STUDY.csv", index=False, lineterminator="\n")
    return folder / "STUDY.csv"
