"""Counts of the method `qupath` beside QuPath's own, written into docs/qupath.md.

python benchmarks/qupath_counts.py

One Ki67 field from two scanners at two thresholds of detection and two of DAB. Images and QuPath's tables are
read from ../shared/data/ihc/os2 (petebankhead/2022-qupath-cell-detection, CC BY 4.0).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tables import format_table

from histoquant.cells import find_cells
from histoquant.measure import measure_cells
from histoquant.protocol import CellSettings, MarkerSettings, QupathSettings
from histoquant.slide import open_slide
from histoquant.stains import Stains, separate_stains

ROOT = Path(__file__).parents[1]
IMAGES = ROOT.parent / "shared" / "data" / "ihc" / "os2"
PAGE = ROOT / "docs" / "qupath.md"
WHITE = (255.0, 255.0, 255.0)


def read_stains(path: Path) -> Stains:
    """The whole image at 0.5 um/px."""
    with open_slide(path) as slide:
        mpp = slide.mpp or 0.0
        return separate_stains(slide.read(0, 0, slide.width_px * mpp, slide.height_px * mpp), WHITE)


def count_cells(stains: Stains, threshold_od: float) -> pd.DataFrame:
    """Nuclei with the parameters behind QuPath's table, and their mean DAB."""
    detection = QupathSettings(background_um=0, sigma_um=2, threshold_od=threshold_od)
    settings = CellSettings(method="qupath", growth_um=0, qupath=detection)
    cells = find_cells(stains, settings, "nucleus")
    marker = MarkerSettings(compartment="nucleus", threshold_od=0.2)
    return measure_cells(cells, np.zeros_like(cells), stains, marker, settings)


def compare(images: Path = IMAGES) -> pd.DataFrame:
    """One row per image and setting."""
    rows = []
    for table in sorted(images.glob("qupath_*.tsv")):
        known = pd.read_csv(table, sep="\t")
        stains = read_stains(images / f"{known['Name'].iloc[0]}.ome.tif")
        for detection, group in known.groupby("Detection threshold"):
            dab = count_cells(stains, float(detection))["dab_od"]
            for row in group.to_dict("records"):
                positive = 100 * float((dab > row["DAB threshold"]).mean())
                rows.append(
                    {
                        "image": row["Name"],
                        "detection": f"{detection:.1f}",
                        "DAB": f"{row['DAB threshold']:.1f}",
                        "cells, QuPath": row["Num cells"],
                        "cells": len(dab),
                        "difference": f"{100 * (len(dab) / row['Num cells'] - 1):+.1f} %",
                        "positive, QuPath": f"{row['Positive %']:.1f} %",
                        "positive": f"{positive:.1f} %",
                        "points": f"{positive - row['Positive %']:+.1f}",
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    if not IMAGES.is_dir():
        sys.exit(f"{IMAGES} is not there: nothing to compare with")
    cv2.setNumThreads(1)
    table = format_table(compare())
    text = PAGE.read_text(encoding="utf-8")
    block = f"<!-- counts -->\n\n{table}\n\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- counts -->.*<!-- end -->", block, text, flags=re.S), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
