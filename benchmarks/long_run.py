"""A hundred default fields, by pools and by a dask cluster in turn: `python benchmarks/long_run.py`.

Every section is five default fields of one rendered slide, drawn by its own seed. Order: two workers, a
cluster of two, one worker, two runs at once of one worker each, and back. The two runs share nothing but
the machine, and say what a second worker can give on it. The tables must be the same to the byte, or this
fails. Time per field is that between the first and the last field of a run, as events.jsonl tells: what
starts and ends a run is apart.
"""

from __future__ import annotations

import argparse
import json
import os
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
START_S = 60.0
# What docs/cluster.md advises.
SPARING = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
KINDS = ("two workers", "cluster of two", "one worker", "two runs at once")


class Outcome(NamedTuple):
    """What became of a run."""

    tables: list[bytes]
    fields: int
    each_s: float
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
            processes.append(subprocess.Popen(command, env=os.environ | SPARING, **quiet))
            wait_for(told)
        time.sleep(15)
        yield json.loads(told.read_text())["address"]
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)
        told.unlink(missing_ok=True)


def wait_for(file: Path) -> None:
    """Wait until the scheduler has told its address."""
    late = time.monotonic() + START_S
    while not file.is_file():
        if time.monotonic() > late:
            raise SystemExit(f"the scheduler did not start within {START_S:.0f} s")
        time.sleep(0.2)


def run(table: Path, protocol: Path, outs: list[Path], *how: object) -> Outcome:
    """Run a study into each folder, all at once; how long that took, and a field between first and last."""
    words = [sys.executable, "-m", "histoquant", "run", table, "--protocol", protocol, "--quiet", *how]
    began = time.monotonic()
    runs = [subprocess.Popen([*map(str, words), "--out", str(out)]) for out in outs]
    failed = sum(process.wait() != 0 for process in runs)
    if failed:
        raise SystemExit("a run failed")
    clock_s = time.monotonic() - began
    paces = [pace_fields(out) for out in outs]
    tables = [(out / name).read_bytes() for out in outs[:1] for name in TABLES]
    rate = sum(1 / each for _, each in paces)
    return Outcome(tables, sum(fields for fields, _ in paces), 1 / rate, clock_s)


def pace_fields(out: Path) -> tuple[int, float]:
    """Fields of a run, and the seconds of one."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(e["time"]) for e in events if e["event"] == "field_measured"]
    return len(times), (times[-1] - times[0]).total_seconds() / (len(times) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sections", type=int, default=20, help="of five fields each")
    parser.add_argument("--seed", type=int, default=9_300, help="of the rendered slide")
    parser.add_argument("--runs", nargs="+", choices=KINDS, default=KINDS, help="which; then back")
    args = parser.parse_args()
    outcomes: list[tuple[str, Outcome]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_table(folder, write_slide(folder, args.seed), args.sections)
        protocol = folder / "protocol.toml"
        protocol.write_text(f"[fields]\ncount = {FIELDS}\n")
        for turn, kind in enumerate([*args.runs, *args.runs[::-1]]):
            outs = [folder / f"{turn}-{number}" for number in range(2 if kind == "two runs at once" else 1)]
            if kind == "cluster of two":
                with start_cluster(2, folder) as address:
                    found = run(table, protocol, outs, "--scheduler", address)
            else:
                found = run(table, protocol, outs, "--workers", 2 if kind == "two workers" else 1)
            outcomes.append((kind, found))
            print(kind, f"{found.clock_s:.0f} s", file=sys.stderr, flush=True)
    if any(found.tables != outcomes[0][1].tables for _, found in outcomes):
        raise SystemExit("the runs gave different tables")
    costs = pd.DataFrame(
        [(kind, found.fields, found.each_s, found.clock_s) for kind, found in outcomes],
        columns=["run", "fields", "each", "clock"],
    )
    each = costs.groupby("run")["each"].mean()
    costs["each"], costs["clock"] = costs["each"].map("{:.2f}".format), costs["clock"].map("{:.0f}".format)
    print(format_table(costs.rename(columns={"each": "s a field, first to last", "clock": "whole run, s"})))
    print("Tables the same to the byte. First to last field:")
    for above, below in (KINDS[1::-1], KINDS[2::-2], KINDS[2:]):
        if above in each and below in each:
            print(f"- {above} / {below}: {each[above] / each[below]:.2f}")
    if KINDS[0] not in each:
        return
    minutes = each["two workers"] * STUDY_FIELDS / 60
    print(f"- {STUDY_FIELDS} fields by two workers, extrapolated: {minutes:.0f} min")


if __name__ == "__main__":
    main()
