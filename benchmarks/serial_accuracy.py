"""How near registration and overlap come to rendered truth; writes the tables of docs/serial.md.

    python benchmarks/serial_accuracy.py register --pairs 63
    python benchmarks/serial_accuracy.py photographs --folders DIR DIR --pairs 6
    python benchmarks/serial_accuracy.py overlap --seeds 50
    python benchmarks/serial_accuracy.py level --seeds 100
    python benchmarks/serial_accuracy.py tissue --seeds 50 --chances sites

Pairs have seeds from 1000, points from 0: none of them was looked at while the method was made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from statsmodels.stats.proportion import proportion_confint

from histoquant.geometry import Patch
from histoquant.protocol import TissueSettings
from histoquant.serial.density import smooth_windows
from histoquant.serial.draw import MOST_ERROR_UM
from histoquant.serial.intervals import choose_units
from histoquant.serial.nulls import move_sites, shuffle_markers
from histoquant.serial.overlap import RADII_UM, count_pairs, estimate_overlap
from histoquant.serial.register import predict_error, register_views
from histoquant.serial.spaces import FINE_UM, Classes, Spaces, class_ground, lay_spaces
from histoquant.serial.transform import make_affine, map_points
from histoquant.serial.views import VIEW_MPP, View, make_view
from histoquant.serial.windows import PIXEL_UM, Window, make_window
from histoquant.slide import open_slide
from histoquant.synthetic import CellsSettings, LayoutSettings, RenderSettings, vary_section
from histoquant.synthetic.cells import fill_shape, populate_section
from histoquant.synthetic.layout import Layout
from histoquant.synthetic.serial import PoseSettings, SerialSection, arrange_series, render_series, share_foci
from histoquant.synthetic.sites import SitesSettings, scatter_sites

Floats = npt.NDArray[np.float64]
Biopsy = tuple[Layout, npt.NDArray[np.int32], Classes]

FIRST_SEED = 1000
TISSUE_SEED = 9000
LAYOUTS = 24
PLANTED = (0.0, 0.3, 0.6, 0.9)
TISSUE_UM = 2000.0
CHANCES = {"markers": shuffle_markers, "sites": move_sites}
CASES = ("turned", "flipped and stretched", "torn", "folded", "partial", "torn and folded", "other biopsy")
TISSUE = LayoutSettings(rim_um=60.0, foci_per_mm2=0, vessels_per_mm2=0, necrotic=0)
TISSUE_CELLS = CellsSettings(
    positive_cells_per_fiber=0.25, lymphocytes_per_fiber=0.5, focal=0.9, without_nucleus=0, faint=0
)
NAMES = ("value", "low", "high")
SIDE = 110
_ROW, _COLUMN = (np.indices((SIDE, SIDE)) + 0.5) * PIXEL_UM
DISC = np.hypot(_ROW - SIDE * PIXEL_UM / 2, _COLUMN - SIDE * PIXEL_UM / 2) < SIDE * PIXEL_UM / 2


def draw_pose(rng: np.random.Generator, case: str) -> PoseSettings:
    bent = case == "flipped and stretched"
    stretch = tuple(1 + rng.choice([-0.03, 0.03], 2)) if bent else tuple(rng.uniform(0.99, 1.01, 2))
    return PoseSettings(
        angle_deg=rng.uniform(-180, 180),
        flip=bent or rng.random() < 0.5,
        stretch=stretch,
        tear_um=rng.uniform(30, 100) if "torn" in case else 0,
        fold_um=rng.uniform(30, 80) if "folded" in case else 0,
        kept=rng.uniform(0.5, 0.8) if case == "partial" else 1,
    )


def see(made: SerialSection) -> View:
    factor = made.section.mpp / VIEW_MPP
    pixels = cv2.resize(made.section.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return make_view(Patch(np.asarray(pixels, np.uint8), 0.0, 0.0, VIEW_MPP), TissueSettings())


def register_pair(seed: int, case: str, size_um: float) -> dict[str, object]:
    rng = np.random.default_rng([seed, 0])
    settings = RenderSettings(mpp=2.0)
    layout = arrange_series(rng, (size_um, size_um), settings.layout)
    other = arrange_series(rng, (size_um, size_um), settings.layout) if case == "other biopsy" else layout
    one = render_series(rng, layout, vary_section(rng, settings), PoseSettings())
    two = render_series(rng, other, vary_section(rng, settings), draw_pose(rng, case))
    views = see(one), see(two)
    cpu, wall = time.process_time(), time.perf_counter()
    found = register_views(*views)
    row: dict[str, object] = {"seed": seed, "case": case, "registered": found.transform is not None}
    row |= {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    row |= {"told_um": found.error_um, "near": found.near, "share": found.share, "blocks": found.blocks}
    if found.transform is None or case == "other biopsy":
        return row
    both = one.landmarks.merge(two.landmarks, on="fiber", suffixes=("", "_2"))
    mapped = map_points(found.transform, both[["x_um", "y_um"]].to_numpy())
    error = np.hypot(*(mapped - both[["x_um_2", "y_um_2"]].to_numpy()).T)
    drawn = predict_error(found, both[["x_um", "y_um"]].to_numpy()) <= MOST_ERROR_UM
    row |= {"median_um": np.median(error), "p90_um": np.quantile(error, 0.9), "landmarks": len(error)}
    lost = error > MOST_ERROR_UM
    return row | {"lost": lost.mean(), "hidden": (lost & drawn).mean(), "spared": (~lost & ~drawn).mean()}


def register_photographs(folder: Path, number: int) -> Iterator[dict[str, object]]:
    """Two sections that restain.py in ../shared made of one photograph; the second is turned and stretched.

    Both show the same plane, so that blocks are more alike than those of neighbours; but the photograph is
    repeated, mirrored, which is a trap that tissue does not set.
    """
    first, second = (read_overview(path) for path in sorted(folder.glob("*.svs")))
    for at in range(number):
        rng = np.random.default_rng([FIRST_SEED, at])
        pose = draw_pose(rng, CASES[at % 2])
        turn = np.radians(pose.angle_deg)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = matrix @ np.diag(pose.stretch) @ np.diag([-1.0 if pose.flip else 1.0, 1.0])
        height, width = (side * VIEW_MPP for side in second.shape[:2])
        reach = np.hypot(height, width) * 1.05
        shift = reach / 2 - matrix @ np.array([width, height]) / 2
        # The middle of pixel i lies at i + 1/2.
        warp = np.column_stack([matrix, (shift + (matrix.sum(1) - 1) * VIEW_MPP / 2) / VIEW_MPP])
        side = round(reach / VIEW_MPP)
        moved = cv2.warpAffine(second, warp, (side, side), borderMode=cv2.BORDER_REPLICATE)
        views = [make_view(Patch(one, 0.0, 0.0, VIEW_MPP), TissueSettings()) for one in (first, moved)]
        found = register_views(views[0], views[1])
        row: dict[str, object] = {
            "photograph": folder.name,
            "pose": at,
            "registered": found.transform is not None,
        }
        if found.transform is not None:
            points = np.argwhere(views[0].tissue)[::50, ::-1] * VIEW_MPP + VIEW_MPP / 2
            error = np.hypot(*(map_points(found.transform, points) - points @ matrix.T - shift).T)
            row |= {"median_um": np.median(error), "p90_um": np.quantile(error, 0.9)}
        yield row | {"told_um": found.error_um, "near": found.near, "share": found.share}


def read_overview(path: Path) -> npt.NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.overview(VIEW_MPP).pixels


def check_registration(numbers: range, size_um: float, out: Path) -> None:
    rows: list[dict[str, object]] = []
    for number in numbers:
        rows.append(register_pair(FIRST_SEED + number, CASES[number % len(CASES)], size_um))
        print(pd.Series(rows[-1]).to_frame().T.to_string(index=False, header=len(rows) == 1), flush=True)
        pd.DataFrame(rows).to_csv(out, index=False)
    tabulate_registration(pd.DataFrame(rows))


def tabulate_registration(table: pd.DataFrame) -> None:
    print("\n| case | pairs | registered | below 20 um | median, um | 90 %, um | told, um | CPU, s |")
    print("|---|---|---|---|---|---|---|---|")
    for case, own in table.groupby("case", sort=False):
        numbers = (own[name].median() for name in ("median_um", "p90_um", "told_um"))
        text = " | ".join("–" if np.isnan(number) else f"{number:.1f}" for number in numbers)
        good = "–" if case == "other biopsy" else f"{(own['median_um'] < 20).sum()}"
        counts = f"{len(own)} | {own['registered'].sum()} | {good}"
        print(f"| {case} | {counts} | {text} | {own['cpu_s'].median():.1f} |")
    same = table[table["case"].ne("other biopsy")]
    bad = same["registered"] & ~(same["median_um"] < 20)
    share = (same["median_um"] < 20).mean()
    print(f"\n{share:.1%} of {len(same)} pairs below 20 um; {bad.sum()} wrong and not told")


def plant_tissue(rng: np.random.Generator, blocks: int, fields: int) -> list[Window]:
    """Windows on arranged tissue: cells lie between fibers, in infiltrates of either marker's own."""
    windows: list[Window] = []
    for block in range(blocks):
        biopsy = arrange_biopsy(rng)
        foci = share_foci(rng, biopsy[0], 0.0, 6.0, 60.0)
        both = [populate_biopsy(rng, biopsy, one) for one in foci]
        windows += cut_windows(f"b{block}", both, draw_corners(rng, biopsy[0].tissue, fields), biopsy[2])
    return windows


