"""Accuracy of whole runs in their own drawn fields: `python benchmarks/run_accuracy.py --help`.

Restained sections are made from the photographs in ../shared; each is measured by the network that left its
photograph out (DIR/without01.onnx, DIR/without02.onnx, see `python -m training --help`). The rendered study
is measured by the shipped network, with a seed that trained and tuned nothing. Truth counts by the half-area
rule in the same fields, so this is measurement error alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from fiber_accuracy import number_tiles
from mirrored import part_mirrored
from tables import format_share

from histoquant.agreement import measure_relative_limits
from histoquant.synthetic import RenderSettings, StudyPlan, read_truth, write_study
from histoquant.synthetic.compare import compare_fields, compare_sections

SHARED = Path(__file__).parents[1].parent / "shared"
MPP = 0.4
MARKERS = ("CD19", "BAFF-R")
PARTS = ("fibers", "positive_cells", "cells_per_fiber")
MIN_RATIO = 0.02
"""Sections with a true ratio below this have no relative error worth the name."""


PARTED = ", mirror images parted"
"""Behind the name of data: true fibers that meet their mirror image in a narrow neck are two."""


class Restained(NamedTuple):
    """A restained section to make."""

    photograph: str
    marker: str
    hard: bool
    seed: int


def plan_restained(plain: int, hard: int, seed: int) -> list[Restained]:
    """Sections of both photographs in turn, markers alternating."""
    plan = []
    for number, is_hard in ((plain, False), (hard, True)):
        for i in range(number):
            plan.append(Restained(("01", "02")[i % 2], MARKERS[i // 2 % 2], is_hard, seed + i))
    return plan


def measure_restained(plan: list[Restained], models: Path) -> pd.DataFrame:
    """Make, measure and compare sections one after the other; nothing of them is kept."""
    return pd.concat(_measure_one(section, models) for section in plan)


def _measure_one(section: Restained, models: Path) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as name:
        slide = _restain(Path(name), section)
        table, protocol = slide.with_suffix(".csv"), slide.with_suffix(".toml")
        table.write_text(f"patient,group,marker,slide\nP,,{section.marker},{slide.name}\n")
        model = (models / f"without{section.photograph}.onnx").resolve()
        protocol.write_text(f'[fibers]\nmethod = "network"\nmodel = "{model}"\n')
        run_study(table, slide.parent / "out", protocol)
        truth = read_truth(slide.with_suffix(""), MPP)
        parted = replace(truth, labels=part_mirrored(truth.labels, number_tiles(truth)))
        data = f"restained {section.photograph}{' hard' if section.hard else ''}"
        return pd.concat(
            compare_sections(compare_fields(slide.parent / "out", {f"P-{section.marker}": known})).assign(
                data=f"{data}{told}", seed=section.seed
            )
            for told, known in (("", truth), (PARTED, parted))
        )


def _restain(folder: Path, section: Restained) -> Path:
    tool, photographs = SHARED / "tools" / "restain.py", SHARED / "data" / "muscle" / "he"
    words = ["section", photographs, section.photograph, folder, "--marker", section.marker]
    words += ["--seed", section.seed, *(["--hard"] if section.hard else [])]
    command = [sys.executable, *map(str, (tool, *words))]
    subprocess.run(command, check=True, capture_output=True)
    return folder / f"{section.marker}.svs"


def run_study(table: Path, out: Path, protocol: Path, *more: str) -> None:
    """`histoquant run`, as a user calls it; an incomplete section is no error here."""
    words = ["run", table, "--out", out, "--protocol", protocol, "--quiet", *more]
    done = subprocess.run([sys.executable, "-m", "histoquant", *map(str, words)], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)


def measure_rendered(seed: int, patients: int = 4) -> pd.DataFrame:
    """A rendered study: two groups of so many patients, three sections each, ten fields per section."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = StudyPlan(patients=(patients, patients), render=RenderSettings(size_um=(2600.0, 2600.0)))
        table = write_study(folder / "study", plan, seed, workers=2)
        protocol = folder / "default.toml"
        protocol.write_text("")
        run_study(table, folder / "out", protocol)
        sections = pd.read_csv(folder / "study" / "truth.csv")["section"]
        truths = {section: read_truth(folder / "study" / "truth" / section) for section in sections}
        found = compare_sections(compare_fields(folder / "out", truths))
    return found.assign(data="rendered, " + found["marker"], seed=seed)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Sections of one data set together: totals, and the mean of the sections' ratios."""
    counts = ["fibers", "true_fibers", "positive_cells", "true_positive_cells"]
    grouped = table.groupby("data", sort=False)
    total = grouped[counts].sum()
    total.insert(0, "sections", grouped.size())
    total = total.join(grouped[["cells_per_fiber", "true_cells_per_fiber"]].mean().round(4))
    for part in PARTS:
        total[f"{part}, error"] = (total[part] / total[f"true_{part}"] - 1).map(format_share)
    return total.reset_index()


def describe_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Bias of the sections' ratios in per cent, its interval, and the limits of agreement."""
    told = table["data"].str.endswith(PARTED)
    hard, rendered = (table["data"].str.contains(word) for word in ("hard", "rendered"))
    kinds = {
        "restained": ~hard & ~rendered & ~told,
        f"restained{PARTED}": ~hard & ~rendered & told,
        "restained hard": hard & ~told,
        f"restained hard{PARTED}": hard & told,
        "rendered": rendered,
    }
    return pd.DataFrame(_describe_kinds(table, kinds))


def _describe_kinds(table: pd.DataFrame, kinds: dict[str, pd.Series]) -> Iterator[dict[str, object]]:
    for kind, rows in kinds.items():
        some = table[rows & table["true_cells_per_fiber"].ge(MIN_RATIO)]
        if len(some) < 3:
            continue
        for part in PARTS:
            limits = measure_relative_limits(some[part], some[f"true_{part}"])
            yield {
                "sections": f"{kind} ({len(some)})",
                "what": part.replace("_", " "),
                "bias, %": f"{limits.bias.value:+.1f}",
                "95 % interval": f"{limits.bias.ci_low:+.1f} to {limits.bias.ci_high:+.1f}",
                "limits of agreement, %": f"{limits.low.value:+.1f} to {limits.high.value:+.1f}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(__file__).parent / "models",
        help="folder with without01.onnx and without02.onnx",
    )
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--patients", type=int, default=4, help="per group of the rendered study")
    parser.add_argument("--plain", type=int, default=20, help="restained sections")
    parser.add_argument("--hard", type=int, default=6, help="hard restained sections")
    args = parser.parse_args()
    parts = [measure_rendered(args.seed, args.patients)]
    if args.models and SHARED.is_dir():
        parts.append(measure_restained(plan_restained(args.plain, args.hard, args.seed), args.models))
    table = pd.concat(parts, ignore_index=True)
    print(summarise(table).to_string())
    print(describe_agreement(table).to_string())


if __name__ == "__main__":
    main()
