"""All accuracy in one page: `python benchmarks/accuracy.py` writes docs/accuracy.md.

Photographs are read from ../shared and judged by the networks that left them out, without01.onnx and
without02.onnx in benchmarks/models; without ../shared only what the package renders is judged.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import cell_accuracy
import cv2
import fiber_accuracy
import matplotlib
import numpy as np
import pandas as pd
import run_accuracy
from fiber_accuracy import SHARED, Case
from tables import format_share, format_table, keep

from histoquant.network import hash_model, segment_with_network

matplotlib.use("svg")

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MODELS = Path(__file__).parent / "models"
PHOTOGRAPHS = ("01", "02")
SHARES = ("fibers, error", "positive cells, error", "ratio, error")


def judge_fibers(models: Path | None, seed: int, cache: Path, faults: bool) -> pd.DataFrame:
    """Fibers of every data set, photographs by the network that left them out."""
    pictures = cache / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, model, cases in _list_parts(models, seed, cache, faults):
        segment = partial(segment_with_network, model=model)
        judge = partial(fiber_accuracy.judge_case, segment, pictures=None if faults else pictures)
        path = cache / f"fibers {name}{' faults' if faults else ''} {seed} {_sign(model)}.pickle"
        rows += keep(path, lambda judge=judge, cases=cases: [judge(case) for case in cases])
    if not faults:
        _keep_worst(pictures)
    table = fiber_accuracy.summarise(rows).reset_index()
    table["count_error"] = table["count_error"].map(format_share)
    return table[["data", "images", "f1", "f1_75", "pq", "fibers", "counted", "count_error"]]


def judge_places(models: Path | None, cache: Path) -> pd.DataFrame:
    """How often fibers of plain restained sections are wrong at one and the same place of the photograph."""
    rows = []
    for name, model, cases in _list_parts(models, 0, cache, faults=False):
        if name in PHOTOGRAPHS:
            segment = partial(segment_with_network, model=model)
            found = partial(fiber_accuracy.find_places, segment, cases)
            rows += keep(cache / f"places {name} {_sign(model)}.pickle", found)
    return fiber_accuracy.count_places(rows)


def _sign(model: Path | None) -> str:
    """A few characters that tell networks apart."""
    return hash_model(model)[:8]


def _list_parts(
    models: Path | None, seed: int, cache: Path, faults: bool
) -> Iterator[tuple[str, Path | None, Iterator[Case]]]:
    for name in PHOTOGRAPHS if models is not None and SHARED.is_dir() else ():
        photographs = fiber_accuracy.read_photographs([name])
        if faults:
            cases: Iterator[Case] = fiber_accuracy.disturb_cases(photographs)
        else:
            sections = fiber_accuracy.read_sections([name], cache / "sections", 4)
            cases = chain(photographs, fiber_accuracy.read_he([name]), sections)
        yield name, models / f"without{name}.onnx", cases
    rendered = fiber_accuracy.render_cases(2, seed)
    if faults:
        rendered = fiber_accuracy.disturb_cases(c for c in rendered if c.data == "rendered pale")
    yield "rendered", None, rendered
    if SHARED.is_dir() and not faults:
        yield "fluorescence", None, fiber_accuracy.read_fluorescence()


def _keep_worst(folder: Path, number: int = 2) -> None:
    """The worst pictures of unseen photographs and of rendered sections; truth green, found red."""
    for kind, pattern in (("restained", "*section*"), ("rendered", "*rendered*")):
        for rank, path in enumerate(sorted(folder.glob(pattern))[:number], start=1):
            image = cv2.imread(str(path))
            side = 700 / max(image.shape)
            small = cv2.resize(image, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
            PICTURES.mkdir(exist_ok=True)
            name = PICTURES / f"worst-fibers-{kind}-{rank}.jpg"
            cv2.imwrite(str(name), small, [cv2.IMWRITE_JPEG_QUALITY, 60])


def judge_cells(
    models: Path | None, seed: int, number: int, cache: Path, faults: bool
) -> tuple[pd.DataFrame, list[cell_accuracy.Score]]:
    """Positive cells and counts of a field per data set."""
    scores = []
    names = ("rendered", "varied")
    if models is not None and SHARED.is_dir():
        names = (*PHOTOGRAPHS, *names, cell_accuracy.KI67)
    for name in names:
        cases = cell_accuracy.list_cases(name, models, seed, number, faults)
        model = models / f"without{name}.onnx" if models and name in PHOTOGRAPHS else None
        path = cache / f"cells {name}{' faults' if faults else ''} {seed} {number} {_sign(model)}.pickle"
        scores += keep(path, lambda cases=cases: [cell_accuracy.judge_case(case) for case in cases])
    table = cell_accuracy.summarise(scores).reset_index()
    for share in SHARES:
        table[share] = table[share].map(format_share)
    return table, scores


def draw_reliability(scores: list[cell_accuracy.Score], path: Path) -> pd.DataFrame:
    """Confidence said against share of right calls, as a picture and a table."""
    from matplotlib.figure import Figure

    table = cell_accuracy.tabulate_calibration(scores)
    figure = Figure(figsize=(4, 4))
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="0.7")
    for call, group in table.groupby("call"):
        error = np.sqrt(group["right"] * (1 - group["right"]) / group["cells"])
        axes.errorbar(group["said"], group["right"], yerr=1.96 * error, marker="o", capsize=2, label=call)
    axes.set(xlabel="confidence said", ylabel="share of right calls", xlim=(0.5, 1.01), ylim=(0, 1.02))
    axes.legend(title="called")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    table["bin"] = table["bin"].map(lambda part: f"{max(part.left, 0.5):.1f} to {part.right:.1f}")
    return table.rename(columns={"bin": "confidence"})


def name_models(models: Path | None) -> str:
    """Hashes of the networks behind the figures."""
    lines = [f"- shipped: `{hash_model()}`"]
    if models is not None:
        for name in PHOTOGRAPHS:
            digest = hashlib.sha256((models / f"without{name}.onnx").read_bytes()).hexdigest()
            lines.append(f"- without photograph {name}: `{digest}`")
    return "\n".join(lines)


def measure_sections(args: argparse.Namespace) -> pd.DataFrame:
    """Whole runs: the rendered study, and restained sections by the network that left them out."""
    rendered = args.cache / f"run rendered {args.patients} {args.seed} {_sign(None)}.pickle"
    parts = [keep(rendered, lambda: run_accuracy.measure_rendered(args.seed, args.patients))]
    if args.models is not None and SHARED.is_dir():
        for plan in run_accuracy.plan_restained(args.plain, args.hard, args.seed):
            parts.append(measure_restained(plan, args.models, args.cache))
    return pd.concat(parts, ignore_index=True)


def measure_restained(plan: run_accuracy.Restained, models: Path, cache: Path) -> pd.DataFrame:
    """One restained section as a run measures it."""
    sign = _sign(models / f"without{plan.photograph}.onnx")
    name = f"run {plan.photograph} {plan.marker}{' hard' if plan.hard else ''} {plan.seed} {sign}.pickle"
    return keep(cache / name, lambda: run_accuracy.measure_restained([plan], models))


def write_page(args: argparse.Namespace) -> str:
    """Measure everything and write the page."""
    PICTURES.mkdir(exist_ok=True)
    models, cache = args.models, args.cache
    fibers = judge_fibers(models, args.seed, cache, faults=False)
    cells, scores = judge_cells(models, args.seed, args.number, cache, faults=False)
    muscle = [score for score in scores if score.data != cell_accuracy.KI67]
    reliability = draw_reliability(muscle, PICTURES / "reliability.svg")
    fiber_faults = judge_fibers(models, args.seed, cache, faults=True)
    cell_faults, _ = judge_cells(models, args.seed, args.number, cache, faults=True)
    sections = measure_sections(args)
    text = (Path(__file__).parent / "accuracy_page.md").read_text(encoding="utf-8")
    return text.format(
        seed=args.seed,
        number=args.number,
        plain=args.plain,
        hard=args.hard,
        patients=args.patients,
        models=name_models(models),
        fibers=format_table(fibers),
        cells=format_table(cells),
        reliability=format_table(reliability),
        thresholds=format_table(cell_accuracy.try_thresholds(muscle)),
        places=format_table(judge_places(models, cache)),
        sections=format_table(run_accuracy.summarise(sections)),
        agreement=format_table(run_accuracy.describe_agreement(sections)),
        fiber_faults=format_table(fiber_faults),
        cell_faults=format_table(cell_faults),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models", type=Path, default=MODELS, help="folder with without01.onnx and without02.onnx"
    )
    parser.add_argument("--seed", type=int, default=8_000, help="of rendered and restained images")
    parser.add_argument("--number", type=int, default=4, help="images per kind of cell benchmark")
    parser.add_argument("--patients", type=int, default=4, help="per group of the rendered study")
    parser.add_argument("--plain", type=int, default=20, help="restained sections measured as runs")
    parser.add_argument("--hard", type=int, default=6, help="hard restained sections measured as runs")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(".cache/accuracy"),
        help="what is measured is kept there, and used again: remove it after a change of the program",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "accuracy.md")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.out.write_text(write_page(args), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
