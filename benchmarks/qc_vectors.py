"""Which stain vectors come nearer to the truth: `python benchmarks/qc_vectors.py --help`.

Slides whose two stains are turned by known angles, each turn a batch of its own, are rendered, and restained
from the photographs in ../shared where that folder is. A run measures them by the default vectors, then
`histoquant vectors` measures the same cells by those estimated on each slide and by those of the batch. Told
is how far positive cells per fiber are from the truth in the same fields. Fibers and the outlines of cells
are the same for all three. Photographs are measured by the network that left them out.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
from qc_faults import draw_staining
from run_accuracy import SHARED, run_study
from tables import format_share, format_table

from histoquant.inclusion import count_half_area
from histoquant.objects import select_countable
from histoquant.protocol import MarkerSettings, Vector
from histoquant.sensitivity import VECTORS
from histoquant.stains import DEFAULT_VECTORS
from histoquant.synthetic import (
    CellsSettings,
    RenderSettings,
    StainingSettings,
    Truth,
    find_uncertain,
    read_truth,
    render_section,
    tell_truth,
    write_section,
)
from histoquant.synthetic.compare import compare_fields

KINDS = ("rendered", "01", "02")
MARKERS = ("CD19", "BAFF-R")
TURNS = {
    "as they are": (0.0, 0.0, 0.0),
    "both 5 degrees towards brown": (5.0, 5.0, 0.0),
    "both 10 degrees towards brown": (10.0, 10.0, 0.0),
    "both 5 degrees towards blue": (-5.0, -5.0, 0.0),
    "both 10 degrees towards blue": (-10.0, -10.0, 0.0),
    "haematoxylin 8 degrees towards brown": (8.0, 0.0, 0.0),
    "DAB 8 degrees towards blue": (0.0, -8.0, 0.0),
    "both 6 degrees out of their plane": (0.0, 0.0, 6.0),
}
"""Degrees by which haematoxylin and DAB are turned within their plane, and both out of it."""
SCATTER_DEG = 1.0
"""Standard deviation by which each slide's stains differ from their batch's, within the plane."""
SIZE_UM = 1500.0
FIELDS = 2
QUICK = "[qc]\ncheck = false\n[qc.artefacts]\navoid = false\n[fibers]\ncross_check = 0\n"
"""Without what changes no count."""


class Made(NamedTuple):
    """A section on disk, and what is true of it."""

    batch: str
    marker: str
    slide: Path
    truth: Truth


def turn_vectors(turn: tuple[float, float, float], rng: np.random.Generator) -> tuple[Vector, Vector]:
    """The default vectors, turned and scattered."""
    units = [np.array(vector) / np.linalg.norm(vector) for vector in DEFAULT_VECTORS]
    across = np.cross(*units)
    across /= np.linalg.norm(across)
    found = []
    for unit, degrees in zip(units, turn[:2], strict=True):
        within, out = np.radians(degrees + rng.normal(0, SCATTER_DEG)), np.radians(turn[2])
        turned = np.cos(within) * unit + np.sin(within) * np.cross(across, unit)
        found.append(np.cos(out) * turned + np.sin(out) * across)
    first, second = (tuple(np.maximum(vector, 0).tolist()) for vector in found)
    return first, second


def make_sections(kind: str, folder: Path, slides: int, seed: int) -> Iterator[Made]:
    """So many slides of every batch."""
    tool = None if kind == "rendered" else load_restain()
    source = tool and tool.Source(SHARED / "data" / "muscle" / "he", kind, 0.4)
    for at, (batch, turn) in enumerate(TURNS.items()):
        for number in range(slides):
            rng = np.random.default_rng([seed, KINDS.index(kind), at, number])
            vectors, marker = turn_vectors(turn, rng), MARKERS[number % 2]
            path = folder / f"{at}-{number}.svs"
            if tool is None:
                yield Made(batch, marker, path, render(path, vectors, rng))
            else:
                yield restain(
                    tool, source, folder / path.stem, batch, marker, vectors, seed + 100 * at + number
                )


def render(path: Path, vectors: tuple[Vector, Vector], rng: np.random.Generator) -> Truth:
    first, second = vectors
    staining = StainingSettings(**draw_staining(rng), haematoxylin_vector=first, dab_vector=second)
    cells = CellsSettings(positive_cells_per_fiber=rng.uniform(0.1, 0.8))
    settings = RenderSettings(size_um=(SIZE_UM, SIZE_UM), cells=cells, staining=staining)
    section = render_section(rng, settings)
    write_section(section, path)
    return tell_truth(section)


def load_restain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("restain", SHARED / "tools" / "restain.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def restain(
    tool: ModuleType, source: object, folder: Path, batch: str, marker: str,
    vectors: tuple[Vector, Vector], seed: int,
) -> Made:  # fmt: skip
    """A restained section of 3 x 3 tiles; the photograph itself was parted by the tool's own vectors."""
    folder.mkdir()
    tool.HAEMATOXYLIN, tool.DAB = (np.array(vector) / np.linalg.norm(vector) for vector in vectors)
    how = {"out_dir": folder, "marker": marker, "seed": seed, "hard": False, "tiles": (3, 3), "positive": 0.3}
    tool.section(SimpleNamespace(**how), source)
    return Made(batch, marker, folder / f"{marker}.svs", read_truth(folder / marker, 0.4))


