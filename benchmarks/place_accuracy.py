"""Where cells sit, against rendered truth: `python benchmarks/place_accuracy.py` writes docs/place.md.

Settings were chosen on seeds 501 to 503; those judged here are others. Staining, sizes and light differ from
seed to seed as between sections of a study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from tables import format_table

from histoquant.cells import find_cells
from histoquant.fibers import get_segmenter
from histoquant.geometry import Patch
from histoquant.measure import measure_cells
from histoquant.place import PLACES
from histoquant.protocol import SHIPPED_MARKERS, Protocol
from histoquant.stains import correct_spill, separate_stains
from histoquant.synthetic import RenderSettings, Section, render_section, vary_section

ROOT = Path(__file__).parents[1]
SIZE_UM = (1400.0, 1400.0)
REACH_UM = 4.0
INFLAMMATORY = ("lymphocyte", "macrophage")
PROTOCOL = Protocol()


def judge_seed(seed: int) -> pd.DataFrame:
    """True and found place of every cell of one section that was found."""
    rng = np.random.default_rng(seed)
    settings = vary_section(rng, RenderSettings(size_um=SIZE_UM))
    section = render_section(rng, settings)
    return match_cells(section, measure_section(section, settings.staining.white))


def measure_section(section: Section, white: tuple[float, float, float]) -> pd.DataFrame:
    """Cells as a run measures them."""
    stains = correct_spill(separate_stains(Patch(section.pixels, 0.0, 0.0, section.mpp), white))
    fibers = get_segmenter(PROTOCOL.fibers)(stains)
    marker = SHIPPED_MARKERS["CD19"]
    cells = find_cells(stains, PROTOCOL.cells, marker.compartment)
    return measure_cells(cells, fibers, stains, marker, PROTOCOL.cells)


def match_cells(section: Section, found: pd.DataFrame) -> pd.DataFrame:
    """Pairs of true and found cells, each the other's nearest, within 4 um."""
    truth = section.cells[["x_um", "y_um"]].to_numpy()
    places = found[["x_um", "y_um"]].to_numpy()
    distance, nearest = cKDTree(places).query(truth)
    back = cKDTree(truth).query(places)[1]
    own = np.flatnonzero((distance < REACH_UM) & (back[nearest] == np.arange(len(truth))))
    pairs = section.cells.iloc[own][["place", "kind"]].reset_index(drop=True)
    pairs["place"] = pairs["place"].replace("fiber", "internal")
    return pairs.assign(found=found["place"].to_numpy()[nearest[own]])


def tabulate(pairs: pd.DataFrame) -> pd.DataFrame:
    """Confusion table, and the share of each true place that was found right, with its interval."""
    table = pd.crosstab(pairs["place"], pairs["found"]).reindex(index=PLACES, columns=PLACES, fill_value=0)
    table = table[table.sum(axis=1) > 0]
    right = pd.Series({place: table.loc[place, place] / table.loc[place].sum() for place in table.index})
    spread = 1.96 * np.sqrt(right * (1 - right) / table.sum(axis=1))
    table["right"] = [f"{100 * p:.0f} % ± {100 * s:.0f}" for p, s in zip(right, spread, strict=True)]
    return table.rename_axis(None, axis=1).rename_axis("true").reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=9_100, help="the first")
    parser.add_argument("--number", type=int, default=5, help="sections")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "place.md")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    pairs = pd.concat([judge_seed(args.seed + i) for i in range(args.number)], ignore_index=True)
    few = pairs[pairs["kind"].isin(INFLAMMATORY)]
    text = (Path(__file__).parent / "place_page.md").read_text(encoding="utf-8")
    page = text.format(
        settings=PROTOCOL.cells,
        seeds=f"{args.seed} to {args.seed + args.number - 1}",
        command=f"python benchmarks/place_accuracy.py --seed {args.seed} --number {args.number}",
        inflammatory=format_table(tabulate(few)),
        everything=format_table(tabulate(pairs)),
    )
    args.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
