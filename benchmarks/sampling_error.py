"""What ten random fields tell of a section whose every cell is known, written into docs/sampling.md.

python benchmarks/sampling_error.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy import ndimage
from tables import format_table

from histoquant.counts import bootstrap_mean
from histoquant.fields import draw_fields
from histoquant.geometry import Field
from histoquant.protocol import FieldSettings, StatisticsSettings
from histoquant.synthetic import (
    CellsSettings,
    RenderSettings,
    Truth,
    render_section,
    tell_truth,
    true_ratio,
    truth_in_field,
)

PAGE = Path(__file__).parents[1] / "docs" / "sampling.md"
OVERVIEW_MPP = 8
# Beyond a field by this, no fiber of it is cut.
AROUND_UM = 150.0
KINDS = {
    "even": CellsSettings(focal=0.0, touching=0.0),
    "gathered (as rendered)": CellsSettings(),
    "nearly all in foci": CellsSettings(focal=0.95),
    "few cells": CellsSettings(positive_cells_per_fiber=0.05),
}


def make_truth(seed: int, cells: CellsSettings, size_um: float) -> Truth:
    """Fibers and cells of a section; pixels are not painted, since nothing is measured."""
    settings = RenderSettings(size_um=(size_um, size_um), mpp=1.0, cells=cells)
    with patch("histoquant.synthetic.section.expose_section", lambda *args: np.zeros((1, 1, 3), np.uint8)):
        return tell_truth(render_section(np.random.default_rng(seed), settings))


def find_tissue(truth: Truth) -> np.ndarray:
    """Tissue at the resolution at which fields are drawn: fibers and the gaps between them."""
    step = round(OVERVIEW_MPP / truth.mpp)
    fibers = truth.labels[step // 2 :: step, step // 2 :: step] > 0
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(fibers, iterations=8)))


def crop(truth: Truth, field: Field) -> Truth:
    """What lies in and near a field."""
    left = max(int((field.left_um - AROUND_UM - truth.x_um) / truth.mpp), 0)
    top = max(int((field.top_um - AROUND_UM - truth.y_um) / truth.mpp), 0)
    across = int((field.width_um + 2 * AROUND_UM) / truth.mpp)
    labels = truth.labels[top : top + across, left : left + across]
    x_um, y_um = truth.x_um + left * truth.mpp, truth.y_um + top * truth.mpp
    return replace(truth, labels=labels, x_um=x_um, y_um=y_um)


def draw_counts(truth: Truth, draws: int, fields: FieldSettings) -> Iterator[np.ndarray]:
    """Fibers and positive cells of each drawn field, shape (fields, 2)."""
    tissue = find_tissue(truth)
    for seed in range(draws):
        drawn = draw_fields(
            tissue, np.zeros_like(tissue), float(OVERVIEW_MPP), fields, np.random.default_rng(seed)
        )
        yield np.array([truth_in_field(crop(truth, field), field) for field in drawn.fields], float)


def judge(truth: Truth, draws: int, count: int) -> dict[str, float]:
    """Errors of one section, relative to its true ratio."""
    whole = true_ratio(truth)
    settings = StatisticsSettings()
    means, pools, spreads, poisson, held = [], [], [], [], []
    few: dict[int, list[float]] = {2: [], 5: []}
    for counts in draw_counts(truth, draws, FieldSettings(count=count)):
        ratios = counts[:, 1] / counts[:, 0]
        means.append(ratios.mean())
        pools.append(counts[:, 1].sum() / counts[:, 0].sum())
        spreads.append(ratios.std(ddof=1) / np.sqrt(count))
        poisson.append(1 / np.sqrt(max(counts[:, 1].sum(), 1)))
        low, high = bootstrap_mean(ratios, settings, np.random.default_rng(0))
        held.append(low <= whole <= high)
        for number, values in few.items():
            values.append(ratios[:number].mean())
    return {
        "whole": whole,
        **{f"error_{n}": float(np.std(v, ddof=1)) / whole for n, v in few.items()},
        "error_10": float(np.std(means, ddof=1)) / whole,
        "formula": float(np.sqrt(np.mean(np.square(spreads)))) / whole,
        "poisson": float(np.mean(poisson)),
        "bias_mean": float(np.mean(means)) / whole - 1,
        "bias_pooled": float(np.mean(pools)) / whole - 1,
        "error_pooled": float(np.std(pools, ddof=1)) / whole,
        "held": float(np.mean(held)),
    }


def summarise(name: str, sections: pd.DataFrame) -> dict[str, object]:
    """One row of the table: root mean squares of errors, means of the rest, over sections."""
    squares = ["error_2", "error_5", "error_10", "error_pooled", "formula"]
    root = np.sqrt((sections[squares] ** 2).mean())
    mean = sections.mean()
    se = sections[["bias_mean", "bias_pooled"]].sem()
    return {
        "positive cells": name,
        "cells per fiber": f"{mean['whole']:.3f}",
        "2 fields": f"{root['error_2']:.1%}",
        "5 fields": f"{root['error_5']:.1%}",
        "10 fields": f"{root['error_10']:.1%}",
        "worst section, 10 fields": f"{sections['error_10'].max():.1%}",
        "by formula": f"{root['formula']:.1%}",
        "if cells were independent": f"{mean['poisson']:.1%}",
        "10 fields, pooled": f"{root['error_pooled']:.1%}",
        "bias, mean of ratios": f"{mean['bias_mean']:+.1%} ± {se['bias_mean']:.1%}",
        "bias, pooled": f"{mean['bias_pooled']:+.1%} ± {se['bias_pooled']:.1%}",
        "intervals that hold": f"{mean['held']:.0%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", type=int, default=5, help="per row of the table")
    parser.add_argument("--draws", type=int, default=20, help="of ten fields, per section")
    parser.add_argument("--seed", type=int, default=5_000, help="of the first section")
    parser.add_argument("--size-um", type=float, default=3_500.0)
    parser.add_argument("--print", action="store_true", help="do not write the page")
    args = parser.parse_args()
    rows = []
    for name, cells in KINDS.items():
        truths = (make_truth(args.seed + i, cells, args.size_um) for i in range(args.sections))
        rows.append(summarise(name, pd.DataFrame([judge(truth, args.draws, 10) for truth in truths])))
        print(rows[-1], flush=True)
    table = format_table(pd.DataFrame(rows))
    print(table)
    if not args.print:
        text = PAGE.read_text(encoding="utf-8")
        block = f"<!-- sampling -->\n\n{table}\n\n<!-- end -->"
        PAGE.write_text(re.sub(r"<!-- sampling -->.*<!-- end -->", block, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