def arrange_biopsy(rng: np.random.Generator) -> Biopsy:
    """Fibers of a biopsy, their labels at 1 um/px, and how far ground lies from them."""
    layout = arrange_series(rng, (TISSUE_UM, TISSUE_UM), TISSUE)
    labels = np.zeros((round(TISSUE_UM), round(TISSUE_UM)), np.int32)
    for number, fiber in enumerate(shapely.buffer(layout.fibers, -0.5, quad_segs=2), start=1):
        fill_shape(labels, fiber, 1.0, number)
    return layout, labels, class_ground(labels, 1.0)


def populate_biopsy(rng: np.random.Generator, biopsy: Biopsy, foci: Floats) -> pd.DataFrame:
    layout, labels, _ = biopsy
    return populate_section(rng, replace(layout, foci=foci), labels, 1.0, TISSUE_CELLS, TISSUE)


def cut_windows(name: str, both: list[pd.DataFrame], corners: list[Floats], classes: Classes) -> list[Window]:
    windows: list[Window] = []
    still, fine = make_affine([[1, 0, 0], [0, 1, 0]]), round(SIDE * PIXEL_UM / FINE_UM)
    for corner in corners:
        points = [table[["x_um", "y_um"]].to_numpy() - corner for table in both]
        marks = [table["positive"].to_numpy(bool) for table in both]
        laid = lay_spaces(Spaces(classes, 0.0, 0.0, 1.0), still, *corner, (fine, fine))
        windows.append(make_window(name, DISC, *points, *marks, (laid, laid)))
    return windows


