"""A field by HistomicsTK, in its own environment: `python histomicstk_field.py FIELD.npy MPP`.

Color deconvolution, Kofahi's nuclei and their morphometry with the defaults of its command NucleiDetection,
at 20x (0.5 um/px); but the foreground by Otsu's threshold, since its default of 60 misses most nuclei of a
pale slide. HistomicsTK finds no fibers. Prints one line of JSON: CPU seconds per step, nuclei.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import cv2
import numpy as np

warnings.filterwarnings("ignore")
from histomicstk.features import compute_morphometry_features  # noqa: E402
from histomicstk.preprocessing.color_deconvolution import color_deconvolution, stain_color_map  # noqa: E402
from histomicstk.segmentation.nuclear import detect_nuclei_kofahi  # noqa: E402
from skimage.filters import threshold_otsu  # noqa: E402

MPP = 0.5
MIN_RADIUS, MAX_RADIUS, MIN_AREA, SEARCH_RADIUS = 6, 20, 80, 10


def main() -> None:
    pixels, scale = np.load(sys.argv[1]), float(sys.argv[2]) / MPP
    cv2.setNumThreads(1)
    clock = [time.process_time()]
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    matrix = np.array([stain_color_map[name] for name in ("hematoxylin", "dab", "null")]).T
    nuclear = color_deconvolution(small, matrix).Stains[:, :, 0].astype(float)
    clock.append(time.process_time())
    labels = detect_nuclei_kofahi(
        nuclear, nuclear < threshold_otsu(nuclear), MIN_RADIUS, MAX_RADIUS, MIN_AREA, SEARCH_RADIUS
    )
    clock.append(time.process_time())
    compute_morphometry_features(labels)
    clock.append(time.process_time())
    steps = dict(zip(("deconvolution", "nuclei", "morphometry"), np.diff(clock).tolist(), strict=True))
    print(json.dumps({**steps, "found": int(len(np.unique(labels)) - 1)}))


if __name__ == "__main__":
    main()