def judge_kind(kind: str, models: Path, slides: int, seed: int) -> pd.DataFrame:
    """Rows of the sections: positive cells per fiber by each vectors, and true."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {
            f"P{at:02}-{one.marker}": one for at, one in enumerate(make_sections(kind, folder, slides, seed))
        }
        rows = [[name.split("-")[0], "", one.marker, str(one.slide), one.batch] for name, one in made.items()]
        table = pd.DataFrame(rows, columns=["patient", "group", "marker", "slide", "batch"])
        table.to_csv(folder / "STUDY.csv", index=False)
        model = (models / f"without{kind}.onnx").resolve()
        network = "" if kind == "rendered" else f'method = "network"\nmodel = "{model}"\n'
        (folder / "P.toml").write_text(QUICK + network)
        out = folder / "out"
        run_study(folder / "STUDY.csv", out, folder / "P.toml", "--fields", str(FIELDS), "--workers", "1")
        words = [sys.executable, "-m", "histoquant", "vectors", str(out), "--workers", "1", "--quiet"]
        subprocess.run(words, check=True)
        return compare(kind, out, made)


def compare(kind: str, out: Path, made: dict[str, Made]) -> pd.DataFrame:
    """Measured by each vectors against true, in the fields of a run."""
    fields = compare_fields(out, {name: one.truth for name, one in made.items()})
    angles = pd.read_csv(out / "vectors.csv").set_index("section")
    rows = []
    for name, own in fields.groupby("section"):
        one = made[str(name)]
        row = {"kind": kind, "stains": one.batch, "section": name, "source": angles.loc[name, "slide_source"]}
        own = own.set_index("field")
        row["true"] = (own["true_positive_cells"] / own["true_fibers"]).mean()
        row["true cells"] = own["true_positive_cells"].sum()
        for vectors in VECTORS:
            cells = count_cells(out / "sections" / str(name), one.truth, vectors)
            row[vectors] = (cells.reindex(own.index, fill_value=0) / own["fibers"]).mean()
            row[f"{vectors} cells"] = cells.sum()
        rows.append(row)
    return pd.DataFrame(rows)


def count_cells(section: Path, truth: Truth, vectors: str) -> pd.Series[int]:
    """Positive cells that count, by field, as the vectors call them."""
    objects = pd.read_parquet(section / "objects.parquet")
    cells = objects[objects["kind"].eq("cell") & count_half_area(objects["fraction_in_field"])]
    cells = cells.assign(countable=select_countable(cells, MarkerSettings()))
    cells = cells[~find_uncertain(truth, cells["x_um"], cells["y_um"])]
    anew = pd.read_parquet(section / "vectors.parquet")
    anew = anew.loc[anew["vectors"].eq(vectors), ["field", "label", "positive", "countable"]]
    both = cells.merge(anew, on=["field", "label"], how="left", suffixes=("", "_anew"))
    positive, countable = (
        both[f"{what}_anew"].where(both[f"{what}_anew"].notna(), both[what]).astype(bool)
        for what in ("positive", "countable")
    )
    return both[positive & countable].groupby("field").size()


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Error of positive cells, summed, then of the sections' ratios: mean, and mean size."""
    kinds = table["kind"].where(table["kind"].eq("rendered"), "photographs")
    errors = table[list(VECTORS)].div(table["true"], axis=0) - 1
    rows = []
    for kind in kinds.unique():
        for stains in (*TURNS, "all"):
            own = kinds.eq(kind) & (table["stains"].eq(stains) | (stains == "all"))
            row = {"slides": kind, "stains": stains, "n": int(own.sum())}
            for name in VECTORS:
                cells = table.loc[own, f"{name} cells"].sum() / table.loc[own, "true cells"].sum() - 1
                ratio = errors.loc[own, name]
                told = f"{format_share(ratio.mean())} ({ratio.abs().mean():.1%})"
                row[name] = f"{format_share(cells)}; {told}"
            rows.append(row)
    return pd.DataFrame(rows)


def count_nearest(table: pd.DataFrame) -> pd.DataFrame:
    """Sections in which each vectors' ratio is nearest to the truth; equal ones all count."""
    away = table[list(VECTORS)].sub(table["true"], axis=0).abs()
    nearest = away.le(away.min(axis=1) + 1e-9, axis=0)
    return (
        nearest.groupby(table["kind"].where(table["kind"].eq("rendered"), "photographs")).sum().reset_index()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--slides", type=int, default=3, help="of each kind and turn")
    parser.add_argument("--seed", type=int, default=6400)
    parser.add_argument("--models", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--out", type=Path, help="CSV with every section")
    parser.add_argument("--table", type=Path, nargs="+", help="only tabulate such files")
    args = parser.parse_args()
    if args.table:
        table = pd.concat([pd.read_csv(path, dtype={"kind": str}) for path in args.table], ignore_index=True)
    else:
        kinds = args.kinds if SHARED.is_dir() else ["rendered"]
        parts = [judge_kind(kind, args.models, args.slides, args.seed) for kind in kinds]
        table = pd.concat(parts, ignore_index=True)
    if args.out:
        table.to_csv(args.out, index=False)
    print(format_table(summarise(table)), "\n")
    print(format_table(count_nearest(table)))
    failed = table["source"].ne("estimated").sum()
    print(f"\n{failed} of {len(table)} slides: vectors could not be estimated; default ones stand for them")


if __name__ == "__main__":
    main()