def plant_biopsy(
    rng: np.random.Generator, name: str, biopsy: Biopsy, fields: int
) -> list[tuple[float, list[Window]]]:
    """Windows on one biopsy for each planted overlap, with the share that whole infiltrates allow.

    The first marker is the same for all of them, to save time.
    """
    one, own = share_foci(rng, biopsy[0], 0.0, 6.0, 60.0)
    first = populate_biopsy(rng, biopsy, one)
    corners = draw_corners(rng, biopsy[0].tissue, fields)
    found = []
    for planted in PLANTED:
        common = round(planted * len(one))
        second = populate_biopsy(rng, biopsy, np.vstack([one[:common], own[common:]]))
        found.append((common / len(one), cut_windows(name, [first, second], corners, biopsy[2])))
    return found


def draw_corners(rng: np.random.Generator, tissue: shapely.Polygon, number: int) -> list[Floats]:
    """Upper left corners of discs that lie in the tissue and apart."""
    half = SIDE * PIXEL_UM / 2
    inner = tissue.buffer(-half)
    while True:
        found: list[Floats] = []
        for point in rng.uniform(*np.reshape(inner.bounds, (2, 2)), (4000, 2)):
            apart = all(np.hypot(*(point - other)) > 2 * half for other in found)
            if apart and shapely.contains_xy(inner, *point):
                found.append(point)
            if len(found) == number:
                return [point - half for point in found]


