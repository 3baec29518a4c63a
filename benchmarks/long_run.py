"""A hundred default fields, by pools and by a dask cluster in turn: `python benchmarks/long_run.py`.

Every section is five default fields of one rendered slide, drawn by its own seed. Order: two workers, a
cluster of two, one worker, and back. The tables must be the same to the byte, or this fails. Time per
field is that between the first and the last field of a run, as events.jsonl tells: what starts and ends a
run is apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from killing import MARKER, TABLES, write_table
from tables import format_table

from histoquant.synthetic import MarkerPlan, RenderSettings, StudyPlan, write_study
from histoquant.synthetic.settings import LayoutSettings

FIELDS = 5
STUDY_FIELDS = 29 * 3 * 10
ORDER = ("two workers", "cluster of two", "one worker", "cluster of two", "two workers")


class Outcome(NamedTuple):
    """What became of a run."""

    tables: list[bytes]
    fields: int
    between_s: float
    clock_s: float


def write_slide(folder: Path, seed: int) -> Path:
    """A section of 2.2 mm at 0.25 um/px, rendered."""
    render = RenderSettings(size_um=(2200.0, 2200.0), mpp=0.25, layout=LayoutSettings(rim_um=60.0))
    value = MarkerPlan(mean=(0.3, 0.5), sd=(0.1, 0.1))
    write_study(folder, StudyPlan(patients=(1, 1), markers={MARKER: value}, render=render, vary=False), seed)
    return folder / "slides" / f"P01-{MARKER}.svs"


@contextmanager
def start_cluster(workers: int, folder: Path) -> Iterator[str]:
    """A scheduler and its workers, of one thread each, on this machine; yields the scheduler's address."""
    told = folder / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--scheduler-file", str(told)]
    begin = ["dask_scheduler", "--port", "0", "--no-dashboard"]
    work = ["dask_worker", "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"]
    processes = []
    try:
        for module, *words in (begin, work):
            command = [*dask[:2], f"{dask[2]}.{module}", *words, *place]
            processes.append(subprocess.Popen(command, **quiet))
            while not told.is_file():
                time.sleep(0.2)
        time.sleep(15)
        yield json.loads(told.read_text())["address"]
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)
        told.unlink(missing_ok=True)


def run(table: Path, protocol: Path, out: Path, *how: object) -> Outcome:
    """Run a study; how long it took, as a whole and from its first field to its last."""
    words = [sys.executable, "-m", "histoquant", "run", table, "--out", out, "--protocol", protocol]
    began = time.monotonic()
    subprocess.run([*map(str, words), "--quiet", *map(str, how)], check=True)
    clock_s = time.monotonic() - began
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(e["time"]) for e in events if e["event"] == "field_measured"]
    between = (times[-1] - times[0]).total_seconds()
    return Outcome([(out / name).read_bytes() for name in TABLES], len(times), between, clock_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sections", type=int, default=20, help="of five fields each")
    parser.add_argument("--seed", type=int, default=9_300, help="of the rendered slide")
    args = parser.parse_args()
    outcomes: list[tuple[str, Outcome]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_table(folder, write_slide(folder, args.seed), args.sections)
        protocol = folder / "protocol.toml"
        protocol.write_text(f"[fields]\ncount = {FIELDS}\n")
        for turn, kind in enumerate(ORDER):
            out = folder / str(turn)
            if kind == "cluster of two":
                with start_cluster(2, folder) as address:
                    found = run(table, protocol, out, "--scheduler", address)
            else:
                found = run(table, protocol, out, "--workers", 2 if kind == "two workers" else 1)
            outcomes.append((kind, found))
            print(kind, f"{found.clock_s:.0f} s", file=sys.stderr, flush=True)
    if any(found.tables != outcomes[0][1].tables for _, found in outcomes):
        raise SystemExit("the runs gave different tables")
    costs = pd.DataFrame(
        [
            {
                "run": kind,
                "fields": found.fields,
                "each": found.between_s / (found.fields - 1),
                "clock": found.clock_s,
            }
            for kind, found in outcomes
        ]
    )
    each = costs.groupby("run")["each"].mean()
    costs["each"], costs["clock"] = costs["each"].map("{:.2f}".format), costs["clock"].map("{:.0f}".format)
    print(format_table(costs.rename(columns={"each": "s a field, first to last", "clock": "whole run, s"})))
    print("Tables the same to the byte. First to last field:")
    print(f"- cluster of two / two workers: {each['cluster of two'] / each['two workers']:.2f}")
    print(f"- one worker / two workers: {each['one worker'] / each['two workers']:.2f}")
    minutes = each["two workers"] * STUDY_FIELDS / 60
    print(f"- {STUDY_FIELDS} fields by two workers, extrapolated: {minutes:.0f} min")


if __name__ == "__main__":
    main()
