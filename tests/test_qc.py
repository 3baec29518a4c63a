"""Quality of a field: each measure answers to its own fault and to no other."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.annotations import Annotations
from histoquant.errors import ProtocolError
from histoquant.geometry import Field, Patch, crop_to_field
from histoquant.prepare import FieldTask, measure_quality
from histoquant.protocol import Protocol, QcSettings, validate_protocol
from histoquant.qc.compression import estimate_jpeg_quality, read_jpeg_quality, scale_to_quality
from histoquant.qc.focus import find_steepest, measure_blur, measure_blurred_share
from histoquant.qc.judge import RULES, judge_quality, measure_field_quality
from histoquant.qc.staining import (
    find_envelope,
    measure_angles,
    measure_clipping,
    measure_negative_share,
    measure_strength,
    measure_unevenness,
)
from histoquant.ranks import find_quantiles
from histoquant.stains import DEFAULT_VECTORS, Stains, separate_stains
from histoquant.synthetic import RenderSettings, render_section
from histoquant.synthetic.settings import LayoutSettings, StainingSettings

WHITE = (243.0, 241.0, 239.0)
MPP = 0.5
FIELD = Field(1, "square", 210.0, 210.0, 320.0, 320.0)
HAEMATOXYLIN, DAB = (np.array(v) / np.linalg.norm(v) for v in DEFAULT_VECTORS)


def render(**staining: object) -> np.ndarray:
    settings = RenderSettings(
        size_um=(420.0, 420.0),
        mpp=MPP,
        layout=LayoutSettings(rim_um=10),
        staining=StainingSettings(**staining),
    )
    return render_section(np.random.default_rng(41), settings).pixels


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return render()


DEFAULTS = QcSettings()


def measure(pixels: np.ndarray) -> dict[str, float]:
    box = crop_to_field(Patch(pixels, 0.0, 0.0, MPP), FIELD)
    stains = separate_stains(box, WHITE)
    return measure_field_quality(box.pixels, MPP, stains, stains.dab > -9, DEFAULT_VECTORS, DEFAULTS)


def flag(pixels: np.ndarray) -> set[str]:
    return {finding.measure for finding in judge_quality(measure(pixels), QcSettings())}


def blur(pixels: np.ndarray, sigma_um: float) -> np.ndarray:
    """Out of focus, then the camera's noise."""
    soft = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), sigma_um / MPP)
    noise = np.random.default_rng(1).normal(0, 1.5, soft.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


def compress(pixels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def stain(haematoxylin: float, dab: float, od: np.ndarray) -> np.ndarray:
    """The image with both stains multiplied."""
    basis = np.stack([HAEMATOXYLIN, DAB, np.cross(HAEMATOXYLIN, DAB)])
    density = od @ np.linalg.inv(basis) * (haematoxylin, dab, 1.0)
    return np.clip(np.array(WHITE) * 10 ** -(density @ basis), 0, 255).astype(np.uint8)


def density_of(pixels: np.ndarray) -> np.ndarray:
    return np.log10(np.array(WHITE) / np.maximum(pixels, 1))


def test_a_good_field_and_a_little_blur_or_compression_are_not_flagged(pixels: np.ndarray) -> None:
    assert flag(pixels) == set()
    assert flag(blur(pixels, 0.75)) == set()
    assert flag(compress(pixels, 75)) == set()


def test_blur_and_compression_that_move_counts_are_flagged(pixels: np.ndarray) -> None:
    assert {"blur_um", "blurred_share"} <= flag(blur(pixels, 1.5))
    assert flag(compress(pixels, 30)) == {"jpeg_quality"}


def test_blur_falls_with_focus_at_fixed_texture_and_does_not_know_the_stain(pixels: np.ndarray) -> None:
    density = density_of(pixels).sum(axis=2).astype(np.float32)
    series = [
        measure_blur(density_of(blur(pixels, sigma)).sum(axis=2).astype(np.float32), MPP)
        for sigma in (0.01, 0.5, 1.0, 1.5, 2.5)
    ]
    assert all(np.diff(series) > 0.1)
    assert measure_blur(0.5 * density, MPP) == pytest.approx(measure_blur(density, MPP), rel=0.01)
    assert measure_blur(2 * density, MPP) == pytest.approx(measure_blur(density, MPP), rel=0.01)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("sigma_um", [0.8, 1.5, 3.0])
def test_the_blur_of_a_step_is_its_point_spread(sigma_um: float, mpp: float) -> None:
    stripes = np.zeros((100, round(300 / mpp)), np.float32)
    stripes[:, np.arange(stripes.shape[1]) * mpp % 60 < 30] = 0.5
    assert measure_blur(cv2.GaussianBlur(stripes, (0, 0), sigma_um / mpp), mpp) == pytest.approx(
        sigma_um, abs=0.15
    )


def test_blur_is_unknown_without_edges() -> None:
    flat = np.full((300, 300), 0.3, np.float32)
    assert math.isnan(measure_blur(flat, MPP))
    assert math.isnan(measure_blurred_share(flat, MPP, 1.0))


def test_half_a_field_out_of_focus_is_half(pixels: np.ndarray) -> None:
    half = pixels.copy()
    half[:, 420:] = blur(pixels, 3.0)[:, 420:]
    density = density_of(half).sum(axis=2).astype(np.float32)
    assert measure_blurred_share(density, MPP, 1.4) == pytest.approx(0.5, abs=0.17)


@pytest.mark.parametrize("quality", [15, 30, 50, 70, 85])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5)])
def test_jpeg_quality_is_found_wherever_the_image_was_cut(
    pixels: np.ndarray, quality: int, corner: tuple[int, int]
) -> None:
    cut = compress(pixels, quality)[corner[0] :, corner[1] :]
    assert estimate_jpeg_quality(cut) == pytest.approx(quality, abs=5)


