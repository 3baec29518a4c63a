"""Accuracy of positive cells and of a field's counts: `python benchmarks/cell_accuracy.py --help`.

Whole images are measured as a run measures a field: stains, fibers, cells, the positive call, half-area
rule. Cells are matched one to one within 4 um. Cells whose truth is unknown, too small or fused, count
neither way. Photographs are read from ../shared and judged by the fiber network that left them out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from fiber_accuracy import SHARED, WHITE, disturb_patch
from scipy.optimize import linear_sum_assignment

from histoquant.annotations import Annotations
from histoquant.cells import find_cells
from histoquant.counts import count_field
from histoquant.fibers import get_segmenter
from histoquant.geometry import Field, Patch
from histoquant.objects import find_inside, list_objects
from histoquant.protocol import FiberSettings, MarkerSettings, Protocol
from histoquant.stains import correct_spill, estimate_white, separate_stains
from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    Truth,
    find_uncertain,
    render_section,
    tell_truth,
    truth_in_field,
    vary_section,
)

MATCH_UM = 4.0
RIM_UM = 10.0
KI67 = "Ki67"
DEEPLIIF_MPP = 0.25
NO_RINGS = ("rendered, cell", KI67)
PROTOCOL = Protocol(markers={**Protocol().markers, KI67: MarkerSettings(compartment="nucleus")})
PHOTOGRAPH_MPP = 0.4
HARD_STAINING = StainingSettings(
    background_od=0.09,
    unevenness=0.5,
    positive_fibers=0.06,
    precipitate_per_mm2=25,
    fiber_od=0.06,
    noise=2.5,
    blur_um=0.6,
)
HARD_CELLS = CellsSettings(ring_od=(0.15, 1.0), unevenness=0.5, faint=0.1, touching=0.6)
THRESHOLDS = (0.04, 0.05, 0.06, 0.07, 0.08)
DENSE = CellsSettings(positive_cells_per_fiber=1.2, lymphocytes_per_fiber=1.5, touching=0.7)
LAYOUT = LayoutSettings(rim_um=20.0)
RENDERED = {
    "rendered": (StainingSettings(), CellsSettings(), "CD19"),
    "rendered dense": (StainingSettings(), DENSE, "CD19"),
    "rendered, cell": (
        StainingSettings(),
        CellsSettings(compartment="cell", positive_cells_per_fiber=0.15),
        "BAFF",
    ),
    "rendered hard": (HARD_STAINING, HARD_CELLS, "CD19"),
}


class Case(NamedTuple):
    """An image whose cells and fibers are known; `model` is the network to judge it by."""

    data: str
    patch: Patch
    truth: Truth
    marker: str
    model: Path | None = None
    white: tuple[float, float, float] = WHITE


class Score(NamedTuple):
    """Matches of one image: `calls` has one row per judged cell that was found."""

    data: str
    positive: int
    hits: int
    missed_call: int
    missed_cell: int
    false: int
    negatives: int
    false_calls: int
    counts: dict[str, float]
    calls: pd.DataFrame


def read_photographs(name: str, models: Path | None) -> Iterator[Case]:
    """A photograph as it was stained."""
    folder = SHARED / "data" / "muscle" / "hdab"
    for path in sorted(folder.glob(f"{name}_*_cells.csv")):
        yield _read_field(folder, path.stem.removesuffix("_cells"), folder, models)


def restain_fields(photograph: str, models: Path | None, seeds: range) -> Iterator[Case]:
    """A photograph, stained by other seeds."""
    tool, source = SHARED / "tools" / "restain.py", SHARED / "data" / "muscle" / "he"
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            for hard in ((), ("--hard",)):
                out = Path(name) / f"{seed}{'-'.join(hard)}"
                command = [sys.executable, tool, "field", source, photograph, out, "--seed", seed]
                if hard:
                    command += ["--hard", "--marker", "CD19_HARD"]
                subprocess.run([str(word) for word in command], check=True, capture_output=True)
                stem = f"{photograph}_CD19{'_HARD' if hard else ''}"
                yield _read_field(out, stem, SHARED / "data" / "muscle" / "hdab", models)


def _read_field(folder: Path, stem: str, masks: Path, models: Path | None) -> Case:
    name, marker = stem.split("_")[:2]
    fibers, ignore = (cv2.imread(str(masks / f"{name}_{part}.png"), -1) for part in ("fibers", "ignore"))
    pixels = np.ascontiguousarray(cv2.imread(str(folder / f"{stem}.png"))[..., ::-1])
    cells = pd.read_csv(folder / f"{stem}_cells.csv").assign(nucleus=True)
    truth = Truth(fibers.astype(np.int32), 0.0, 0.0, PHOTOGRAPH_MPP, cells, ignore > 0)
    data = f"restained {name}{' hard' if stem.endswith('HARD') else ''}"
    model = models / f"without{name}.onnx" if models else None
    # Rings are drawn in these images whatever the marker is called.
    return Case(
        data, Patch(pixels, 0.0, 0.0, PHOTOGRAPH_MPP), truth, "CD19" if marker != "BAFF" else "BAFF-R", model
    )


def read_ki67() -> Iterator[Case]:
    """Nuclear stain in other organs, cells by DeepLIIF's authors; a few are not named. No goal."""
    folder = SHARED / "data" / "ihc" / "deepliif"
    for path in sorted(folder.glob("*_cells.csv")):
        pixels = cv2.imread(str(path.with_name(path.name.replace("_cells.csv", ".png"))))[..., ::-1]
        table = pd.read_csv(path)
        cells = pd.DataFrame(
            {
                "x_um": table["x"] * DEEPLIIF_MPP,
                "y_um": table["y"] * DEEPLIIF_MPP,
                "nucleus_radius_um": np.sqrt(table["area_px"] / np.pi) * DEEPLIIF_MPP,
                "positive": table["class"].eq("positive").astype(int),
                "nucleus": True,
            }
        )
        patch = Patch(np.ascontiguousarray(pixels), 0.0, 0.0, DEEPLIIF_MPP)
        truth = Truth(np.zeros(pixels.shape[:2], np.int32), 0.0, 0.0, DEEPLIIF_MPP, cells)
        yield Case(KI67, patch, truth, KI67, white=estimate_white(patch.pixels)[0])


