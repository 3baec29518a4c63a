"""Fibers by the shipped network."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label

from histoquant import network
from histoquant.errors import ProtocolError
from histoquant.network import (
    Steps,
    find_steps,
    merge_weak,
    prepare_input,
    run_network,
    segment_with_network,
    split_fibers,
)
from histoquant.spans import list_spans
from histoquant.stains import Stains

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "data" / "fibers_reference.npz"


def draw_discs(mpp=0.5, side_um=256.0, spacing_um=64.0, radius_um=29.0):
    """A square lattice of discs, stained as fibers are, and how many there are."""
    axis = (np.arange(round(side_um / mpp)) + 0.5) * mpp
    away = np.abs(axis % spacing_um - spacing_um / 2)
    fiber = np.hypot(away[:, None], away[None, :]) < radius_um
    rng = np.random.default_rng(5)
    soft = cv2.GaussianBlur(fiber.astype(np.float32), (0, 0), 0.5 / mpp)
    noise = rng.normal(0, 0.004, (3, *fiber.shape)).astype(np.float32)
    stains = Stains(0.03 + 0.09 * soft + noise[0], 0.03 + 0.02 * soft + noise[1], noise[2], 0.0, 0.0, mpp)
    return stains, round(side_um / spacing_um) ** 2


@pytest.mark.parametrize("mpp", [0.4, 0.5, 1.0])
def test_discs_are_counted_at_any_pixel_size(mpp):
    stains, number = draw_discs(mpp)
    labels = segment_with_network(stains)
    assert labels.shape == stains.dab.shape and labels.dtype == np.int32
    assert labels.max() == number


def test_labels_cover_the_discs():
    stains, number = draw_discs()
    labels = segment_with_network(stains)
    area_um2 = np.bincount(labels.ravel())[1:] * stains.mpp**2
    assert len(area_um2) == number
    assert np.abs(area_um2 / (np.pi * 29**2) - 1).max() < 0.15


def test_labels_are_sequential_single_pieces_without_holes():
    labels = segment_with_network(draw_discs()[0])
    for number in range(1, labels.max() + 1):
        mask = labels == number
        assert label(mask, connectivity=1).max() == 1
        assert label(np.pad(~mask, 1, constant_values=True), connectivity=2).max() == 1


def test_same_stains_same_labels_on_one_and_two_threads():
    stains, _ = draw_discs()
    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            found.append(segment_with_network(stains))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*found)


def test_stains_are_left_as_they_were():
    stains, _ = draw_discs()
    copies = [np.copy(i) for i in (stains.haematoxylin, stains.dab, stains.residual)]
    segment_with_network(stains)
    for image, copy in zip((stains.haematoxylin, stains.dab, stains.residual), copies, strict=True):
        np.testing.assert_array_equal(image, copy)


@pytest.mark.parametrize("noise_od", [0.0, 0.003])
def test_glass_holds_no_fiber(noise_od):
    images = np.random.default_rng(2).normal(0, noise_od, (3, 400, 300)).astype(np.float32)
    assert segment_with_network(Stains(*images, 0.0, 0.0, 0.5)).max() == 0


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 40), (33, 65)])
def test_any_shape_comes_back(shape):
    empty = np.zeros(shape, np.float32)
    assert segment_with_network(Stains(empty, empty, empty, 0.0, 0.0, 0.5)).shape == shape


def test_small_fibers_are_left_out():
    stains, number = draw_discs()
    assert segment_with_network(stains, min_area_um2=3500).max() == 0
    assert segment_with_network(stains, min_area_um2=1000).max() == number


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for path in (tmp_path / "bad.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(ProtocolError, match=path.name):
            run_network(np.zeros((16, 16, 16), np.uint8), path)
        with pytest.raises(ProtocolError, match=path.name):
            find_steps(path)


def test_outputs_are_those_of_the_training_framework_but_for_eight_bits():
    stored = np.load(REFERENCE)
    maps = run_network(stored["image"])
    away = np.abs(maps - stored["maps"])
    assert away.mean() < 0.02 and away.max() < 0.1


def test_model_is_small_and_the_one_on_its_card():
    data = (ROOT / "histoquant" / "models" / "fibers.onnx").read_bytes()
    assert len(data) < 5_000_000
    assert hashlib.sha256(data).hexdigest() in (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")


def soften(density_od):
    return density_od / (np.abs(density_od) / np.float32(4) + np.float32(0.05))


def heighten(image):
    """Four times as high, interpolated; rounded once, as newer versions of OpenCV do."""
    places = (np.arange(4 * len(image)) + 0.5) / 4 - 0.5
    low = np.floor(places).astype(int)
    one, other = image[np.maximum(low, 0)], image[np.minimum(low + 1, len(image) - 1)]
    return (one + (places - low)[:, None] * (other - one)).astype(np.float32)


def normalise(density):
    """In units of contrast, by whole images."""
    size = density.shape[::-1]
    small = cv2.resize(density, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA)
    ground = cv2.morphologyEx(small, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    mean = cv2.blur(ground, (65, 65), borderType=cv2.BORDER_REFLECT)
    square = cv2.blur(np.square(ground - mean), (65, 65), borderType=cv2.BORDER_REFLECT)
    spread = 2 * (np.sqrt(np.maximum(square, 0)) + 0.005)
    wide = (
        cv2.resize(image, (size[0], len(image)), interpolation=cv2.INTER_LINEAR) for image in (mean, spread)
    )
    mean, spread = map(heighten, wide)
    return np.clip((density - mean) / spread, -4, 4)


@settings(max_examples=50)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 99), st.floats(0.02, 0.05), st.integers(120, 136)
)
def test_input_is_softened_normalised_padded_and_folded(rows, columns, seed, unit, zero):
    rng = np.random.default_rng(seed)
    images = rng.normal(0.1, 0.3, (3, rows, columns)).astype(np.float32)
    folded = prepare_input(Stains(*images, 0.0, 0.0, 0.5), Steps(unit, zero))
    padded = np.pad(images, ((0, 0), (0, -rows % 32), (0, -columns % 32)), "symmetric")
    whole = [*map(soften, padded), normalise(padded[0] + padded[1])]
    assert folded.dtype == np.uint8 and folded.shape == (16, *(side // 2 for side in whole[0].shape))
    for channel in range(16):
        image, row, column = channel // 4, channel // 2 % 2, channel % 2
        steps = np.rint(whole[image][row::2, column::2] / np.float32(unit)) + zero
        np.testing.assert_array_equal(folded[channel], np.clip(steps, 0, 255))


@settings(max_examples=50)
@given(arrays(np.int32, (6, 7), elements=st.integers(0, 5)), st.integers(0, 1000))
def test_merging_keeps_background_and_pieces_whole(pieces, seed):
    border = np.random.default_rng(seed).random(pieces.shape).astype(np.float32)
    merged, image = merge_weak(list_spans(pieces), border), np.zeros_like(pieces)
    place, rows, columns = merged.list_pixels()
    image[rows, columns] = merged.labels[place]
    np.testing.assert_array_equal(image == 0, pieces == 0)
    for piece in np.unique(pieces):
        assert len(np.unique(image[pieces == piece])) == 1
    again = list_spans(image)
    for name, part in vars(merged).items():
        np.testing.assert_array_equal(part, vars(again)[name])


@settings(max_examples=50)
@given(arrays(np.int32, (6, 7), elements=st.integers(0, 4)), st.integers(0, 1000))
def test_borders_are_measured_side_by_side(pieces, seed):
    border = np.random.default_rng(seed).random(pieces.shape).astype(np.float32)
    measured = {}
    for row, column in np.ndindex(pieces.shape):
        for place in ((row, column + 1), (row + 1, column)):
            if place[0] < pieces.shape[0] and place[1] < pieces.shape[1]:
                pair = tuple(sorted((int(pieces[row, column]), int(pieces[place]))))
                if pair[0] > 0 and pair[0] != pair[1]:
                    measured.setdefault(pair, []).append(max(border[row, column], border[place]))
    spans = list_spans(pieces)
    pairs, lengths, sums = network._measure_borders(spans, border)
    assert list(map(tuple, spans.labels[pairs].tolist())) == sorted(measured)
    np.testing.assert_array_equal(lengths, [len(measured[pair]) for pair in sorted(measured)])
    np.testing.assert_allclose(sums, [np.sum(measured[pair], dtype=float) for pair in sorted(measured)])


@pytest.mark.parametrize(("strength", "fibers"), [(0.1, 1), (0.9, 2)])
def test_weak_borders_merge_and_strong_ones_stay(strength, fibers):
    maps = np.zeros((3, 40, 60), np.float32)
    maps[0, 2:38, 2:58] = 1
    maps[1, :, 29:31] = strength
    maps[2, 10:30, 10:20] = maps[2, 10:30, 40:50] = 0.9
    assert split_fibers(maps).max() == fibers


def test_no_fiber_in_the_maps_gives_none():
    assert split_fibers(np.zeros((3, 20, 20), np.float32)).max() == 0


# So little more than is held already: the image fits, the first layer does not.
WANT = """
import re, resource
import numpy as np
from pathlib import Path
from histoquant.network import find_steps, run_network
find_steps()
image = np.zeros((16, 864, 864), np.uint8)
held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (held + (20 << 20),) * 2)
try:
    run_network(image)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_want_of_memory_in_onnxruntime_is_told_as_such():
    done = subprocess.run([sys.executable, "-c", WANT], capture_output=True, text=True, check=True)
    assert done.stdout == "not enough memory for the fiber network\n"


def test_want_of_memory_is_not_laid_on_the_model(monkeypatch):
    def fail(data):
        raise MemoryError

    monkeypatch.setattr(network, "_load_network", fail)
    with pytest.raises(MemoryError):
        network.run_network(np.zeros((16, 8, 8), np.uint8))


def test_nothing_is_told_to_the_maker_of_onnxruntime(tmp_path):
    """It would keep an id of this machine, and what it could not send yet, in the user's folder."""
    plain = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "from histoquant.network import find_steps; find_steps()"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=plain | home, check=True)
    assert not list(tmp_path.rglob("deviceid")) and not list(tmp_path.rglob("onnxruntime.db"))
