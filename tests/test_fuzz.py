"""Files from strangers: damaged anywhere, each is read or refused in words, in bounded time and memory."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from histoquant.annotations import read_annotations
from histoquant.errors import HistoquantError
from histoquant.protocol import load_protocol
from histoquant.slide import open_slide
from histoquant.study import read_study

MOST_SECONDS = 10.0
MOST_BYTES = 2e9
EXAMPLES = 60
# A damage: where it begins (part of the file), how many bytes go, and what comes in their place.
DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 2, 4, 9, 10_000]), st.binary(max_size=9)), max_size=6
)


def damage(data: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, new in damages:
        at = int(place * len(data))
        data = data[:at] + new + data[at + gone :]
    return data


def make_tiff(**how: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(pixels, photometric="rgb", resolution=(25_400, 25_400), resolutionunit="INCH", **how)
    return file.getvalue()


def make_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (120, 90), (200, 150, 160)).save(file, "JPEG")
    return file.getvalue()


def read_whole(path: Path) -> None:
    with open_slide(path, 0.5) as slide:
        slide.overview(4.0)
        slide.read(0, 0, 64, 48)


SQUARE = [[[10, 10], [90, 10], [90, 90], [10, 90], [10, 10]]]
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": SQUARE},
            "properties": {"classification": {"name": "Exclude"}},
        }
    ],
}
READERS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "tiled TIFF": ("a.tif", make_tiff(tile=(32, 32)), read_whole),
    "JPEG in TIFF": ("a.tif", make_tiff(tile=(32, 32), compression="jpeg"), read_whole),
    "stripped TIFF": ("a.tif", make_tiff(compression="deflate"), read_whole),
    "JPEG": ("a.jpg", make_jpeg(), read_whole),
    "GeoJSON": ("a.geojson", json.dumps(GEOJSON).encode(), lambda path: read_annotations(path, 0.5)),
    "study": (
        "a.csv",
        "patient,group,marker,slide,mpp\n张三,a,CD19,x.svs,0.25\nB,b,BAFF,../y.svs,\n".encode(),
        lambda path: read_study(path, ("CD19", "BAFF")),
    ),
    "protocol": (
        "a.toml",
        b"[fields]\ncount = 3\nwidth_um = 200.0\n[markers.CD19]\nthreshold_od = 0.2\n",
        load_protocol,
    ),
}


@pytest.mark.filterwarnings("ignore")  # of libraries that warn of what they meet
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages=DAMAGES)
def test_a_damaged_file_is_read_or_refused(
    name: str, damages: list[tuple[float, int, bytes]], tmp_path: Path
) -> None:
    file, data, read = READERS[name]
    path = tmp_path / file
    path.write_bytes(damage(data, damages))
    tracemalloc.start()
    began = time.process_time()
    try:
        read(path)
    except HistoquantError as error:
        assert str(error)
    finally:
        spent, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert spent < MOST_SECONDS
    assert most < MOST_BYTES


@pytest.mark.parametrize("name", READERS)
def test_the_undamaged_file_is_read(name: str, tmp_path: Path) -> None:
    file, data, read = READERS[name]
    (tmp_path / file).write_bytes(data)
    read(tmp_path / file)
