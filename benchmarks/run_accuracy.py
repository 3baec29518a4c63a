"""Accuracy of whole runs in their own drawn fields: `python benchmarks/run_accuracy.py --models DIR`.

Restained sections are made from the photographs in ../shared; each is measured by the model that left its
photograph out (DIR/without01.onnx, DIR/without02.onnx, see `python -m training --help`). The rendered study
is measured by the shipped model, with a seed that trained and tuned nothing. Truth counts by the half-area
rule in the same fields, so this is measurement error alone. Writes docs/accuracy-runs.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from histoquant.synthetic import RenderSettings, StudyPlan, read_truth, write_study
from histoquant.synthetic.compare import compare_fields, compare_sections

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
MPP = 0.4
SECTIONS = (("01", "CD19", ""), ("02", "BAFF-R", ""), ("01", "BAFF-R", "--hard"), ("02", "CD19", "--hard"))
PARTS = ("fibers", "positive_cells", "cells_per_fiber")


def restain_section(folder: Path, photograph: str, marker: str, hard: str, seed: int) -> Path:
    out = folder / f"{photograph}{marker}{hard}"
    tool = SHARED / "tools" / "restain.py"
    words = [
        "section",
        SHARED / "data" / "muscle" / "he",
        photograph,
        out,
        "--marker",
        marker,
        "--seed",
        seed,
    ]
    subprocess.run([sys.executable, tool, *map(str, words), *hard.split()], check=True)
    return out / f"{marker}.svs"


def run_study(table: Path, out: Path, protocol: Path, *more: str) -> None:
    words = ["run", table, "--out", out, "--protocol", protocol, "--quiet", *more]
    done = subprocess.run([sys.executable, "-m", "histoquant", *map(str, words)], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)


def measure_restained(folder: Path, models: Path, seed: int) -> pd.DataFrame:
    tables = []
    for photograph, marker, hard in SECTIONS:
        slide = restain_section(folder, photograph, marker, hard, seed)
        table, protocol = slide.with_suffix(".csv"), slide.with_suffix(".toml")
        table.write_text(f"patient,group,marker,slide\nP,,{marker},{slide.name}\n")
        model = (models / f"without{photograph}.onnx").resolve()
        protocol.write_text(f'[fibers]\nmethod = "network"\nmodel = "{model}"\n')
        out = slide.parent / "out"
        run_study(table, out, protocol)
        truth = read_truth(slide.with_suffix(""), MPP)
        found = compare_sections(compare_fields(out, {f"P-{marker}": truth}))
        tables.append(found.assign(data=f"restained {photograph}{' hard' if hard else ''}, {marker}"))
    return pd.concat(tables, ignore_index=True)


def measure_rendered(folder: Path, seed: int) -> pd.DataFrame:
    plan = StudyPlan(patients=(4, 4), render=RenderSettings(size_um=(2400.0, 2400.0)))
    table = write_study(folder / "rendered", plan, seed, workers=2)
    protocol = folder / "default.toml"
    protocol.write_text("")
    run_study(table, folder / "rendered out", protocol, "--fields", "6")
    names = pd.read_csv(folder / "rendered" / "truth.csv")["section"]
    truths = {name: read_truth(folder / "rendered" / "truth" / name) for name in names}
    found = compare_sections(compare_fields(folder / "rendered out", truths))
    return found.assign(data="rendered, " + found["marker"])


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Sections of one data set together: totals, and the mean of the sections' ratios."""
    counts = ["fibers", "true_fibers", "positive_cells", "true_positive_cells"]
    grouped = table.groupby("data", sort=False)
    total = grouped[counts].sum()
    total.insert(0, "sections", grouped.size())
    total = total.join(grouped[["cells_per_fiber", "true_cells_per_fiber"]].mean().round(4))
    for part in PARTS:
        total[f"{part}, error"] = (total[part] / total[f"true_{part}"] - 1).map("{:+.1%}".format)
    return total.reset_index()


def format_table(table: pd.DataFrame) -> str:
    names = [name.replace("_", " ") for name in table.columns]
    rows = [names, ["---"] * len(names), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with without01.onnx and without02.onnx")
    parser.add_argument("--seed", type=int, default=70)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "accuracy-runs.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rendered = measure_rendered(Path(name), args.seed)
        parts = [rendered]
        if args.models and SHARED.is_dir():
            parts.append(measure_restained(Path(name), args.models, args.seed))
        else:
            print("restained sections skipped: they need --models and ../shared")
    values = rendered.dropna(subset=list(PARTS))
    rho = spearmanr(values["cells_per_fiber"], values["true_cells_per_fiber"]).statistic
    text = f"""# Accuracy of whole runs

Made by `python benchmarks/run_accuracy.py --models DIR --seed {args.seed}`. Measured against true counts in
the same drawn fields, by the half-area rule: measurement error, without sampling error. Restained sections
are judged by the model that left their photograph out of its training; the rendered study by the shipped one.

{format_table(summarise(pd.concat(parts, ignore_index=True)))}

Spearman correlation of measured and true values over the {len(values)} rendered sections: {rho:.3f}.
"""
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
