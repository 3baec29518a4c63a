"""A hundred default fields, by the local pool and by a dask cluster in turn: `python benchmarks/long_run.py`.

Every section is five default fields of one rendered slide, drawn by its own seed. Order: pool, cluster,
cluster, pool. The tables must be the same to the byte, or this fails. Time per field is that between the
first and the last field of a run, as events.jsonl tells: what starts and ends a run is apart.
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
    write_study(folder, StudyPlan(patients=(1, 0), markers={MARKER: value}, render=render, vary=False), seed)
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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=9_300, help="of the rendered slide")
    args = parser.parse_args()
    outcomes: list[tuple[str, Outcome]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_table(folder, write_slide(folder, args.seed), args.sections)
        protocol = folder / "protocol.toml"
        protocol.write_text(f"[fields]\ncount = {FIELDS}\n")
        for turn, kind in enumerate(("pool", "dask", "dask", "pool")):
            out = folder / f"{kind}-{turn}"
            if kind == "pool":
                found = run(table, protocol, out, "--workers", args.workers)
            else:
                with start_cluster(args.workers, folder) as address:
                    found = run(table, protocol, out, "--scheduler", address)
            outcomes.append((kind, found))
            print(kind, f"{found.clock_s:.0f} s", file=sys.stderr, flush=True)
    if any(found.tables != outcomes[0][1].tables for _, found in outcomes):
        raise SystemExit("pool and cluster gave different tables")
    each = [found.between_s / (found.fields - 1) for _, found in outcomes]
    rows = [
        {
            "run": kind,
            "fields": found.fields,
            "s a field, first to last": f"{spent:.2f}",
            "whole run, s": f"{found.clock_s:.0f}",
        }
        for (kind, found), spent in zip(outcomes, each, strict=True)
    ]
    print(format_table(pd.DataFrame(rows)))
    pool, dask = each[0] + each[3], each[1] + each[2]
    print(f"Cluster / pool, after start-up: {dask / pool:.2f}. Tables the same to the byte.")
    print(f"{STUDY_FIELDS} fields, extrapolated: {pool / 2 * STUDY_FIELDS / 60:.0f} min.")


if __name__ == "__main__":
    main()
