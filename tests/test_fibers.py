from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from histoquant import fibers
from histoquant.classical import segment_classically
from histoquant.errors import ProtocolError
from histoquant.fibers import cross_check_fibers, get_segmenter
from histoquant.protocol import FiberSettings
from histoquant.regions import merge_regions
from histoquant.stains import Stains

FIBER_OD, GAP_OD = 0.09, 0.04


def make_stains(
    h: np.ndarray, d: np.ndarray, mpp: float = 0.5, noise: float = 0.004, seed: int = 0
) -> Stains:
    rng = np.random.default_rng(seed)
    layers = [
        (layer + noise * rng.standard_normal(layer.shape)).astype(np.float32)
        for layer in (h, d, np.zeros_like(h))
    ]
    return Stains(*layers, x_um=0.0, y_um=0.0, mpp=mpp)


def brick_wall(side: int = 500, width: int = 120, gap: int = 8) -> np.ndarray:
    """Rounded bricks, rows shifted by half: their true labels."""
    labels = np.zeros((side, side), np.int32)
    number = 0
    for row in range(-1, side // width + 1):
        for column in range(-1, side // width + 2):
            x, y = column * width + (row % 2) * width // 2, row * width
            number += 1
            low, high = (
                (x + gap // 2 + 12, y + gap // 2 + 12),
                (x + width - gap // 2 - 12, y + width - gap // 2 - 12),
            )
            brick = np.zeros((side, side), np.uint8)
            cv2.rectangle(brick, low, high, 1, -1)
            labels[cv2.dilate(brick, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))) > 0] = number
    return labels


def paint(labels: np.ndarray, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    h = np.where(labels > 0, FIBER_OD, GAP_OD) * strength
    return h, np.full(labels.shape, 0.03) * strength


def found_share(truth: np.ndarray, labels: np.ndarray, min_px: int = 2000) -> float:
    """Share of large true objects with a label of IoU over 0.7."""
    hits = []
    for number in np.unique(truth[truth > 0]):
        mask = truth == number
        if mask.sum() < min_px:
            continue
        partner = np.bincount(labels[mask]).argmax()
        both = mask & (labels == partner)
        hits.append(partner > 0 and both.sum() / (mask | (labels == partner)).sum() > 0.7)
    return float(np.mean(hits))


def check_labels(labels: np.ndarray, shape: tuple[int, int], min_area_px: float) -> None:
    assert labels.shape == shape and labels.dtype == np.int32
    numbers = np.unique(labels)
    assert numbers[-1] == len(numbers[numbers > 0])
    for number in numbers[numbers > 0]:
        mask = labels == number
        assert label(mask, connectivity=1).max() == 1
        assert mask.sum() >= min_area_px
        outside = label(np.pad(~mask, 1, constant_values=True), connectivity=1)
        assert np.all((outside == 0) == np.pad(mask, 1)) and all(
            np.any(labels[(outside == part)[1:-1, 1:-1]]) for part in range(2, outside.max() + 1)
        )


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_fibers_between_pale_gaps_are_found_at_any_strength_of_stain(strength):
    truth = brick_wall()
    stains = make_stains(*paint(truth, strength), noise=0.004)
    labels = segment_classically(stains)
    assert found_share(truth, labels) > 0.9
    assert abs(labels.max() - len(np.unique(truth[truth > 0]))) <= 3


def test_labels_are_sequential_whole_and_large_enough():
    stains = make_stains(*paint(brick_wall()))
    check_labels(segment_classically(stains, min_area_um2=100.0), stains.dab.shape, 390)


def test_nuclei_and_brown_rings_neither_split_nor_fuse():
    truth = brick_wall()
    h, d = paint(truth)
    rng = np.random.default_rng(1)
    for x, y in rng.integers(0, truth.shape[0], (60, 2)).tolist():
        cv2.ellipse(h, (x, y), (9, 6), 0, 0, 360, 0.6, -1)
    for x, y in rng.integers(0, truth.shape[0], (15, 2)).tolist():
        cv2.circle(d, (x, y), 9, 0.7, 3)
    labels = segment_classically(make_stains(h, d))
    assert found_share(truth, labels) > 0.85


def test_nucleus_inside_belongs_to_the_fiber():
    truth = brick_wall()
    h, d = paint(truth)
    center = tuple(int(value) for value in np.argwhere(truth == truth[250, 250]).mean(axis=0))
    cv2.circle(h, center[::-1], 8, 0.6, -1)
    labels = segment_classically(make_stains(h, d))
    number = labels[center]
    assert number > 0 and np.all(
        labels[center[0] - 8 : center[0] + 9, center[1] - 8 : center[1] + 9] == number
    )


def test_brown_fiber_is_a_fiber():
    truth = brick_wall()
    h, d = paint(truth)
    brown = truth == truth[250, 250]
    labels = segment_classically(make_stains(h, d + 0.3 * brown))
    assert found_share(np.where(brown, 1, 0), labels) == 1.0
    assert found_share(truth, labels) > 0.9


def test_gaps_of_another_hue_are_found():
    truth = brick_wall()
    h = np.where(truth > 0, 0.09, 0.05)
    d = np.where(truth > 0, 0.04, 0.08)
    assert found_share(truth, segment_classically(make_stains(h, d))) > 0.9


def test_glass_beside_gaps_of_another_hue_has_no_fibers():
    truth = brick_wall()
    truth[:, 300:] = 0
    glass = np.arange(truth.shape[1]) >= 320
    h = np.where(glass, 0.0, np.where(truth > 0, 0.09, 0.05))
    d = np.where(glass, 0.0, np.where(truth > 0, 0.04, 0.08))
    labels = segment_classically(make_stains(h, d))
    assert labels[:, 330:].max() == 0
    assert found_share(truth, labels) > 0.8


def test_fibers_cut_by_the_border_stay():
    truth = brick_wall()
    labels = segment_classically(make_stains(*paint(truth)))
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert len(np.unique(rim[rim > 0])) >= 8


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_glass_has_no_fibers(noise):
    empty = np.zeros((300, 280))
    assert segment_classically(make_stains(empty, empty, noise=noise)).max() == 0


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 40)])
def test_tiny_regions_have_no_fibers(shape):
    empty = np.zeros(shape)
    assert segment_classically(make_stains(empty, empty)).shape == shape


