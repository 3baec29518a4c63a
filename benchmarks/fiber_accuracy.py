"""Accuracy of a fiber segmenter per data set: `python benchmarks/fiber_accuracy.py --help`.

Photographs and restained sections are read from ../shared; without them only rendered sections are judged.
Objects under 100 um2 and those that lie mostly in uncertain areas count neither way; fibers cut by the
border of an image count like any other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from matching import drop_ignored, find_matched, match_labels
from mirrored import fold_mirrored, part_mirrored
from scipy.cluster.hierarchy import fcluster, linkage
from skimage.measure import regionprops
from skimage.segmentation import find_boundaries

from histoquant.fibers import get_segmenter
from histoquant.geometry import Field, Patch, rasterize_field
from histoquant.network import segment_with_network
from histoquant.protocol import FiberSettings
from histoquant.slide import open_slide
from histoquant.stains import DEFAULT_VECTORS, separate_stains
from histoquant.synthetic import (
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    Truth,
    read_truth,
    render_section,
)

SHARED = Path(__file__).parents[1].parent / "shared"
WHITE = (243.0, 241.0, 239.0)
PHOTOGRAPH_UM = 1002 * 0.4
FIELD_UM, MARGIN_UM = 550.0, 150.0
MIN_UM2 = 100.0
SAME_PLACE_UM = 12.0
RENDERED = {
    "rendered pale": (StainingSettings(), LayoutSettings()),
    "rendered similar": (StainingSettings(endomysium="similar"), LayoutSettings()),
    "rendered hue": (StainingSettings(endomysium="hue"), LayoutSettings()),
    "rendered dark": (StainingSettings(endomysium="dark"), LayoutSettings()),
    "rendered weak": (StainingSettings(fiber_od=0.04, background_od=0.02), LayoutSettings()),
    "rendered soft": (StainingSettings(blur_um=1.2), LayoutSettings()),
    "rendered small": (StainingSettings(), LayoutSettings(fiber_um=28, atrophic=0.2)),
    "rendered large": (StainingSettings(), LayoutSettings(fiber_um=95)),
    "rendered tight": (StainingSettings(), LayoutSettings(endomysium_um=1.2)),
}


class Case(NamedTuple):
    """An image with known fibers; `ignore` may be all False."""

    data: str
    patch: Patch
    labels: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]


def read_photographs(names: list[str]) -> Iterator[Case]:
    """The stained photographs, each marker an image."""
    folder = SHARED / "data" / "muscle" / "hdab"
    for path in sorted(folder.glob("*.png")):
        name = path.stem[:2]
        if name not in names or path.stem.endswith(("_fibers", "_ignore")):
            continue
        fibers, ignore = (cv2.imread(str(folder / f"{name}_{i}.png"), -1) for i in ("fibers", "ignore"))
        hard = " hard" if path.stem.endswith("HARD") else ""
        patch = Patch(cv2.imread(str(path))[..., ::-1], 0.0, 0.0, 0.4)
        yield Case(f"photograph {name}{hard}", patch, fibers.astype(np.int32), ignore > 0)


def read_he(names: list[str]) -> Iterator[Case]:
    """The photographs in haematoxylin and eosin, a stain nothing was trained on; no goal."""
    folder = SHARED / "data" / "muscle" / "he"
    for name in names:
        fibers, ignore = (cv2.imread(str(folder / f"{name}_{i}.png"), -1) for i in ("fibers", "ignore"))
        pixels = np.ascontiguousarray(cv2.imread(str(folder / f"{name}.tif"))[..., ::-1])
        yield Case(
            f"photograph {name} H&E", Patch(pixels, 0.0, 0.0, 0.4), fibers.astype(np.int32), ignore > 0
        )


def read_fluorescence() -> Iterator[Case]:
    """Fiber borders in fluorescence, shown as darker endomysium on pale fibers; no goal."""
    folder, mpp = SHARED / "data" / "muscle" / "fluorescence", 0.922
    border = tifffile.imread(folder / "human.tif")[-1].astype(np.float32)
    low, high = np.percentile(border, (1, 99))
    density = 0.05 + 0.25 * np.clip((border - low) / (high - low), 0, 1)
    unit = np.array(DEFAULT_VECTORS[0]) / np.linalg.norm(DEFAULT_VECTORS[0])
    pixels = np.rint(WHITE * 10 ** -(density[..., None] * unit)).astype(np.uint8)
    labels = cv2.imread(str(folder / "human_fibers.png"), -1).astype(np.int32)
    yield Case("fluorescence", Patch(pixels, 0.0, 0.0, mpp), labels, np.zeros(labels.shape, bool))


def read_sections(names: list[str], cache: Path, number: int) -> Iterator[Case]:
    """Fields with margin out of restained sections, made once in `cache`."""
    side = FIELD_UM + 2 * MARGIN_UM
    for name in names:
        for hard, seed in ((False, 21), (True, 22)):
            folder = cache / f"{name}{'-hard' if hard else ''}"
            if not (folder / "CD19_cells.csv").exists():
                tool, photographs = SHARED / "tools" / "restain.py", SHARED / "data" / "muscle" / "he"
                command = [sys.executable, str(tool), "section", str(photographs), name, str(folder)]
                subprocess.run([*command, "--seed", str(seed), *(["--hard"] if hard else [])], check=True)
            truth = read_truth(folder / "CD19", slide_mpp=0.4)
            assert truth.uncertain is not None
            parted = part_mirrored(truth.labels, number_tiles(truth))
            rng = np.random.default_rng(seed)
            with open_slide(folder / "CD19.svs") as slide:
                for _ in range(number):
                    x_um, y_um = rng.uniform(210, slide.width_px * 0.4 - 210 - side, 2)
                    patch = slide.read(x_um, y_um, side, side)
                    rows, columns = (np.arange(n) for n in patch.pixels.shape[:2])
                    row = ((patch.y_um + (rows + 0.5) * patch.mpp - truth.y_um) / truth.mpp).astype(int)
                    column = ((patch.x_um + (columns + 0.5) * patch.mpp - truth.x_um) / truth.mpp).astype(int)
                    at = np.ix_(row, column)
                    data = f"section {name}{' hard' if hard else ''}"
                    labels, ignore = truth.labels[at], truth.uncertain[at]
                    yield Case(data, patch, labels, ignore)
                    yield Case(f"{data}, mirror images parted", patch, parted[at], ignore)
                    crossing = labels[
                        np.ix_(_on_seam(patch.y_um, patch.mpp, rows), np.full(len(columns), True))
                    ]
                    across = labels[
                        np.ix_(np.full(len(rows), True), _on_seam(patch.x_um, patch.mpp, columns))
                    ]
                    seams = np.isin(labels, np.union1d(crossing, across)) & (labels > 0)
                    yield Case(f"{data}, seams apart", patch, labels, ignore | seams)


def number_tiles(truth: Truth) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which photograph of a restained section each row and column of its truth belongs to."""
    starts = ((truth.y_um, truth.labels.shape[0]), (truth.x_um, truth.labels.shape[1]))
    centers = (start + (np.arange(count) + 0.5) * truth.mpp for start, count in starts)
    rows, columns = (((at - PHOTOGRAPH_UM / 2) // PHOTOGRAPH_UM).astype(np.int64) for at in centers)
    return rows, columns


def _on_seam(start_um: float, mpp: float, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Pixels next to where a photograph meets its mirror image, every 400.8 um."""
    place = start_um + (pixels + 0.5) * mpp + PHOTOGRAPH_UM / 2
    return np.asarray(np.abs((place + PHOTOGRAPH_UM / 2) % PHOTOGRAPH_UM - PHOTOGRAPH_UM / 2) < 2)


def render_cases(number: int, seed: int) -> Iterator[Case]:
    """Rendered sections, with gaps from visible to hardly visible."""
    for data, (staining, layout) in RENDERED.items():
        layout = layout.model_copy(update={"rim_um": 20.0})
        for i in range(number):
            settings = RenderSettings(size_um=(850, 850), layout=layout, staining=staining)
            section = render_section(np.random.default_rng([seed, i]), settings)
            labels = np.repeat(np.repeat(section.labels, 2, 0), 2, 1)
            ignore = np.zeros(labels.shape, bool)
            yield Case(data, Patch(section.pixels, 0.0, 0.0, section.mpp), labels, ignore)


def disturb_cases(cases: Iterator[Case]) -> Iterator[Case]:
    """Every plain case with faults of staining, light, focus, compression and pixel size."""
    for case in cases:
        if case.data.endswith("hard"):
            continue
        for fault, patch in disturb_patch(case.patch):
            yield case._replace(data=f"{case.data}: {fault}", patch=patch)


def disturb_patch(patch: Patch) -> Iterator[tuple[str, Patch]]:
    pixels, mpp = patch.pixels, patch.mpp
    od = np.log10(np.array(WHITE) / np.maximum(pixels, 1))
    plain = np.stack([*DEFAULT_VECTORS, np.cross(*DEFAULT_VECTORS)])
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    densities = od @ np.linalg.inv(plain)
    yield "as it is", patch
    for degrees in (-10, 10):
        turned = plain.copy()
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        side = plain[1] - (plain[0] @ plain[1]) * plain[0]
        turned[0] = c * plain[0] + s * side / np.linalg.norm(side)
        yield f"haematoxylin turned {degrees:+d} degrees", _expose(densities @ turned, mpp)
    for fault, gains in (
        ("faded 30 %", (0.7, 0.7, 1)),
        ("counterstain -30 %", (0.7, 1, 1)),
        ("counterstain +30 %", (1.3, 1, 1)),
    ):
        yield fault, _expose(densities * gains @ plain, mpp)
    for white in (200, 225, 250):
        scaled = pixels.astype(float) * white / WHITE[0]
        yield f"white {white}, taken as 243", Patch(np.clip(scaled, 0, 255).astype(np.uint8), 0.0, 0.0, mpp)
    yield "blur 1.5 um", Patch(cv2.GaussianBlur(pixels, (0, 0), 1.5 / mpp), 0.0, 0.0, mpp)
    code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    yield "JPEG quality 30", Patch(cv2.imdecode(code, cv2.IMREAD_COLOR), 0.0, 0.0, mpp)
    for new in (0.17, 0.25, 0.35, 0.5, 1.0):
        how = cv2.INTER_AREA if new > mpp else cv2.INTER_LINEAR
        resized = cv2.resize(pixels, None, fx=mpp / new, fy=mpp / new, interpolation=how)
        yield f"{new} um/px", Patch(resized, 0.0, 0.0, new)


def _expose(od: npt.NDArray[np.float64], mpp: float) -> Patch:
    return Patch(np.clip(WHITE * 10**-od, 0, 255).round().astype(np.uint8), 0.0, 0.0, mpp)


def judge_case(
    segment: Callable[..., npt.NDArray[np.int32]], case: Case, pictures: Path | None
) -> dict[str, object]:
    """One row of the table."""
    stains = separate_stains(case.patch, WHITE)
    start = time.process_time()
    found = segment(stains)
    seconds = time.process_time() - start
    truth, found, ignore = _align(case, found)
    least = round(MIN_UM2 / stains.mpp**2)
    half, strict = (match_labels(truth, found, iou, ignore, least) for iou in (0.5, 0.75))
    counts = [_count_in_field(drop_ignored(labels, ignore, least), stains.mpp) for labels in (truth, found)]
    if pictures:
        name = f"{half.f1:.3f} {case.data} {int(truth.sum()) % 10_000}.jpg".replace(" ", "_")
        _draw(pictures / name, case, truth, found)
    return {
        "data": case.data,
        "f1": half.f1,
        "f1_75": strict.f1,
        "pq": half.panoptic_quality,
        "fibers": counts[0],
        "counted": counts[1],
        "seconds": seconds,
    }


def find_places(
    segment: Callable[..., npt.NDArray[np.int32]], cases: Iterable[Case]
) -> list[dict[str, object]]:
    """Fibers of plain sections, mirror images parted: place in the photograph, and if there is a match."""
    rows: list[dict[str, object]] = []
    for case in cases:
        if "parted" in case.data and "hard" not in case.data:
            stains = separate_stains(case.patch, WHITE)
            truth, found, ignore = _align(case, segment(stains))
            least = round(MIN_UM2 / stains.mpp**2)
            maps = [drop_ignored(labels, ignore, least) for labels in (truth, found)]
            for kind, labels, matched in zip(("true", "found"), maps, find_matched(*maps), strict=True):
                for region in regionprops(labels):
                    row, column = ((middle + 0.5) * stains.mpp for middle in region.centroid)
                    at = (case.patch.x_um + column, case.patch.y_um + row)
                    place = [fold_mirrored(side, PHOTOGRAPH_UM) for side in at]
                    about = {"data": case.data, "kind": kind, "place_um": place}
                    rows.append({**about, "matched": region.label in matched})
    return rows


def count_places(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Of fibers without a match: at how many places of the photograph, and how many at the commonest ones."""
    lines = []
    table = pd.DataFrame(rows, columns=["data", "kind", "matched", "place_um"])
    for (data, kind), part in table.groupby(["data", "kind"]):
        places = np.array(part.loc[~part["matched"].astype(bool), "place_um"].tolist()).reshape(-1, 2)
        alone = len(places) < 2  # nothing to group
        groups = (
            1 + np.arange(len(places))
            if alone
            else fcluster(linkage(places, "average"), SAME_PLACE_UM, "distance")
        )
        often = np.sort(np.bincount(groups, minlength=1)[1:])[::-1]
        line = {"data": data, "fibers": kind, "number": len(part), "without a match": len(places)}
        lines.append({**line, "places": len(often), "at the five commonest": int(often[:5].sum())})
    columns = ["data", "fibers", "number", "without a match", "places", "at the five commonest"]
    return pd.DataFrame(lines, columns=columns)


def _align(
    case: Case, found: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Truth, found and ignored pixels on the grid of what was found."""
    truth, ignore = (
        cv2.resize(image.astype(np.float32), found.shape[::-1], interpolation=cv2.INTER_NEAREST)
        for image in (case.labels, case.ignore)
    )
    return truth.astype(np.int32), found, ignore > 0


def _count_in_field(labels: npt.NDArray[np.int32], mpp: float) -> int:
    """Fibers more than half inside the circle of the default field in the middle."""
    middle_um = labels.shape[1] * mpp / 2, labels.shape[0] * mpp / 2
    width_um = min(FIELD_UM, 2 * min(middle_um) - 100)
    field = Field(1, "circle", *middle_um, width_um, width_um)
    inside = rasterize_field(field, labels.shape, 0.0, 0.0, mpp)
    size = np.bincount(labels.ravel())
    share = np.bincount(labels[inside], minlength=len(size)) / np.maximum(size, 1)
    return int((share[1:] > 0.5).sum())


def _draw(path: Path, case: Case, truth: npt.NDArray[np.int32], found: npt.NDArray[np.int32]) -> None:
    """Truth green, found red, both yellow."""
    image = cv2.resize(case.patch.pixels, truth.shape[::-1], interpolation=cv2.INTER_AREA)[..., ::-1].copy()
    a, b = (find_boundaries(labels, mode="inner") for labels in (truth, found))
    image[a], image[b], image[a & b] = (0, 200, 0), (0, 0, 255), (0, 220, 255)
    cv2.imwrite(str(path), image)


def summarise(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Mean per data set; the count error is that of the summed counts."""
    groups = pd.DataFrame(rows).groupby("data", sort=False)
    means, sums = groups[["f1", "f1_75", "pq", "seconds"]].mean(), groups[["fibers", "counted"]].sum()
    return means.join(sums).assign(count_error=sums.counted / sums.fibers - 1, images=groups.size())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="network", help="a name of fibers.method")
    parser.add_argument("--model", type=Path, help="another network")
    parser.add_argument("--photographs", nargs="*", default=["01", "02"], help="those the model has not seen")
    parser.add_argument("--cache", type=Path, default=Path(".cache/sections"))
    parser.add_argument("--fields", type=int, default=4, help="per section")
    parser.add_argument("--rendered", type=int, default=2, help="sections per kind")
    parser.add_argument("--seed", type=int, default=9_000, help="of rendered sections")
    parser.add_argument("--faults", action="store_true", help="disturb photographs and rendered pale ones")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--out", type=Path, help="CSV file")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.method == "network":
        segment = partial(segment_with_network, model=args.model)
    else:
        segment = get_segmenter(FiberSettings(method=args.method))
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    cases = [render_cases(args.rendered, args.seed)] if args.rendered else []
    if SHARED.is_dir():
        sections = read_sections(args.photographs, args.cache, args.fields)
        cases = [read_photographs(args.photographs), sections, *cases]
    else:
        print(f"{SHARED} is absent: rendered sections only")
    if args.faults:
        pale = (case for case in render_cases(1, args.seed) if case.data == "rendered pale")
        cases = [disturb_cases(chain(read_photographs(args.photographs), pale))]
    table = summarise([judge_case(segment, case, args.pictures) for case in chain(*cases)])
    print(table.round(3).to_string())
    if args.out:
        table.round(4).to_csv(args.out)


if __name__ == "__main__":
    main()