def test_the_worst_of_two_compressions_shows(pixels: np.ndarray) -> None:
    assert estimate_jpeg_quality(compress(compress(pixels, 30), 90)) == pytest.approx(30, abs=5)


def test_no_compression_is_not_taken_for_one(pixels: np.ndarray) -> None:
    assert math.isnan(estimate_jpeg_quality(pixels))
    assert math.isnan(estimate_jpeg_quality(pixels[:20, :20]))
    assert math.isnan(estimate_jpeg_quality(np.full((300, 300, 3), 200, np.uint8)))


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90])
def test_the_quality_of_a_files_own_table(quality: int) -> None:
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()
    start = data.index(b"\xff\xdb") + 5  # marker, length, number of the table
    assert read_jpeg_quality(list(data[start : start + 64])) == pytest.approx(quality, abs=1)


@given(st.integers(1, 99))
def test_quality_falls_as_steps_grow(quality: int) -> None:
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    assert scale_to_quality(scale) == pytest.approx(quality)


def test_over_staining_and_no_counterstain_are_flagged(pixels: np.ndarray) -> None:
    od = density_of(pixels)
    assert "haematoxylin_strong_od" in flag(stain(2.5, 1.0, od))
    assert "haematoxylin_strong_od" in flag(stain(0.2, 1.0, od))
    assert "dab_background_od" in flag(stain(1.0, 4.0, od))


def test_rotated_vectors_are_measured_in_degrees() -> None:
    angle = np.radians(10)
    across = DAB - (DAB @ HAEMATOXYLIN) * HAEMATOXYLIN
    turned = np.cos(angle) * HAEMATOXYLIN + np.sin(angle) * across / np.linalg.norm(across)
    found = measure(render(haematoxylin_vector=tuple(turned)))
    assert found["haematoxylin_angle_deg"] == pytest.approx(10, abs=2)
    assert "haematoxylin_angle_deg" in flag(render(haematoxylin_vector=tuple(turned)))


def test_angles_of_known_directions_and_of_too_little_stain() -> None:
    image = np.zeros((100, 100), np.float32)
    image[:40] = 0.6
    brown = np.zeros_like(image)
    brown[60:] = 0.6
    exact = Stains(image, brown, np.zeros_like(image), 0.0, 0.0, 0.5)
    assert measure_angles(exact, DEFAULT_VECTORS) == pytest.approx((0, 0), abs=0.5)
    empty = Stains(0 * image, 0 * image, 0 * image, 0.0, 0.0, 0.5)
    assert np.isnan(measure_angles(empty, DEFAULT_VECTORS)).all()


def test_nuclei_that_seem_nearly_as_brown_as_blue_are_not_left_out() -> None:
    """As vectors turned by 15 degrees show them: 0.6 of one stain with 0.48 of the other."""
    nuclei = np.zeros((100, 100), np.float32)
    nuclei[:40] = 0.6
    stains = Stains(nuclei, 0.8 * nuclei, 0 * nuclei, 0.0, 0.0, 0.5)
    h, d = (np.asarray(vector) / np.linalg.norm(vector) for vector in DEFAULT_VECTORS)
    shown = (h + 0.8 * d) / np.linalg.norm(h + 0.8 * d)
    expected = np.degrees(np.arccos(shown @ h))
    assert measure_angles(stains, DEFAULT_VECTORS)[0] == pytest.approx(expected, abs=0.5)


def test_negative_stain_is_a_share_of_tissue() -> None:
    image = np.array([[-0.1, 0.1], [-0.04, 0.2]], np.float32)
    stains = Stains(image, np.abs(image), image, 0.0, 0.0, 0.5)
    assert measure_negative_share(stains, image > -9) == 0.25
    assert math.isnan(measure_negative_share(stains, image > 9))
    assert np.isnan(measure_strength(stains, image > 9)).all()


def test_a_shade_over_the_field_is_measured_and_stain_is_not(pixels: np.ndarray) -> None:
    shade = np.linspace(1.0, 0.6, pixels.shape[1])[None, :, None]
    dark = (pixels * shade).astype(np.uint8)
    assert "unevenness" in flag(dark)
    assert measure_unevenness(dark, MPP) > measure_unevenness(pixels, MPP) + 0.15
    half = np.full((1000, 1000, 3), 230, np.uint8)
    half[:, 500:] = (230, 200, 150)  # brown alone leaves red as it was
    assert measure_unevenness(half, MPP) == pytest.approx(0, abs=1e-6)
    assert math.isnan(measure_unevenness(pixels[:100, :100], MPP))


