"""Accuracy of fiber segmentation on the restained photographs: run by hand, `python benchmarks/fibers.py`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
from matching import match_labels
from skimage import io

from histoquant.fibers import get_segmenter
from histoquant.geometry import Patch
from histoquant.protocol import FiberSettings
from histoquant.stains import separate_stains

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "muscle" / "hdab"
WHITE = (243.0, 241.0, 239.0)
# Least F1 at IoU 0.5: a fall below is a regression. Numbers were tuned on 01; two faults were found on 02
# (drift where no gap is visible, nuclei masks too large), so that 02 is not strictly unseen.
FLOORS = {"01": 0.8, "02": 0.85, "HARD": 0.25}


def score_photograph(path: Path, mpp: float = 0.4) -> tuple[float, float, float, float]:
    """F1 at 0.5 and 0.75, count error, and seconds."""
    name = path.name[:2]
    stains = separate_stains(Patch(io.imread(path)[..., :3], 0.0, 0.0, mpp), WHITE)
    size = stains.dab.shape[::-1]
    truth, ignore = (
        cv2.resize(
            io.imread(DATA / f"{name}_{part}.png").astype(np.float32), size, interpolation=cv2.INTER_NEAREST
        )
        for part in ("fibers", "ignore")
    )
    began = time.process_time()
    found = get_segmenter(FiberSettings())(stains)
    seconds = time.process_time() - began
    least = round(100 / stains.mpp**2)
    loose, strict = (
        match_labels(truth.astype(np.int32), found, threshold, ignore > 0, least) for threshold in (0.5, 0.75)
    )
    return loose.f1, strict.f1, loose.count_error, seconds


def main() -> int:
    """Print the table; 1 if a floor is missed."""
    if not DATA.is_dir():
        print(f"skipped: no {DATA}")
        return 0
    missed = 0
    print("image            F1@0.5 F1@0.75  count   s")
    for path in sorted(DATA.glob("*.png")):
        if path.stem.endswith(("_fibers", "_ignore")):
            continue
        loose, strict, count, seconds = score_photograph(path)
        floor = FLOORS["HARD" if "HARD" in path.stem else path.stem[:2]]
        missed += loose < floor
        note = " BELOW" if loose < floor else ""
        print(f"{path.stem:16s} {loose:6.3f} {strict:7.3f} {count:+6.1%} {seconds:.2f}{note}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