def plant(rng: np.random.Generator, blocks: int, fields: int, settings: SitesSettings) -> list[Window]:
    windows = []
    for block in range(blocks):
        for _ in range(fields):
            one, two, rest, other = scatter_sites(rng, SIDE * PIXEL_UM, settings)
            cells = np.vstack([one, rest]), np.vstack([two, other])
            marks = np.arange(len(cells[0])) < len(one), np.arange(len(cells[1])) < len(two)
            windows.append(make_window(f"b{block}", DISC, *cells, *marks))
    return windows


def check_overlap(seeds: range, designs: list[tuple[int, float]]) -> None:
    shown = [int(np.flatnonzero(radius <= RADII_UM)[0]) for radius in (20, 50, 100)]
    heads = "20 um | 50 um | 100 um | interval at 50 um holds it | Spearman, 50 um"
    print(f"| biopsies | error, um | planted | {heads} |\n{'|---' * 8}|")
    for blocks, error_um in designs:
        for planted in PLANTED:
            values, holds, ranks = [], [], []
            for seed in seeds:
                rng = np.random.default_rng(
                    [seed, round(10 * planted), blocks, round(error_um)][: 4 if error_um else 3]
                )
                windows = plant(rng, blocks, 10, SitesSettings(overlap=planted, error_um=error_um))
                units = choose_units([window.block for window in windows])
                found = estimate_overlap(count_pairs(windows), units)
                values.append(found.value[shown])
                holds.append(found.low[shown[1]] <= planted <= found.high[shown[1]])
                ranks.append(smooth_windows(windows, units, 50.0).spearman.value[0])
            array = np.array(values)
            mean, error = np.nanmean(array, 0), np.nanstd(array, 0, ddof=1) / np.sqrt(len(seeds))
            text = " | ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
            about = f"| {blocks} | {error_um:g} | {planted}"
            print(f"{about} | {text} | {np.mean(holds):.0%} | {np.mean(ranks):.2f} |", flush=True)


