"""A run whose workers are killed, beside one left in peace: `python benchmarks/killing.py`.

Every section is one small field of a rendered slide, drawn by its own seed. A field on which ten workers
were killed fails, so that the second run is then resumed in peace. A run without failed sections must give
the tables of the first to the byte, or this fails. What each took is printed as a table.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tables import format_table

from histoquant.synthetic import MarkerPlan, RenderSettings, StudyPlan, write_study
from histoquant.synthetic.settings import LayoutSettings

MARKER = "CD19"
TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")
PROTOCOL = "[fields]\ncount = 1\nwidth_um = 150\nmargin_um = 30\n"


class Outcome(NamedTuple):
    """What became of a run."""

    tables: list[bytes]
    killed: int
    failed: int
    seconds: float
    owner_mb: int


def write_slide(folder: Path, seed: int) -> Path:
    """A section of 0.8 mm, rendered."""
    render = RenderSettings(size_um=(800.0, 800.0), layout=LayoutSettings(rim_um=60.0))
    value = MarkerPlan(mean=(0.3, 0.5), sd=(0.1, 0.1))
    write_study(folder, StudyPlan(patients=(1, 1), markers={MARKER: value}, render=render, vary=False), seed)
    return folder / "slides" / f"P01-{MARKER}.svs"


def write_table(folder: Path, slide: Path, sections: int) -> Path:
    """A study of that many patients, all of the same slide."""
    rows = [f"P{number:04d},,{MARKER},{slide}" for number in range(sections)]
    table = folder / f"STUDY{sections}.csv"
    table.write_text("\n".join(["patient,group,marker,slide", *rows]) + "\n", encoding="utf-8")
    return table


def run(table: Path, out: Path, workers: int, every_s: float | None = None) -> Outcome:
    """Run a study; every so many seconds one of its workers, whichever, is killed."""
    protocol = table.with_name("protocol.toml")
    protocol.write_text(PROTOCOL, encoding="utf-8")
    words = [sys.executable, "-m", "histoquant", "run", table, "--out", out, "--protocol", protocol]
    began = last = time.monotonic()
    process = subprocess.Popen([*map(str, words), "--workers", str(workers), "--quiet"])
    killed, owner_mb, chance = 0, 0, random.Random(0)
    while process.poll() is None:
        time.sleep(0.2)
        owner_mb = max(owner_mb, read_peak_mb(process.pid))
        if every_s is not None and time.monotonic() - last >= every_s:
            last = time.monotonic()
            killed += kill_one(process.pid, chance)
    if process.returncode > (every_s is not None):
        raise SystemExit(f"a run ended with status {process.returncode}")
    tables = [(out / name).read_bytes() for name in TABLES]
    failed = int((pd.read_csv(out / "sections.csv")["status"] == "failed").sum())
    return Outcome(tables, killed, failed, time.monotonic() - began, owner_mb)


def read_peak_mb(pid: int) -> int:
    """Peak memory of a process so far; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def kill_one(owner: int, chance: random.Random) -> int:
    """Kill one of the workers, which a process of the run forks; how many were killed."""
    servers = [pid for pid in list_children(owner) if b"forkserver" in read_command(pid)]
    workers = [pid for server in servers for pid in list_children(server)]
    if not workers:
        return 0
    try:
        os.kill(chance.choice(workers), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def list_children(pid: int) -> list[int]:
    try:
        parts = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for part in parts for child in part]


def read_command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sections", type=int, default=60)
    parser.add_argument(
        "--few", type=int, default=10, help="sections of the run that memory is compared with"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two kills")
    parser.add_argument("--slide", type=Path, help="a slide of your own, instead of a rendered one")
    parser.add_argument("--seed", type=int, default=9_100, help="of the rendered slide")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = args.slide.absolute() if args.slide else write_slide(folder, args.seed)
        few, many = (write_table(folder, slide, number) for number in (args.few, args.sections))
        runs = {
            f"{args.few} sections": run(few, folder / "few", args.workers),
            f"{args.sections} sections": run(many, folder / "many", args.workers),
            f"{args.sections} sections, workers killed": run(
                many, folder / "killed", args.workers, args.every
            ),
            "that run resumed, in peace": run(many, folder / "killed", args.workers),
        }
    _, peaceful, disturbed, resumed = runs.values()
    if peaceful.tables != resumed.tables or (not disturbed.failed and disturbed.tables != peaceful.tables):
        raise SystemExit("the run whose workers were killed gave other tables")
    rows = [
        {
            "run": name,
            "workers killed": found.killed,
            "sections failed": found.failed,
            "s by the clock": f"{found.seconds:.0f}",
            "peak memory of the process that keeps the folder, MB": found.owner_mb,
        }
        for name, found in runs.items()
    ]
    print(format_table(pd.DataFrame(rows)))
    print("Runs without failed sections have the tables of the run in peace, to the byte.")


if __name__ == "__main__":
    main()
