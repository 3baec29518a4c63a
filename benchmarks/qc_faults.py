"""Quality control against planted faults: `python benchmarks/qc_faults.py --help`.

Good fields, rendered with varied stain, and restained photographs from ../shared where that folder is, get
one fault each at three strengths. A fault is caught if any limit of the default protocol flags the field, or,
in a second table, if it stands apart from the good fields of its kind; a good field that is flagged is a
false alarm. Seeds and settings rendered here set no limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from tables import format_table

from histoquant.control.peers import Peer, compare_peers
from histoquant.geometry import Patch
from histoquant.protocol import PeerSettings, QcSettings
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
    name: str
    pixels: Pixels
    mpp: float
    white: Vector


def draw_staining(rng: np.random.Generator) -> dict[str, Any]:
    """White, strength, noise and focus, as slides of one laboratory may vary: for `StainingSettings`."""
    white = tuple(float(w) for w in np.array([243.0, 241.0, 239.0]) - rng.uniform(0, 15))
    return {
        "white": white,
        "nucleus_od": rng.uniform(0.5, 0.8),
        "fiber_od": rng.uniform(0.06, 0.11),
        "background_od": rng.uniform(0.02, 0.07),
        "noise": rng.uniform(1.0, 2.5),
        "blur_um": rng.uniform(0.35, 0.55),
    }


def render_fields(numbers: Iterable[int], seed: int) -> Iterator[Good]:
    """Rendered fields whose stain, light and tissue vary."""
    for at in numbers:
        rng = np.random.default_rng([seed, at])
        staining = StainingSettings(**draw_staining(rng))
        settings = RenderSettings(
            size_um=(SIZE_UM, SIZE_UM), layout=LayoutSettings(rim_um=0.0), staining=staining
        )
        yield Good(
            "rendered", f"rendered {at}", render_section(rng, settings).pixels, settings.mpp, staining.white
        )


def read_photographs(folder: Path, part: int, parts: int) -> Iterator[Good]:
    """Restained photographs, whole."""
    paths = [path for path in sorted(folder.glob("0?_*.png")) if path.stem[-3:] not in ("ers", "ore")]
    for at, path in enumerate(paths):
        if at % parts == part:
            pixels = cv2.imread(str(path))[..., ::-1].copy()
            yield Good("photographs", path.stem, pixels, 0.4, estimate_white(pixels)[0])


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


def measure(pixels: Pixels, good: Good, settings: QcSettings) -> dict[str, float]:
    stains = separate_stains(Patch(pixels, 0.0, 0.0, good.mpp), good.white)
    everywhere = np.ones(stains.dab.shape, bool)
    return measure_field_quality(pixels, good.mpp, stains, everywhere, DEFAULT_VECTORS, settings)


def list_cases(good: Good) -> Iterator[tuple[str, str, Pixels]]:
    """Fault, strength and pixels; faults whose name begins with `none` are harmless."""
    yield "none", "", good.pixels
    yield "none: blur of 0.75 um", "", blur(good, 0.75)
    yield "none: JPEG quality 75", "", compress(good, 75)
    for fault, (plant, values) in FAULTS.items():
        name = f"{fault}: {', '.join(f'{value:g}' for value in values)}"
        for strength, value in zip(STRENGTHS, values, strict=True):
            yield name, strength, plant(good, value)


def judge_field(good: Good, settings: QcSettings) -> Iterator[dict[str, Any]]:
    for fault, strength, pixels in list_cases(good):
        values = measure(pixels, good, settings)
        why = [finding.measure for finding in judge_quality(values, settings)]
        about = {"kind": good.kind, "field": good.name, "fault": fault, "strength": strength}
        yield {**about, "caught": bool(why), "why": " ".join(why), **values}


def compare_batch(table: pd.DataFrame, settings: PeerSettings) -> pd.Series[bool]:
    """Whether a field is flagged, or set apart by the good fields of its kind but its own."""
    apart = []
    for _, row in table.iterrows():
        others = table[
            table["kind"].eq(row["kind"]) & table["fault"].eq("none") & table["field"].ne(row["field"])
        ]
        peers = [Peer("", "", values) for values in others.to_dict("records")]
        apart.append(bool(compare_peers([Peer("", "", row.to_dict()), *peers], settings)[0]))
    return table["caught"] | np.array(apart)


def summarise(table: pd.DataFrame, how: str = "caught") -> pd.DataFrame:
    """Fields flagged / fields, by fault, kind of image and strength."""
    column = (table["kind"] + " " + table["strength"]).str.strip()
    shares = table.assign(column=pd.Categorical(column, column.unique())).pivot_table(
        index="fault", columns="column", values=how, aggfunc=_tell, observed=True
    )
    shares.columns = shares.columns.astype(str)
    return shares.fillna("").reindex(table["fault"].unique()).reset_index()


def _tell(caught: pd.Series[bool]) -> str:
    return f"{int(caught.sum())} / {len(caught)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rendered", type=int, default=20, help="rendered fields")
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="of so many: a share of the fields")
    parser.add_argument("--out", type=Path, help="CSV for every field and fault")
    parser.add_argument("--table", type=Path, nargs="+", help="only tabulate such files")
    args = parser.parse_args()
    if args.table:
        tabulate(
            pd.concat([pd.read_csv(path, keep_default_na=False, na_values=["nan"]) for path in args.table])
        )
        return
    part, parts = args.part
    fields = [
        *render_fields(range(part, args.rendered, parts), args.seed),
        *read_photographs(PHOTOGRAPHS, part, parts),
    ]
    table = pd.DataFrame([row for good in fields for row in judge_field(good, QcSettings())])
    if args.out:
        table.to_csv(args.out, index=False, na_rep="nan")
    tabulate(table)


def tabulate(table: pd.DataFrame) -> None:
    table = table.reset_index(drop=True)
    table["apart"] = compare_batch(table, PeerSettings())
    print("By the limits for all slides:\n")
    print(format_table(summarise(table)))
    print("\nBy these or beside the good fields of its kind, as slides of a batch:\n")
    print(format_table(summarise(table, "apart")))
    alarms = table[table["fault"].str.startswith("none") & table["apart"]]
    print("\nFalse alarms:", alarms[["kind", "field", "fault", "why"]].to_string() if len(alarms) else "none")


if __name__ == "__main__":
    main()