def check_tissue(seeds: range, blocks: int, chances: list[str], out: Path) -> None:
    """Overlap on arranged tissue, and P where none is planted: of all biopsies, and of each by itself."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(TISSUE_SEED)
    pool = [arrange_biopsy(rng) for _ in range(LAYOUTS)]
    for seed in seeds:
        rng = np.random.default_rng([TISSUE_SEED + seed, blocks])
        chosen = rng.choice(LAYOUTS, blocks, replace=False)
        each = [plant_biopsy(rng, f"b{at}", pool[one], 6) for at, one in enumerate(chosen)]
        for planted, own in zip(PLANTED, zip(*each, strict=True), strict=True):
            row = {"seed": seed, "planted": planted, "true": np.mean([share for share, _ in own])}
            together = [window for _, windows in own for window in windows]
            rows.append(row | judge_windows(together, rng, [] if planted else chances))
            if not planted and blocks > 1:
                rows += [row | judge_windows(windows, rng, chances) for _, windows in own]
        pd.DataFrame(rows).to_csv(out, index=False)
    tabulate_tissue(pd.DataFrame(rows))


def judge_windows(windows: list[Window], rng: np.random.Generator, chances: list[str]) -> dict[str, object]:
    units = choose_units([window.block for window in windows])
    row: dict[str, object] = {"biopsies": len({window.block for window in windows})}
    for kind, even in (("", False), ("even ", True)):
        found = estimate_overlap(count_pairs(windows, even=even), units)
        for radius, *values in zip(RADII_UM, *found, strict=True):
            row |= {f"{kind}{name} {radius:g}": v for name, v in zip(NAMES, values, strict=True)}
    return row | {f"p {name}": CHANCES[name](windows, rng, draws=99).p for name in chances}


def tabulate_tissue(table: pd.DataFrame) -> None:
    heads = "biopsies | ground | planted | runs | 20 um | 50 um | 100 um | interval holds it, at 50 um"
    print(f"| {heads} | at 100 um |\n{'|---' * 9}|")
    for kind, ground in (("", "spaces"), ("even ", "even")):
        for (blocks, _), own in table.groupby(["biopsies", "planted"]):
            values = own[[f"{kind}value {radius}" for radius in (20, 50, 100)]]
            text = " | ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(values.mean(), values.sem(), strict=True))
            ends = [(own[f"{kind}low {at}"], own[f"{kind}high {at}"]) for at in (50, 100)]
            held = [(low.le(own["true"]) & high.ge(own["true"])).mean() for low, high in ends]
            holds = " | ".join(f"{share:.0%}" for share in held)
            print(f"| {blocks} | {ground} | {own['true'].mean():.2f} | {len(own)} | {text} | {holds} |")
    tested = table[table["planted"].eq(0)].assign(cells="independent, on tissue")
    parts = [
        tested.assign(chance=name, p=tested[f"p {name}"])[["biopsies", "cells", "chance", "p"]]
        for name in CHANCES
        if f"p {name}" in tested
    ]
    tabulate_level(pd.concat(parts).rename(columns={"cells": "positive cells"}).sort_values("biopsies"))


def check_level(seeds: range, designs: list[tuple[int, float]], chances: list[str], out: Path) -> None:
    """P of every pattern; cells per site of 0: on tissue."""
    rows = []
    for blocks, cells in designs:
        for seed in seeds:
            rng = np.random.default_rng([FIRST_SEED + seed, blocks, round(cells)])
            for name, windows in list_patterns(rng, blocks, cells):
                for chance in chances:
                    p = CHANCES[chance](windows, rng, draws=99).p
                    rows.append({"biopsies": blocks, "positive cells": name, "chance": chance, "p": p})
            pd.DataFrame(rows).to_csv(out, index=False)
    tabulate_level(pd.DataFrame(rows))


def list_patterns(rng: np.random.Generator, blocks: int, cells: float) -> Iterator[tuple[str, list[Window]]]:
    if not cells:
        yield "independent, on tissue", plant_tissue(rng, blocks, 6)
        return
    kind = "in sites of eight" if cells > 1 else "singly"
    settings = SitesSettings(cells=cells, sites_per_mm2=96 / cells)
    yield f"independent, {kind}", plant(rng, blocks, 10, settings)
    yield f"overlap 0.3, {kind}", plant(rng, blocks, 10, settings.model_copy(update={"overlap": 0.3}))


def tabulate_level(table: pd.DataFrame) -> None:
    print("| biopsies | positive cells | what is shuffled | seeds | P <= 0.05 | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for about, own in table.groupby(["biopsies", "positive cells", "chance"], sort=False):
        below = int((own["p"] <= 0.05).sum())
        low, high = proportion_confint(below, len(own), method="beta")
        named = " | ".join(str(part) for part in about)
        print(f"| {named} | {len(own)} | {below / len(own):.1%} | {low:.1%} to {high:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["register", "photographs", "overlap", "level", "tissue", "table"])
    parser.add_argument("--first", type=int, default=0, help="number of the first pair or seed")
    parser.add_argument("--pairs", type=int, default=63)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--folders", type=Path, nargs="*", default=[], help="of photographs: two .svs each")
    parser.add_argument("--size-um", type=float, default=1600.0)
    parser.add_argument("--designs", nargs="*", help="biopsies:error for overlap, biopsies:cells for level")
    parser.add_argument(
        "--chances", nargs="*", choices=CHANCES, default=list(CHANCES), help="for level and tissue"
    )
    parser.add_argument("--out", type=Path, nargs="+", default=[Path("serial_pairs.csv")])
    asked = parser.parse_args()
    designs = [(int(one.split(":")[0]), float(one.split(":")[1])) for one in asked.designs or ()]
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.what == "photographs":
        rows = [row for folder in asked.folders for row in register_photographs(folder, asked.pairs)]
        print(pd.DataFrame(rows).round(3).to_string(index=False))
    elif asked.what == "register":
        check_registration(range(asked.first, asked.first + asked.pairs), asked.size_um, asked.out[0])
    elif asked.what == "table":
        table = pd.concat([pd.read_csv(path) for path in asked.out])
        if "planted" in table:
            tabulate_tissue(table)
        else:
            tabulate_level(table) if "p" in table else tabulate_registration(table.sort_values("seed"))
    elif asked.what == "tissue":
        check_tissue(seeds, round(designs[0][0]) if designs else 8, asked.chances, asked.out[0])
    elif asked.what == "overlap":
        check_overlap(seeds, designs or [(1, 0.0), (4, 0.0), (4, 8.0), (8, 0.0)])
    else:
        designs = designs or [(1, 8.0), (1, 1.0), (1, 0.0)]
        check_level(seeds, designs, asked.chances, asked.out[0])


if __name__ == "__main__":
    main()
