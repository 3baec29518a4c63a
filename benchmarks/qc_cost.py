"""What quality control costs in a run: `python benchmarks/qc_cost.py SLIDE [--fields 4]`.

One section is measured by `histoquant run` with everything, without the search for artefacts, and without any
quality control; told is the processor's time of the whole command, start included, with one worker.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODES = {
    "everything": "",
    "no search for artefacts": "[qc.artefacts]\navoid = false\n",
    "nothing": "[qc]\ncheck = false\n[qc.artefacts]\navoid = false\n",
}


def time_run(slide: Path, fields: int, protocol: str) -> float:
    """Seconds of processor time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "P.toml").write_text(protocol)
        (folder / "STUDY.csv").write_text(f"patient,group,marker,slide\nP,,CD19,{slide.resolve()}\n")
        words = ["run", "STUDY.csv", "--out", "out", "--protocol", "P.toml", "--fields", str(fields)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "histoquant", *words, "--workers", "1", "--quiet"], cwd=folder, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--fields", type=int, default=4)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    args = parser.parse_args()
    print("| quality control | fields | CPU, s |\n|---|---|---|")
    for mode in args.modes:
        spent = time_run(args.slide, args.fields, MODES[mode])
        print(f"| {mode} | {args.fields} | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main()
