"""Artefacts planted on sections: how much of each is avoided, and how much good tissue is.

python benchmarks/qc_artefacts.py [--rendered 6] [--slides OUT/*/*.svs]

Sections are rendered with varied stain, light and tissue, with seeds and settings that set no limit;
`--slides` adds whole slides, such as sections of real texture that restain.py in ../shared makes. An artefact
is caught if at least half of its area on tissue is left out, by whatever name. `--only pen` plants pen marks
and nothing else; what good sections lose is told by kind, to pens among them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from qc_faults import draw_staining
from tables import format_table

from histoquant.geometry import Patch
from histoquant.protocol import ArtefactSettings, QcSettings, TissueSettings, Vector
from histoquant.qc.artefacts import OVERVIEW_MPP, find_artefacts, fit_mask, lay_probes, spread_blur
from histoquant.qc.focus import measure_blur
from histoquant.stains import estimate_white
from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    render_section,
)
from histoquant.synthetic.artefacts import (
    INKS,
    Planted,
    plant_bubble,
    plant_defocus,
    plant_edge,
    plant_fold,
    plant_pen,
)
from histoquant.tissue import find_tissue

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
STRENGTHS = ("weak", "medium", "strong")
MPP = 0.5
_PROBE_PX = 256


class Good(NamedTuple):
    """A section without an artefact, at 0.5 um/px."""

    kind: str
    name: str
    pixels: Pixels
    white: Vector


def render_sections(number: int, seed: int) -> Iterator[Good]:
    """Sections as slides of one laboratory may vary, some with large infiltrates and dark endomysium."""
    for at in range(number):
        rng = np.random.default_rng([seed, at])
        endomysium = ("pale", "similar", "hue", "dark")[at % 4]
        staining = StainingSettings(**draw_staining(rng), endomysium=endomysium)
        layout = LayoutSettings(
            tears=at % 3, regenerating=rng.uniform(0.02, 0.1), foci_per_mm2=rng.uniform(1, 4),
            focus_um=rng.uniform(60, 150),
        )  # fmt: skip
        cells = CellsSettings(
            positive_cells_per_fiber=rng.uniform(0.1, 1.5), lymphocytes_per_fiber=rng.uniform(0.2, 1.0)
        )
        settings = RenderSettings(
            size_um=(2600.0, 2400.0), mpp=MPP, layout=layout, staining=staining, cells=cells
        )
        yield Good("rendered", f"rendered {at}", render_section(rng, settings).pixels, staining.white)


def read_slides(paths: list[Path], mpp: float) -> Iterator[Good]:
    for path in paths:
        pixels = shrink(tifffile.TiffFile(path).pages.first.asarray()[:7000, :7000], mpp, MPP)
        yield Good("photographs", str(path), pixels, estimate_white(pixels[::8, ::8])[0])


def shrink(pixels: Pixels, mpp: float, wanted: float) -> Pixels:
    factor = mpp / wanted
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def look(pixels: Pixels, mpp: float, focus: bool = False) -> tuple[Mask, dict[str, Mask]]:
    """Tissue and artefacts, as the draw of fields finds them, in pixels of 8 um; focus needs 0.5 um/px."""
    coarse = shrink(pixels, mpp, 8.0)
    tissue = find_tissue(Patch(coarse, 0.0, 0.0, 8.0), TissueSettings())
    overview = Patch(shrink(pixels, mpp, OVERVIEW_MPP), 0.0, 0.0, OVERVIEW_MPP)
    found = {
        kind: fit_mask(mask, tissue.shape) & tissue
        for kind, mask in find_artefacts(overview, tissue, ArtefactSettings())
    }
    if focus:
        places, spacing = lay_probes(tissue, 8.0)
        blurs = [probe(pixels, *place) for place in places]
        found["blur"] = spread_blur(tissue, 8.0, places, blurs, spacing, QcSettings().max_blur_um)
    return tissue, found


def probe(pixels: Pixels, x_um: float, y_um: float) -> float:
    row, column = (max(0, int(at / MPP) - _PROBE_PX // 2) for at in (y_um, x_um))
    part = pixels[row : row + _PROBE_PX, column : column + _PROBE_PX]
    density = -np.log10(np.maximum(part, 1) / np.float32(255)).sum(axis=2) / np.sqrt(3)
    return measure_blur(density.astype(np.float32), MPP)


def list_faults(good: Good, tissue: Mask) -> Iterator[tuple[str, str, float, Callable[[], Planted]]]:
    """Kind, strength, pixel size, and how to plant it: at 1 um/px, which suffices for all but focus."""
    pixels, white = shrink(good.pixels, MPP, 1.0), good.white
    rows = {
        "fold of 40, 60, 120 um; 1, 2, 2 layers": [(40.0, 1.0), (60.0, 2.0), (120.0, 2.0)],
        "bubble of 0.3, 0.5, 1 mm; rim 0.15, 0.4, 0.8 OD": [(300.0, 0.15), (500.0, 0.4), (1000.0, 0.8)],
    }
    for (name, cases), plant in zip(
        rows.items(),
        (
            lambda one, rng: plant_fold(rng, pixels, 1.0, white, *one),
            lambda one, rng: plant_bubble(rng, pixels, 1.0, *one),
        ),
        strict=True,
    ):
        for strength, one in zip(STRENGTHS, cases, strict=True):
            yield name, strength, 1.0, lambda one=one, plant=plant: plant(one, seed(good))
    for ink in INKS:
        for strength, od in zip(STRENGTHS, (0.1, 0.3, 1.0), strict=True):
            name = f"{ink} pen, 0.1, 0.3, 1 OD"
            yield name, strength, 1.0, lambda ink=ink, od=od: plant_pen(seed(good), pixels, 1.0, ink, od)
    for strength, od in zip(STRENGTHS, (0.05, 0.15, 0.3), strict=True):
        name = "brown edge, 0.05, 0.15, 0.3 OD"
        yield name, strength, 1.0, lambda od=od: plant_edge(pixels, 1.0, tissue, od)
    for strength, blur in zip(STRENGTHS, (1.0, 1.5, 2.5), strict=True):
        name = "1.2 mm out of focus, 1, 1.5, 2.5 um"
        yield name, strength, MPP, lambda blur=blur: plant_defocus(seed(good), good.pixels, MPP, blur)


def seed(good: Good) -> np.random.Generator:
    return np.random.default_rng(list(good.name.encode()))


def judge_section(good: Good, part: int, parts: int, only: str = "") -> Iterator[dict[str, object]]:
    """Rows of the good section (with part 0), and of every so many-th artefact on it, of one kind or all."""
    tissue, found = look(good.pixels, MPP, focus=part == 0)
    for kind, mask in {**found, "any": np.any(list(found.values()), axis=0)}.items():
        if part:
            break
        share = float(mask.sum() / tissue.sum())
        yield {"kind": good.kind, "fault": f"none: {kind}", "strength": "", "share": share, "false": share}
    large = fit_mask(tissue, shrink(good.pixels, MPP, 1.0).shape)
    faults = [fault for fault in list_faults(good, large) if only in fault[0]]
    for name, strength, mpp, plant in faults[part::parts]:
        planted = plant()
        truth = fit_mask(planted.mask, tissue.shape) & tissue
        near = cv2.dilate(truth.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
        _, found = look(planted.pixels, mpp, focus=mpp == MPP)
        left_out = np.any(list(found.values()), axis=0) & tissue
        yield {
            "kind": good.kind, "fault": name, "strength": strength,
            "share": float((left_out & truth).sum() / max(truth.sum(), 1)),
            "false": float((left_out & ~near).sum() / tissue.sum()),
        }  # fmt: skip


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Caught of planted, and the mean share left out, by fault, kind of image and strength."""
    planted = table[~table["fault"].str.startswith("none")]
    column = planted["kind"] + ", " + planted["strength"]
    wide = planted.assign(column=pd.Categorical(column, column.unique())).pivot_table(
        index="fault", columns="column", values="share", aggfunc=_tell, observed=True, sort=False
    )
    wide.columns = wide.columns.astype(str)
    return wide.reset_index()


