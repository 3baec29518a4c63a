"""Speed in one page: `python benchmarks/speed.py` writes docs/benchmarks.md.

CPU time, not time by the clock, except where it says so: a busy machine makes the clock useless. The
contestants take turns (A B C A B C), and what each counted is printed beside its time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
from plain_skimage import measure_plainly
from tables import format_table

from histoquant import fibers, network, pictures, pipeline, prepare, slide
from histoquant.executors import HUGE_PAGES, calm_threads, keep_memory
from histoquant.geometry import rasterize_field
from histoquant.prepare import FieldTask, prepare_section
from histoquant.protocol import Protocol, validate_protocol
from histoquant.study import Section, Source
from histoquant.synthetic import (
    MarkerPlan,
    RenderSettings,
    StudyPlan,
    read_truth,
    truth_in_field,
    write_study,
)
from histoquant.synthetic.settings import LayoutSettings
from histoquant.tiles import make_buffer

ROOT = Path(__file__).parents[1]
MARKER = "CD19"
COUNTED = ("read", "stains", "fiber network", "fibers from its maps", "cells", "measure")
"""Stages from the region read to its counts; the rest is for people to look at."""
STAGES: tuple[tuple[Any, str, str], ...] = (
    (slide.Slide, "read", "read"),
    (prepare, "separate_stains", "stains"),
    (prepare, "correct_spill", "stains"),
    (pipeline, "measure_quality", "quality of the image"),
    (network, "run_network", "fiber network"),
    (fibers, "segment_with_network", "fibers from its maps"),
    (pipeline, "find_cells_of_field", "cells"),
    (pipeline, "find_inside", "measure"),
    (pipeline, "list_objects", "measure"),
    (pipeline, "count_field", "measure"),
    (pipeline, "cross_check_fibers", "check by a second method"),
    (pictures, "draw_overlay", "pictures"),
    (pictures, "draw_field_thumbnail", "pictures"),
    (pictures, "encode_jpeg", "pictures"),
    (pictures, "encode_webp", "pictures"),
    (pipeline, "encode_labels", "label maps"),
    (pipeline, "outline_objects", "outlines"),
)

_HISTOMICSTK_NEEDS = (
    *("scikit-image", "scikit-learn", "pandas", "opencv-python-headless", "nimfa", "imageio", "shapely"),
    *("large-image", "large-image-source-openslide", "large-image-source-tiff", "girder-client", "ctk-cli"),
    *("dask[dataframe]<2024.11.0", "sqlalchemy", "matplotlib", "setuptools<81"),
)


class Stopwatch:
    """CPU time of the stages of a field, each without what it calls that is a stage itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        for owner, name, stage in STAGES:
            setattr(owner, name, self._wrap(getattr(owner, name), stage))

    def _wrap(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - began
                self.seconds[stage] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


class Case(NamedTuple):
    """A field to measure, and what is true in it."""

    task: FieldTask
    pixels: Any
    origin_um: tuple[float, float]
    true: tuple[int, int]
    nuclei: int


def make_cases(folder: Path, seed: int, count: int) -> list[Case]:
    """One default field of each of some rendered sections at 0.25 um/px, rendered if they are not there."""
    render = RenderSettings(size_um=(1500.0, 1500.0), mpp=0.25, layout=LayoutSettings(rim_um=60.0))
    markers = {MARKER: MarkerPlan(mean=(0.3, 0.5), sd=(0.1, 0.1))}
    plan = StudyPlan(patients=(1, count - 1), markers=markers, render=render, vary=False)
    if not (folder / "STUDY.csv").exists():
        write_study(folder, plan, seed)
    return [_make_case(folder, f"P{number:02d}-{MARKER}") for number in range(1, count + 1)]


def _make_case(folder: Path, name: str) -> Case:
    protocol = validate_protocol({"fields": {"count": 1}}, "benchmark")
    section = Section(name, name, "", MARKER, "", "", "", (Source(folder / "slides" / f"{name}.svs", 2),))
    task = prepare_section(section, protocol, 0).tasks[0]
    field, margin = task.field, Protocol().fields.margin_um
    with slide.open_slide(task.path) as opened:
        place = (field.left_um - margin, field.top_um - margin)
        size = (field.width_um + 2 * margin, field.height_um + 2 * margin)
        patch = opened.read(*place, *size)
    truth = read_truth(folder / "truth" / name)
    near = truth.cells[["x_um", "y_um"]].to_numpy() - [patch.x_um, patch.y_um]
    end = np.multiply(patch.pixels.shape[1::-1], patch.mpp)
    nuclei = int(((near > 0) & (near < end)).all(axis=1).sum())
    origin = patch.x_um, patch.y_um
    return Case(task, patch.pixels, origin, tuple(truth_in_field(truth, field)), nuclei)


def decode_tiles(case: Case) -> float:
    """CPU time of decoding the JPEG tiles that the field and its margin touch, and nothing else."""
    with tifffile.TiffFile(case.task.path) as tiff:
        page, mpp = tiff.pages[0], case.task.mpp
        across = -(-page.imagewidth // page.tilewidth)
        x0, y0 = (side / mpp for side in case.origin_um)
        x1, y1 = x0 + case.pixels.shape[1] - 1, y0 + case.pixels.shape[0] - 1
        rows = range(int(y0 // page.tilelength), int(y1 // page.tilelength) + 1)
        columns = range(int(x0 // page.tilewidth), int(x1 // page.tilewidth) + 1)
        numbers = [row * across + column for row in rows for column in columns]
        data = []
        for number in numbers:
            tiff.filehandle.seek(page.dataoffsets[number])
            data.append(tiff.filehandle.read(page.databytecounts[number]))
        tables = page.jpegtables
    buffer = make_buffer((page.tilelength, page.tilewidth, 3))
    began = time.process_time()
    for tile in data:
        imagecodecs.jpeg8_decode(tile, tables=tables, colorspace="YCBCR", outcolorspace="RGB", out=buffer)
    return time.process_time() - began


def measure_case(case: Case, watch: Stopwatch) -> tuple[dict[str, float], dict[str, Any]]:
    """CPU time per stage of a field as a run measures it, and its row."""
    watch.seconds.clear()
    began = time.process_time()
    measured = pipeline.measure_field(case.task, Protocol().markers[MARKER], Protocol())
    total = time.process_time() - began
    stages = {stage: watch.seconds[stage] for _, _, stage in STAGES}
    stages["other"] = total - sum(stages.values())
    return stages, measured.row


def time_plainly(case: Case) -> tuple[float, tuple[int, int]]:
    """CPU time of the scikit-image script, reading left out, and its counts."""
    size = tuple(-(-side // 2) for side in case.pixels.shape[:2])
    inside = rasterize_field(case.task.field, size, *case.origin_um, 0.5)
    began = time.process_time()
    counts = measure_plainly(case.pixels, case.task.mpp, case.task.white, inside)
    return time.process_time() - began, tuple(counts)


def install_histomicstk(folder: Path) -> tuple[Path | None, str]:
    """Python of an environment with HistomicsTK, made if need be; and why there is none."""
    python = folder / "bin" / "python"
    if python.exists():
        return python, ""
    uv = shutil.which("uv")
    make = [uv, "venv", "-q", "--python", "3.11"] if uv else [sys.executable, "-m", "venv"]
    install = (
        [uv, "pip", "install", "-q", "--python", python] if uv else [python, "-m", "pip", "install", "-q"]
    )
    bare = ["histomicstk==1.4.0", "girder-slicer-cli-web"]  # whose dependencies want GDAL and a server
    try:
        subprocess.run([*make, folder], check=True, capture_output=True)
        subprocess.run([*install, *_HISTOMICSTK_NEEDS], check=True, capture_output=True)
        subprocess.run([*install, "--no-deps", *bare], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return None, f"HistomicsTK could not be installed from PyPI ({error})."
    return python, ""


def time_histomicstk(python: Path, case: Case, folder: Path) -> dict[str, float]:
    """CPU time per step of HistomicsTK, and the nuclei it found."""
    file = folder / "field.npy"
    np.save(file, case.pixels)
    words = [python, Path(__file__).with_name("histomicstk_field.py"), file, case.task.mpp]
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def race(
    cases: list[Case], repeats: int, htk: Path | None, folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All contestants in turn; first what each spent, then the counts of each."""
    watch, spent, counted = Stopwatch(), [], []
    # The first of all loads libraries and the network, once for thousands of fields; both have had that.
    measure_case(cases[0], watch)
    time_plainly(cases[0])
    for turn in range(repeats):
        for number, case in enumerate(cases):
            base = {"turn": turn, "field": number}
            spent.append({**base, "what": "decode", "seconds": decode_tiles(case)})
            stages, row = measure_case(case, watch)
            spent += [{**base, "what": what, "seconds": seconds} for what, seconds in stages.items()]
            seconds, plain = time_plainly(case)
            spent.append({**base, "what": "scikit-image", "seconds": seconds})
            counts = [("truth", *case.true), ("histoquant", row["fibers"], row["positive_cells"])]
            counts.append(("scikit-image script", *plain))
            if htk is not None:
                steps = time_histomicstk(htk, case, folder)
                nuclei = f"{steps.pop('found')} (true: {case.nuclei})"
                spent += [{**base, "what": f"HistomicsTK {k}", "seconds": v} for k, v in steps.items()]
                counts.append(("HistomicsTK: nuclei in field and margin", nuclei, "-"))
            if turn == 0:
                counted += [
                    {"field": number + 1, "by": c[0], "fibers": c[1], "positive cells": c[2]} for c in counts
                ]
    return pd.DataFrame(spent), pd.DataFrame(counted)


def add_up(spent: pd.DataFrame, names: list[str]) -> pd.Series:
    """Seconds per field and turn, over some stages."""
    return spent[spent["what"].isin(names)].groupby(["field", "turn"])["seconds"].sum()


def compare(spent: pd.DataFrame) -> pd.DataFrame:
    """Median and range of what each contestant spent, and its ratio to decoding in the same turn."""
    stages = [*dict.fromkeys(stage for _, _, stage in STAGES), "other"]
    rest = [name for name in COUNTED if name != "fiber network"]
    htk = [name for name in spent["what"].unique() if name.startswith("HistomicsTK")]
    parts = {
        "JPEG decode of the same tiles": ["decode"],
        "histoquant, region read to counts, without the fiber network": rest,
        "histoquant, fiber network": ["fiber network"],
        "histoquant, region read to counts": list(COUNTED),
        "histoquant, with check, outlines, label maps and pictures": stages,
        "scikit-image script (pixels given)": ["scikit-image"],
        "HistomicsTK, without morphometry (pixels given)": [n for n in htk if not n.endswith("morphometry")],
        "HistomicsTK, with morphometry (pixels given)": htk,
    }
    decode, own = add_up(spent, ["decode"]), add_up(spent, list(COUNTED))
    rows = []
    for label, names in parts.items():
        seconds = add_up(spent, names)
        if seconds.empty:
            continue
        ratio = f"{(seconds / decode).median():.1f}"
        rows.append(
            {
                "what": label,
                **_spread(seconds),
                "/ decode": ratio,
                "/ histoquant's counts": f"{(seconds / own).median():.2f}",
            }
        )
    return pd.DataFrame(rows)


def split_stages(spent: pd.DataFrame) -> pd.DataFrame:
    """Median and range per stage of histoquant."""
    stages = [*dict.fromkeys(stage for _, _, stage in STAGES), "other"]
    return pd.DataFrame([{"stage": stage, **_spread(add_up(spent, [stage]))} for stage in stages])


def _spread(seconds: pd.Series) -> dict[str, str]:
    low, high = seconds.min(), seconds.max()
    return {
        "CPU ms, median": f"{1000 * seconds.median():.0f}",
        "range": f"{1000 * low:.0f} to {1000 * high:.0f}",
    }


class Cost(NamedTuple):
    """What a run cost."""

    clock_s: float
    cpu_s: float
    peak_mb: float


def run(table: Path, protocol: Path, out: Path, *more: object) -> Cost:
    """`histoquant run` in a process of its own; CPU time with that of its workers, memory of the largest."""
    words = ["-m", "histoquant", "run", table, "--out", out, "--protocol", protocol, "--quiet", *more]
    began = time.monotonic()
    command = [sys.executable, ROOT / "benchmarks" / "witness.py", sys.executable, *map(str, words)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    status, cpu_s, peak_kb = json.loads(told.splitlines()[-1])
    if status:
        raise SystemExit(f"a run ended with status {status}")
    return Cost(time.monotonic() - began, cpu_s, peak_kb / 1024)


def compare_workers(folder: Path, repeats: int) -> pd.DataFrame:
    """One worker and two in turn, default fields."""
    protocol = folder / "two.toml"
    protocol.write_text("[fields]\ncount = 2\n")
    costs: dict[int, list[Cost]] = {1: [], 2: []}
    for turn in range(repeats):
        for workers, found in costs.items():
            out = folder / f"out-{workers}-{turn}"
            found.append(run(folder / "STUDY.csv", protocol, out, "--workers", workers))
    tables = [(folder / f"out-{workers}-0" / "fields.csv").read_bytes() for workers in costs]
    if tables[0] != tables[1]:
        raise SystemExit("one worker and two gave different tables")
    return pd.DataFrame([_describe_costs(f"{workers}", found, "workers") for workers, found in costs.items()])


def compare_sizes(folder: Path) -> pd.DataFrame:
    """Few sections and many, each a small field of the same slide."""
    protocol = folder / "small.toml"
    protocol.write_text("[fields]\ncount = 1\nwidth_um = 200\nmargin_um = 60\n")
    rows = []
    for number in (3, 24):
        table = folder / f"STUDY{number}.csv"
        lines = [f"P{i:03d},,{MARKER},slides/P01-{MARKER}.svs" for i in range(number)]
        table.write_text("\n".join(["patient,group,marker,slide", *lines]) + "\n")
        cost = run(table, protocol, folder / f"out-{number}-sections", "--workers", 1)
        rows.append(_describe_costs(f"{number}", [cost], "sections"))
    return pd.DataFrame(rows)


def _describe_costs(name: str, costs: list[Cost], what: str) -> dict[str, str]:
    clock, cpu = sorted(one.clock_s for one in costs), sorted(one.cpu_s for one in costs)
    return {
        what: name,
        "s by the clock, each": ", ".join(f"{one:.1f}" for one in clock),
        "CPU s, each": ", ".join(f"{one:.1f}" for one in cpu),
        "peak memory of the largest process, MB": f"{max(one.peak_mb for one in costs):.0f}",
    }


def describe_machine() -> str:
    """Machine, load and versions."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    libraries = (
        "numpy",
        "opencv-python-headless",
        "openslide-bin",
        "imagecodecs",
        "simplejpeg",
        "scikit-image",
    )
    lines = [
        f"- {os.cpu_count()} cores, {names[0] if names else platform.machine()}, {platform.system()}",
        f"- load average at the start: {os.getloadavg()[0]:.1f}; above the cores the clock tells little",
        f"- Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in libraries),
    ]
    return "\n".join(lines)


def add_turns(new: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Turns of earlier calls and these, kept for the next: on a busy machine they are run one by one."""
    if file.exists():
        known = pd.read_csv(file)
        new = pd.concat([known, new.assign(turn=new["turn"] + known["turn"].max() + 1)], ignore_index=True)
    new.to_csv(file, index=False)
    return new


def write_page(args: argparse.Namespace) -> str:
    """Measure everything and write the page."""
    machine = describe_machine()
    htk, trouble = install_histomicstk(args.histomicstk)
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        cases = make_cases(folder, args.seed, 2)
        spent, counted = race(cases[: args.fields], args.repeats, htk, folder)
        spent = add_turns(spent, folder / "turns.csv")
        workers = sizes = "Not measured this time: the machine was too busy for the clock to mean anything."
        if not args.field_alone:
            workers = format_table(compare_workers(folder, 2))
            sizes = format_table(compare_sizes(folder))
    text = (Path(__file__).parent / "speed_page.md").read_text(encoding="utf-8")
    return text.format(
        machine=machine,
        seed=args.seed,
        repeats=spent["turn"].nunique(),
        fields=spent["field"].nunique(),
        compared=format_table(compare(spent)),
        stages=format_table(split_stages(spent)),
        counted=format_table(counted),
        workers=workers,
        sizes=sizes,
        histomicstk=trouble
        or "HistomicsTK 1.4.0 runs in an environment of its own, with the defaults of its command "
        "NucleiDetection, but with the foreground by Otsu's threshold and without color normalisation: by "
        "the default threshold it misses most nuclei of these sections.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=9_000, help="of the rendered sections")
    parser.add_argument("--repeats", type=int, default=2, help="turns of every contestant")
    parser.add_argument("--fields", type=int, choices=(1, 2), default=2, help="fields to measure")
    parser.add_argument("--keep", type=Path, help="folder of sections and turns, which further calls add to")
    parser.add_argument("--field-alone", action="store_true", help="leave out workers and sections")
    parser.add_argument(
        "--histomicstk", type=Path, default=ROOT / ".cache" / "histomicstk", help="its environment"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    name, value = HUGE_PAGES
    if name not in os.environ:  # it is read as a process starts: begin again, as workers do
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, name: value})
    calm_threads()
    keep_memory()
    args.out.write_text(write_page(args), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