def test_same_stains_same_labels():
    stains = make_stains(*paint(brick_wall()))
    before = stains.haematoxylin.copy()
    assert np.array_equal(segment_classically(stains), segment_classically(stains))
    assert np.array_equal(before, stains.haematoxylin)


@given(
    rows=st.integers(40, 260),
    columns=st.integers(40, 260),
    mpp=st.sampled_from([0.25, 0.4, 0.5, 0.73, 1.0, 1.3]),
    seed=st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_any_shape_and_scale_gives_well_formed_labels(rows, columns, mpp, seed):
    truth = brick_wall(260, 80, 6)[:rows, :columns]
    stains = make_stains(*paint(truth), mpp=mpp, seed=seed)
    labels = segment_classically(stains, min_area_um2=60.0)
    # A hole of one region may hold another region; it must not be empty.
    check_labels(labels, (rows, columns), 0.8 * 60.0 / mpp**2)


def test_unknown_segmenter_names_those_there_are():
    with pytest.raises(ProtocolError, match=r"no segmenter 'magic'.*classical"):
        get_segmenter(FiberSettings(method="magic"))


def everything_is_one_fiber(limits: FiberSettings):
    return lambda stains: np.ones(stains.dab.shape, np.int32)


def not_a_segmenter(limits: FiberSettings):
    raise OSError("model file is gone")


def plug_in(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    entry = EntryPoint(name="other", value=f"{__name__}:{target}", group=fibers.ENTRY_POINTS)
    monkeypatch.setattr(fibers, "entry_points", lambda group: [entry] if group == fibers.ENTRY_POINTS else [])


def test_segmenter_of_another_package_is_loaded(monkeypatch):
    plug_in(monkeypatch, "everything_is_one_fiber")
    segment = get_segmenter(FiberSettings(method="other"))
    assert segment(make_stains(np.zeros((4, 5)), np.zeros((4, 5)))).sum() == 20


@pytest.mark.parametrize("target", ["not_a_segmenter", "nothing_of_that_name"])
def test_segmenter_that_cannot_be_loaded_says_so(monkeypatch, target):
    plug_in(monkeypatch, target)
    with pytest.raises(ProtocolError, match="cannot be loaded"):
        get_segmenter(FiberSettings(method="other"))


def test_unknown_name_lists_other_packages(monkeypatch):
    plug_in(monkeypatch, "everything_is_one_fiber")
    with pytest.raises(ProtocolError, match="classical, network, other"):
        get_segmenter(FiberSettings(method="magic"))


def test_classical_minds_the_least_area():
    stains = make_stains(*paint(brick_wall()))
    few = get_segmenter(FiberSettings(min_area_um2=2500.0))(stains)
    many = get_segmenter(FiberSettings())(stains)
    assert 0 < few.max() < many.max()


def test_pieces_without_a_border_are_united_and_those_with_one_are_not():
    pieces = np.int32([[1, 2, 3]]).repeat(20, axis=1).repeat(40, axis=0)
    border = np.zeros(pieces.shape, np.float32)
    border[:, 39:41] = 1
    merged = merge_regions(pieces, border, border > 1, 20, 1.0)
    assert merged[0, 0] == merged[0, 39] != merged[0, 40]


def test_border_hidden_by_nuclei_does_not_part():
    pieces = np.int32([[1, 2]]).repeat(20, axis=1).repeat(40, axis=0)
    border = np.zeros(pieces.shape, np.float32)
    border[10:30, 19:21] = 1
    assert merge_regions(pieces, border, border > 0, 20, 1.0).max() == 1


def test_nothing_to_merge():
    assert (
        merge_regions(
            np.zeros((3, 3), np.int32), np.zeros((3, 3), np.float32), np.zeros((3, 3), bool), 1, 1
        ).max()
        == 0
    )


@pytest.fixture(scope="module")
def matching():
    path = Path(__file__).parents[1] / "benchmarks" / "matching.py"
    spec = importlib.util.spec_from_file_location("matching", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["matching"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["matching"]


def test_matching_of_half_split_and_missing_objects(matching):
    truth = np.int32([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3]])
    found = np.int32([[5, 5, 5, 0, 0, 6, 6, 7, 7, 0, 0, 0]])
    result = matching.match_labels(truth, found, 0.5)
    assert (result.truth, result.predicted, result.matched) == (3, 3, 1)
    assert result.f1 == pytest.approx(1 / 3)
    assert result.panoptic_quality == pytest.approx(0.75 / 3)
    assert result.count_error == 0


def test_matching_leaves_out_ignored_and_small_objects(matching):
    truth = np.int32([[1, 1, 1, 1, 0, 2, 0, 3, 3, 3]])
    found = np.int32([[4, 4, 4, 4, 0, 5, 0, 6, 6, 6]])
    ignore = np.zeros(truth.shape, bool)
    ignore[0, 7:] = True
    result = matching.match_labels(truth, found, 0.5, ignore, min_area_px=2)
    assert (result.truth, result.predicted, result.matched) == (1, 1, 1)


def test_matching_refuses_a_threshold_that_allows_two_partners(matching):
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        matching.match_labels(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32), 0.4)


def wall_with_field() -> tuple[Stains, np.ndarray, np.ndarray]:
    truth = brick_wall()
    inside = np.zeros(truth.shape, bool)
    inside[60:-60, 60:-60] = True
    return make_stains(*paint(truth)), truth, inside


def test_fields_in_which_two_methods_differ_are_flagged():
    stains, truth, inside = wall_with_field()
    limits = FiberSettings()
    assert cross_check_fibers(truth, stains, inside, limits) == ""
    fused = np.where(truth > 0, 1, 0).astype(np.int32)
    message = cross_check_fibers(fused, stains, inside, limits)
    assert message.startswith("another method finds ")
    assert message.endswith("fibers around this field, not 1: look at the outlines")


@pytest.mark.parametrize("update", [{"cross_check": 0}, {"method": "classical"}])
def test_no_cross_check_where_none_is_asked_for_or_the_method_would_check_itself(update):
    stains, truth, inside = wall_with_field()
    fused = np.where(truth > 0, 1, 0).astype(np.int32)
    assert cross_check_fibers(fused, stains, inside, FiberSettings(**update)) == ""


def test_cross_check_of_no_field_is_silent():
    stains, truth, inside = wall_with_field()
    assert cross_check_fibers(np.minimum(truth, 1), stains, inside & False, FiberSettings()) == ""