def _tell(shares: pd.Series[float]) -> str:
    return f"{int((shares >= 0.5).sum())} / {len(shares)} ({shares.mean():.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rendered", type=int, default=6)
    parser.add_argument("--seed", type=int, default=8100)
    parser.add_argument("--slides", type=Path, nargs="*", default=[], help="slides of 0.4 um/px")
    parser.add_argument("--out", type=Path, help="CSV for every section and artefact")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), help="of so many: a share of the artefacts"
    )
    parser.add_argument("--only", default="", help="artefacts with this word in their name, such as pen")
    parser.add_argument("--table", type=Path, nargs="+", help="only tabulate such files")
    args = parser.parse_args()
    if args.table:
        tabulate(pd.concat([pd.read_csv(path, keep_default_na=False) for path in args.table]))
        return
    rows: list[dict[str, object]] = []
    for goods in (render_sections(args.rendered, args.seed), read_slides(args.slides, 0.4)):
        for good in goods:
            rows.extend(judge_section(good, *args.part, args.only))
            if args.out:
                pd.DataFrame(rows).to_csv(args.out, index=False)
    tabulate(pd.DataFrame(rows))


def tabulate(table: pd.DataFrame) -> None:
    print(format_table(summarise(table)))
    good_rows = table[table["fault"].str.startswith("none")]
    shares = good_rows.groupby(["kind", "fault"], sort=False)["share"].agg(["mean", "max", "count"])
    print("\nGood sections, share of tissue left out:\n", shares.round(4).to_string())
    beside = table[~table["fault"].str.startswith("none")].groupby("kind")["false"].agg(["mean", "max"])
    print("\nSpoilt sections, good tissue left out over 56 um away:\n", beside.round(4).to_string())


if __name__ == "__main__":
    main()