def render_cases(number: int, seed: int) -> Iterator[Case]:
    """Rendered sections, easy to hard, through JPEG as a scanner writes it."""
    for data, (staining, cells, marker) in RENDERED.items():
        for i in range(number):
            settings = RenderSettings(size_um=(700, 700), layout=LAYOUT, staining=staining, cells=cells)
            yield _render(data, np.random.default_rng([seed, i]), settings, marker)


def vary_cases(number: int, seed: int) -> Iterator[Case]:
    """Rendered sections, each of another block, staining run and scan."""
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        settings = vary_section(rng, RenderSettings(size_um=(700, 700), layout=LAYOUT))
        yield _render("rendered, staining varied", rng, settings, "CD19")


def _render(data: str, rng: np.random.Generator, settings: RenderSettings, marker: str) -> Case:
    section = render_section(rng, settings)
    code = cv2.imencode(".jpg", section.pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    pixels = cv2.imdecode(code, cv2.IMREAD_COLOR)
    return Case(data, Patch(pixels, 0.0, 0.0, section.mpp), tell_truth(section), marker)


def disturb_cases(cases: Iterator[Case]) -> Iterator[Case]:
    """Every plain case with faults of staining, light, focus, compression and pixel size."""
    for case in cases:
        if not case.data.endswith("hard"):
            for fault, patch in disturb_patch(case.patch):
                yield case._replace(data=f"{case.data}: {fault}", patch=patch)


def judge_case(case: Case) -> Score:
    """Measure an image as a run measures a field, and compare cells and counts with the truth."""
    marker = PROTOCOL.markers[case.marker]
    field = _frame(case.patch)
    objects = measure_patch(case, marker, field)
    cells = objects[objects["kind"].eq("cell") & objects["nucleus"].eq(True)]
    true = case.truth.cells[case.truth.cells["nucleus"].astype(bool)]
    true, cells = (_keep_inner(table, case) for table in (true, cells))
    known = true["positive"].to_numpy(int)
    i, j = match_points(_points(true), _points(cells))
    call = cells["positive"].to_numpy(bool)
    judged = known[i] >= 0
    calls = cells.iloc[j[judged]][["dab_od", "confidence", "positive"]].assign(truth=known[i[judged]] == 1)
    alone = np.setdiff1d(np.flatnonzero(call), j)
    alone = alone[~_near_unknown(_points(cells)[alone], _points(true)[known < 0])]
    alone_calls = cells.iloc[alone][["dab_od", "confidence", "positive"]].assign(truth=False)
    hits = int((calls["truth"] & calls["positive"]).sum())
    missed = int((calls["truth"] & ~calls["positive"]).sum())
    false = int((~calls["truth"] & calls["positive"]).sum())
    positive = int((known == 1).sum())
    return Score(
        case.data,
        positive,
        hits,
        missed,
        positive - hits - missed,
        false + len(alone),
        int((~calls["truth"]).sum()),
        false,
        _count(case, objects, field),
        pd.concat([calls, alone_calls]) if len(alone) else calls,
    )


def measure_patch(case: Case, marker: MarkerSettings, field: Field) -> pd.DataFrame:
    """Objects of an image, by the stages of a run."""
    stains = correct_spill(separate_stains(case.patch, case.white))
    settings = FiberSettings(model=str(case.model) if case.model else "")
    fibers = get_segmenter(settings)(stains)
    cells = find_cells(stains, PROTOCOL.cells, marker.compartment)
    inside = find_inside(field, Annotations(None, None, ()), stains)
    return list_objects(1, fibers, cells, stains, inside, marker, PROTOCOL.cells)


def match_points(
    true: npt.NDArray[np.float64], found: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs within 4 um, one to one, the sum of distances least."""
    if not len(true) or not len(found):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance = np.linalg.norm(true[:, None] - found[None], axis=2)
    i, j = linear_sum_assignment(np.where(distance <= MATCH_UM, distance, 1e3))
    near = distance[i, j] <= MATCH_UM
    return i[near], j[near]


def _frame(patch: Patch) -> Field:
    """The default field, or what leaves a rim of 60 um of a smaller image."""
    rows, columns = patch.pixels.shape[:2]
    side = min(rows, columns) * patch.mpp
    width = min(550.0, side - 120.0)
    return Field(1, "square", columns * patch.mpp / 2, rows * patch.mpp / 2, width, width)


def _keep_inner(table: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Objects whose whole is in the picture and whose place is known."""
    rows, columns = case.patch.pixels.shape[:2]
    inner = table["x_um"].between(RIM_UM, columns * case.patch.mpp - RIM_UM)
    inner &= table["y_um"].between(RIM_UM, rows * case.patch.mpp - RIM_UM)
    return table[inner & ~find_uncertain(case.truth, table["x_um"], table["y_um"])]


def _points(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    return np.asarray(table[["x_um", "y_um"]], float)


def _near_unknown(points: npt.NDArray[np.float64], unknown: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    if not len(points) or not len(unknown):
        return np.zeros(len(points), bool)
    return np.linalg.norm(points[:, None] - unknown[None], axis=2).min(axis=1) <= MATCH_UM


def _count(case: Case, objects: pd.DataFrame, field: Field) -> dict[str, float]:
    """Counts of the field, measured and true; uncertain places count neither way."""
    known = objects[~find_uncertain(case.truth, objects["x_um"], objects["y_um"])]
    row, true = count_field(known), truth_in_field(case.truth, field)
    return {
        "fibers": row["fibers"],
        "true_fibers": true.fibers,
        "positive_cells": row["positive_cells"],
        "true_positive_cells": true.positive_cells,
    }


def summarise(scores: list[Score]) -> pd.DataFrame:
    """One row per data set, of summed matches and counts."""
    rows = pd.DataFrame([{**score._asdict(), **score.counts} for score in scores])
    total = rows.drop(columns=["counts", "calls"]).groupby("data", sort=False).sum()
    total.insert(0, "images", rows.groupby("data", sort=False).size())
    ratio = total["positive_cells"] / total["fibers"]
    true = total["true_positive_cells"] / total["true_fibers"]
    return pd.DataFrame(
        {
            "images": total["images"],
            "positive": total["positive"],
            "F1": 2 * total["hits"] / (total["positive"] + total["hits"] + total["false"]),
            "precision": total["hits"] / (total["hits"] + total["false"]),
            "recall": total["hits"] / total["positive"],
            "not found": total["missed_cell"],
            "called negative": total["missed_call"],
            "sensitivity": total["hits"] / (total["hits"] + total["missed_call"]),
            "specificity": 1 - total["false_calls"] / total["negatives"],
            "fibers, error": total["fibers"] / total["true_fibers"] - 1,
            "positive cells, error": total["positive_cells"] / total["true_positive_cells"] - 1,
            "ratio, error": ratio / true - 1,
        }
    )


def tabulate_calibration(scores: list[Score], parts: int = 5) -> pd.DataFrame:
    """Confidence said and share of right calls, over all judged cells."""
    calls = pd.concat([score.calls.assign(data=score.data) for score in scores], ignore_index=True)
    calls["right"] = calls["positive"].astype(bool) == calls["truth"].astype(bool)
    calls["call"] = np.where(calls["positive"].astype(bool), "positive", "negative")
    calls["bin"] = pd.cut(calls["confidence"], np.linspace(0.5, 1, parts + 1), include_lowest=True)
    grouped = calls.groupby(["call", "bin"], observed=True)
    return grouped.agg(
        cells=("right", "size"), said=("confidence", "mean"), right=("right", "mean")
    ).reset_index()


def try_thresholds(scores: list[Score]) -> pd.DataFrame:
    """Wrong calls of cells that were found, had another threshold been set: missed + false."""
    rows = []
    for score in scores:
        if score.data in NO_RINGS:
            continue
        truth, od = score.calls["truth"].astype(bool), score.calls["dab_od"]
        missed = {f"{at:.2f} missed": int((truth & od.le(at)).sum()) for at in THRESHOLDS}
        false = {f"{at:.2f} false": int((~truth & od.gt(at)).sum()) for at in THRESHOLDS}
        rows.append({"data": score.data, "images": 1, "positive": score.positive, **missed, **false})
    table = pd.DataFrame(rows).groupby("data", sort=False).sum()
    table.loc["all"] = table.sum()
    for at in THRESHOLDS:
        both = [table.pop(f"{at:.2f} {kind}").astype(str) for kind in ("missed", "false")]
        table[f"at {at:.2f} OD"] = both[0] + " + " + both[1]
    return table.reset_index()


def list_cases(name: str, models: Path | None, seed: int, number: int, faults: bool) -> Iterator[Case]:
    """Images of a photograph, `varied`, `Ki67` or `rendered`, or the plain ones with faults."""
    if name == "varied":
        if not faults:
            yield from vary_cases(8 * number, seed)
    elif name == KI67:
        if not faults:
            yield from read_ki67()
    elif name != "rendered":
        photographs = read_photographs(name, models)
        if faults:
            yield from disturb_cases(case for case in photographs if case.marker == "CD19")
        else:
            yield from photographs
            yield from restain_fields(name, models, range(501, 501 + number))
    elif faults:
        plain = (c for c in render_cases(1, seed) if c.data in ("rendered", "rendered dense"))
        yield from disturb_cases(plain)
    else:
        yield from render_cases(number, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(__file__).parent / "models",
        help="folder with without01.onnx and without02.onnx",
    )
    parser.add_argument("--seed", type=int, default=8_000, help="of rendered sections")
    parser.add_argument("--number", type=int, default=4, help="images per kind")
    parser.add_argument("--faults", action="store_true", help="disturb the plain images")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    names = ("rendered", "varied")
    if args.models is not None and SHARED.is_dir():
        names = ("01", "02", *names, KI67)
    options = (args.models, args.seed, args.number, args.faults)
    scores = [judge_case(case) for name in names for case in list_cases(name, *options)]
    print(summarise(scores).round(3).to_string())
    print(tabulate_calibration(scores).round(3).to_string())
    print(try_thresholds(scores).to_string())


if __name__ == "__main__":
    main()
