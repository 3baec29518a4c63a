"""Which fibers are flagged as longitudinal, in sections cut across and along; writes docs/longitudinal.md.

Rendered fibers are those the shipped network finds; photographs and hand-drawn fibers (in ../shared) are
truth labels, cut across by all we know, so that every flag there is a false one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from tables import format_table

from histoquant.direction import find_longitudinal
from histoquant.feret import measure_feret
from histoquant.fibers import get_segmenter
from histoquant.geometry import Patch
from histoquant.protocol import FiberSettings
from histoquant.stains import separate_stains
from histoquant.synthetic import LayoutSettings, RenderSettings, render_section, vary_section

ROOT = Path(__file__).parents[1]
MUSCLE = ROOT.parent / "shared" / "data" / "muscle"
SETTINGS = FiberSettings()
STRETCHES = (1.0, 2.0, 3.0, 5.0)
# Pixels are of unknown size in this one; 0.65 gives fibers of usual size.
HAND_DRAWN_MPP = 0.65
Labels = npt.NDArray[np.int32]


def find_rendered(stretch: float, seed: int) -> Labels:
    """Fibers found in a rendered section of 1 x 0.8 mm."""
    rng = np.random.default_rng(seed)
    layout = LayoutSettings(rim_um=20, stretch=stretch)
    settings = vary_section(rng, RenderSettings(size_um=(1000.0, 800.0), layout=layout))
    section = render_section(rng, settings)
    patch = Patch(section.pixels, 0.0, 0.0, section.mpp)
    return get_segmenter(SETTINGS)(separate_stains(patch, settings.staining.white))


def judge(name: str, labels: Labels, mpp: float) -> dict[str, object]:
    """How many fibers, and which part of their area, is flagged."""
    widths = measure_feret(labels) * mpp
    area = np.bincount(labels.ravel())[widths.index] * mpp**2
    large = area >= SETTINGS.min_area_um2
    along = find_longitudinal(widths["min_feret_px"], widths["max_feret_px"], SETTINGS) & large
    share = f"{100 * area[along].sum() / area.sum():.1f} %"
    return {
        "fibers": name,
        "number": int(large.sum()),
        "longitudinal": int(along.sum()),
        "share of area": share,
    }


def list_cases(seed: int) -> Iterator[tuple[str, Labels, float]]:
    """Names, labels and their pixel size."""
    for stretch in STRETCHES:
        angle = np.degrees(np.arccos(1 / stretch))
        for number in range(2):
            name = f"rendered, {stretch:g} to 1 ({angle:.0f} degrees), seed {seed + number}"
            yield name, find_rendered(stretch, seed + number), 0.5
    if not MUSCLE.is_dir():
        return
    for name in ("01", "02"):
        image = cv2.imread(str(MUSCLE / "he" / f"{name}_fibers.png"), cv2.IMREAD_UNCHANGED)
        yield f"photograph {name}", np.asarray(image, np.int32), 0.4
    human = cv2.imread(str(MUSCLE / "fluorescence" / "human_fibers.png"), cv2.IMREAD_UNCHANGED)
    yield "fluorescence, human", np.asarray(human, np.int32), 0.922
    drawn = tifffile.imread(MUSCLE / "geometry" / "S11_fibers.tif").astype(np.int32)
    yield "human, drawn by hand", drawn, HAND_DRAWN_MPP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=9_200)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "longitudinal.md")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    table = pd.DataFrame([judge(*case) for case in list_cases(args.seed)])
    text = (Path(__file__).parent / "longitudinal_page.md").read_text(encoding="utf-8")
    page = text.format(settings=SETTINGS, table=format_table(table))
    args.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
