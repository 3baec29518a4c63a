"""What quality control costs in a run: `python benchmarks/qc_cost.py SLIDE [--fields 10] [--pairs 4]`.

One section is measured by `histoquant run` with everything (A) and without quality control (B), in the order
A B B A, so that a machine that becomes slower or faster meanwhile favours neither. Told is the processor's
time of the whole command, start included, with one worker: the median of the pairs' ratios A / B, and their
range. Both must have measured the same fields and counts, or it stops. `--against search` leaves only the
search for artefacts out of B. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tables import format_share, format_table

WITHOUT = {
    "any": "[qc]\ncheck = false\n[qc.artefacts]\navoid = false\n",
    "search": "[qc.artefacts]\navoid = false\n",
}
"""Protocols of B: without any quality control, without the search for artefacts."""
COUNTED = ["center_x_um", "center_y_um", "fibers", "positive_cells"]


class Spent(NamedTuple):
    """Processor time of a run, s, and what it counted."""

    seconds: float
    counted: pd.DataFrame


def time_run(slide: Path, fields: int, protocol: str) -> Spent:
    """One run in a folder of its own; exit code 1 (fewer fields than asked) is none of our business."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "P.toml").write_text(protocol)
        (folder / "STUDY.csv").write_text(f"patient,group,marker,slide\nP,,CD19,{slide.resolve()}\n")
        words = ["run", "STUDY.csv", "--out", "out", "--protocol", "P.toml", "--fields", str(fields)]
        witness = [sys.executable, Path(__file__).with_name("witness.py").resolve()]
        command = [*witness, sys.executable, "-m", "histoquant", *words, "--workers", "1", "--quiet"]
        told = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        code, seconds, _ = json.loads(told.splitlines()[-1])
        if code not in (0, 1):
            raise SystemExit(code)
        counted = pd.read_csv(folder / "out" / "fields.csv")[COUNTED]
    return Spent(seconds, counted)


def time_pairs(slide: Path, fields: int, pairs: int, without: str) -> Iterator[tuple[float, float]]:
    """Seconds with and without, pair after pair: A B, B A, A B, ..."""
    for number in range(pairs):
        order = ("", without) if number % 2 == 0 else (without, "")
        spent = {protocol: time_run(slide, fields, protocol) for protocol in order}
        if not spent[""].counted.equals(spent[without].counted):
            raise SystemExit("the two measured other fields: take a slide without artefacts")
        yield spent[""].seconds, spent[without].seconds


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Median and range over pairs, of both times and of what quality control adds.

    Examples
    --------
    >>> print(format_table(summarise(pd.DataFrame({"with_s": [11.0, 22.0, 10.5], "without_s": [10.0, 20.0, 10.0]}))))
    | what | median | range |
    | --- | --- | --- |
    | with, s | 11.0 | 10.5 to 22.0 |
    | without, s | 10.0 | 10.0 to 20.0 |
    | more | +10.0% | +5.0% to +10.0% |
    """  # noqa: E501
    rows = []
    for name, column in (("with, s", "with_s"), ("without, s", "without_s")):
        values = table[column]
        rows.append((name, f"{values.median():.1f}", f"{values.min():.1f} to {values.max():.1f}"))
    more = table["with_s"] / table["without_s"] - 1
    told = f"{format_share(more.min())} to {format_share(more.max())}"
    rows.append(("more", format_share(more.median()), told))
    return pd.DataFrame(rows, columns=["what", "median", "range"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--fields", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--against", choices=WITHOUT, default="any", help="what B does without")
    args = parser.parse_args()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}", flush=True)
    time_run(args.slide, 1, "")  # the disk's cache, and compiled modules
    rows = []
    for number, (with_s, without_s) in enumerate(
        time_pairs(args.slide, args.fields, args.pairs, WITHOUT[args.against]), 1
    ):
        print(f"pair {number}: with {with_s:.1f} s, without {without_s:.1f} s", flush=True)
        rows.append({"with_s": with_s, "without_s": without_s})
    print(format_table(summarise(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()