@given(st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=60))
def test_quantiles_are_those_of_numpy(values: list[float]) -> None:
    array, shares = np.array(values, np.float32), [0.0, 0.5, 0.99, 1.0]
    assert find_quantiles(array, shares) == np.quantile(array, shares).tolist()
    assert array.tolist() == values


def test_blocks_are_those_of_array_split() -> None:
    image = np.random.default_rng(0).integers(0, 256, (131, 122, 3)).astype(np.uint8)
    blocks = [block for band in np.array_split(image, 5) for block in np.array_split(band, 4, axis=1)]
    expected = [np.percentile(block.reshape(-1, 3), 90, axis=0) for block in blocks]
    np.testing.assert_array_equal(find_envelope(image, 5, 4).reshape(-1, 3), expected)


@given(st.integers(0, 50), st.floats(0.0, 0.2))
def test_the_steepest_edges_are_those_above_the_quantile(seed: int, slope: float) -> None:
    coarse = np.random.default_rng(seed).exponential(max(slope, 1e-6) ** 2, (40, 31)).astype(np.float32)
    fine = coarse * np.float32(1.7)
    steep = coarse >= max(float(np.quantile(coarse, 0.98)), 1e-4)
    found = find_steepest(fine, coarse)
    for one, image in zip(found, (fine, coarse), strict=True):
        np.testing.assert_array_equal(one, image[steep])


def test_clipped_pixels_are_counted_except_filling() -> None:
    image = np.full((2, 2, 3), 120, np.uint8)
    image[0, 0], image[0, 1] = (255, 200, 200), (255, 255, 255)
    assert measure_clipping(image) == pytest.approx(1 / 3)
    assert math.isnan(measure_clipping(np.full((2, 2, 3), 255, np.uint8)))


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 9))
def test_clipping_is_that_of_every_so_many_th_pixel(seed: int, step: int, rows: int) -> None:
    levels = np.array([0, 2, 3, 120, 254, 255], np.uint8)
    image = levels[np.random.default_rng(seed).integers(0, 6, (rows, 7, 3))]
    seen = image[::step, ::step].reshape(-1, 3)
    low, high = seen.min(axis=1), seen.max(axis=1)
    clipped, scanned = (low < 255) & ((low <= 2) | (high == 255)), low < 255
    expected = clipped.sum() / scanned.sum() if scanned.any() else math.nan
    assert measure_clipping(image, step) == pytest.approx(expected, nan_ok=True)


def test_every_limit_has_its_measure_and_its_sentence(pixels: np.ndarray) -> None:
    values = measure(pixels)
    settings = QcSettings()
    for rule in RULES:
        assert rule.measure in values
        beyond = -1.0 if rule.key.startswith("min_") else 1000.0
        (finding,) = [
            one
            for one in judge_quality({rule.measure: beyond}, settings)
            if one.limit == getattr(settings, rule.key)
        ]
        assert "limit" in finding.text or "least" in finding.text
        assert ": " in finding.text  # what is wrong: what to do
    limits = {name for name in QcSettings.model_fields if name.startswith(("max_", "min_"))}
    assert limits == {rule.key for rule in RULES}


def test_what_cannot_be_measured_is_not_judged() -> None:
    assert judge_quality(dict.fromkeys((rule.measure for rule in RULES), float("nan")), QcSettings()) == []
    assert judge_quality({}, QcSettings()) == []


def test_no_check_where_none_is_asked_for(pixels: np.ndarray) -> None:
    nowhere = Annotations(None, None, ())
    task = FieldTask(Path("a.svs"), MPP, "slide", FIELD, WHITE, DEFAULT_VECTORS, nowhere, 1.0)
    patch = Patch(pixels, 0.0, 0.0, MPP)
    stains = separate_stains(patch, WHITE)
    checked = measure_quality(task, patch, stains, Protocol())
    assert checked["blur_um"] == pytest.approx(measure(pixels)["blur_um"])
    assert measure_quality(task, patch, stains, Protocol(qc=QcSettings(check=False))) == {}


def test_a_margin_round_the_field_changes_no_measure(pixels: np.ndarray) -> None:
    nowhere = Annotations(None, None, ())
    task = FieldTask(Path("a.svs"), MPP, "slide", FIELD, WHITE, DEFAULT_VECTORS, nowhere, 1.0)
    alone = Patch(pixels, 0.0, 0.0, MPP)
    wide = np.pad(pixels, ((8, 6), (12, 4), (0, 0)), constant_values=90)
    patch = Patch(wide, -12 * MPP, -8 * MPP, MPP)
    first, second = (
        measure_quality(task, one, separate_stains(one, WHITE), Protocol()) for one in (alone, patch)
    )
    assert first == pytest.approx(second, nan_ok=True)


def test_a_limit_out_of_bounds_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"qc\.max_blur_um"):
        validate_protocol({"qc": {"max_blur_um": 0}})
