"""Quality control against planted faults: `python benchmarks/qc_faults.py --help`.

Good fields, rendered with varied stain, and restained photographs from ../shared where that folder is, get
one fault each at three strengths. A fault is caught if any limit of the default protocol flags the field; a
good field that is flagged is a false alarm. Seeds and settings rendered here set no limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from tables import format_table

from histoquant.geometry import Patch
from histoquant.protocol import QcSettings
from histoquant.qc.judge import judge_quality, measure_field_quality
from histoquant.stains import DEFAULT_VECTORS, Vector, estimate_white, separate_stains
from histoquant.synthetic import RenderSettings, render_section
from histoquant.synthetic.settings import LayoutSettings, StainingSettings

Pixels = npt.NDArray[np.uint8]
PHOTOGRAPHS = Path(__file__).parents[1].parent / "shared" / "data" / "muscle" / "hdab"
HAEMATOXYLIN, DAB = (np.array(v) / np.linalg.norm(v) for v in DEFAULT_VECTORS)
ACROSS = np.cross(HAEMATOXYLIN, DAB) / np.linalg.norm(np.cross(HAEMATOXYLIN, DAB))
BASIS = np.stack([HAEMATOXYLIN, DAB, ACROSS])
SIZE_UM = 560.0


class Good(NamedTuple):
    """A field without a fault."""

    kind: str
    pixels: Pixels
    mpp: float
    white: Vector


def render_fields(number: int, seed: int) -> Iterator[Good]:
    """Rendered fields whose stain, light and tissue vary as slides of one laboratory may."""
    for at in range(number):
        rng = np.random.default_rng([seed, at])
        white = tuple(float(w) for w in np.array([243.0, 241.0, 239.0]) - rng.uniform(0, 15))
        staining = StainingSettings(
            white=white,
            nucleus_od=rng.uniform(0.5, 0.8),
            fiber_od=rng.uniform(0.06, 0.11),
            background_od=rng.uniform(0.02, 0.07),
            noise=rng.uniform(1.0, 2.5),
            blur_um=rng.uniform(0.35, 0.55),
        )
        settings = RenderSettings(
            size_um=(SIZE_UM, SIZE_UM), layout=LayoutSettings(rim_um=0.0), staining=staining
        )
        yield Good("rendered", render_section(rng, settings).pixels, settings.mpp, white)


def read_photographs(folder: Path) -> Iterator[Good]:
    """Restained photographs, whole."""
    for path in sorted(folder.glob("0?_*.png")):
        if not path.stem.endswith(("_fibers", "_ignore")):
            pixels = cv2.imread(str(path))[..., ::-1].copy()
            yield Good("photographs", pixels, 0.4, estimate_white(pixels)[0])


def blur(good: Good, sigma_um: float) -> Pixels:
    soft = cv2.GaussianBlur(good.pixels.astype(np.float32), (0, 0), sigma_um / good.mpp)
    return np.clip(soft + np.random.default_rng(0).normal(0, 1.5, soft.shape), 0, 255).astype(np.uint8)


def compress(good: Good, quality: float) -> Pixels:
    data = cv2.imencode(".jpg", good.pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def shade(good: Good, loss: float) -> Pixels:
    light = 1 - loss * np.linspace(0, 1, good.pixels.shape[1])
    return np.asarray(good.pixels * light[None, :, None], np.uint8)


def overstain(good: Good, factor: float) -> Pixels:
    return expose(good, factor * density(good) @ BASIS)


def brown(good: Good, od: float) -> Pixels:
    return expose(good, (density(good) + np.array([0.0, od, 0.0])) @ BASIS)


def rotate(good: Good, degrees: float) -> Pixels:
    """Both stains turned within their plane."""
    turn = np.radians(degrees)
    turned = [np.cos(turn) * v + np.sin(turn) * np.cross(ACROSS, v) for v in (HAEMATOXYLIN, DAB)]
    return expose(good, density(good) @ np.stack([*turned, ACROSS]))


def density(good: Good) -> npt.NDArray[np.float64]:
    return np.log10(np.array(good.white) / np.maximum(good.pixels, 1)) @ np.linalg.inv(BASIS)


def expose(good: Good, od: npt.NDArray[np.float64]) -> Pixels:
    return np.clip(np.array(good.white) * 10**-od + 0.5, 0, 255).astype(np.uint8)


FAULTS: dict[str, tuple[Callable[[Good, float], Pixels], tuple[float, float, float]]] = {
    "blur, um": (blur, (1.0, 1.5, 2.5)),
    "JPEG quality": (compress, (50, 30, 15)),
    "uneven light, loss": (shade, (0.15, 0.30, 0.45)),
    "both stains stronger, times": (overstain, (1.5, 2.0, 3.0)),
    "brown background, OD": (brown, (0.05, 0.1, 0.2)),
    "vectors turned, degrees": (rotate, (5, 10, 15)),
    "vectors turned back, degrees": (rotate, (-5, -10, -15)),
}
STRENGTHS = ("weak", "medium", "strong")


def flag(pixels: Pixels, good: Good, settings: QcSettings) -> list[str]:
    """Measures beyond their limits."""
    stains = separate_stains(Patch(pixels, 0.0, 0.0, good.mpp), good.white)
    everywhere = np.ones(stains.dab.shape, bool)
    values = measure_field_quality(pixels, good.mpp, stains, everywhere, DEFAULT_VECTORS, settings)
    return [finding.measure for finding in judge_quality(values, settings)]


def judge_field(good: Good, settings: QcSettings) -> Iterator[dict[str, object]]:
    alarms = flag(good.pixels, good, settings)
    yield {"kind": good.kind, "fault": "none", "strength": "", "caught": bool(alarms), "why": alarms}
    harmless = flag(blur(good, 0.75), good, settings), flag(compress(good, 75), good, settings)
    for name, alarms in zip(("none: blur of 0.75 um", "none: JPEG quality 75"), harmless, strict=True):
        yield {"kind": good.kind, "fault": name, "strength": "", "caught": bool(alarms), "why": alarms}
    for fault, (plant, values) in FAULTS.items():
        for strength, value in zip(STRENGTHS, values, strict=True):
            alarms = flag(plant(good, value), good, settings)
            name = f"{fault}: {', '.join(f'{value:g}' for value in values)}"
            yield {
                "kind": good.kind, "fault": name, "strength": strength, "caught": bool(alarms), "why": alarms
            }  # fmt: skip


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Fields flagged / fields, by fault, kind of image and strength."""
    column = (table["kind"] + " " + table["strength"]).str.strip()
    shares = table.assign(column=pd.Categorical(column, column.unique())).pivot_table(
        index="fault", columns="column", values="caught", aggfunc=_tell, observed=True
    )
    shares.columns = shares.columns.astype(str)
    return shares.fillna("").reindex(table["fault"].unique()).reset_index()


def _tell(caught: pd.Series[bool]) -> str:
    return f"{int(caught.sum())} / {len(caught)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rendered", type=int, default=20, help="rendered fields")
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--out", type=Path, help="CSV for every field and fault")
    args = parser.parse_args()
    fields = [*render_fields(args.rendered, args.seed), *read_photographs(PHOTOGRAPHS)]
    table = pd.DataFrame([row for good in fields for row in judge_field(good, QcSettings())])
    if args.out:
        table.to_csv(args.out, index=False)
    print(format_table(summarise(table)))
    alarms = table[table["fault"].str.startswith("none") & table["caught"]]
    print("\nFalse alarms:", alarms[["kind", "fault", "why"]].to_string() if len(alarms) else "none")


if __name__ == "__main__":
    main()
