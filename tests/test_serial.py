"""Transforms, registration on rendered sections, matched fields, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import PROTOCOL, invoke
from hypothesis import given
from hypothesis import strategies as st

from histoquant.errors import FieldsError, RegistrationError
from histoquant.geometry import Patch
from histoquant.protocol import FieldSettings, TissueSettings
from histoquant.serial.blocks import Block, Ground, group_sections
from histoquant.serial.draw import match_fields
from histoquant.serial.landmarks import fit_landmarks
from histoquant.serial.match import Blocks
from histoquant.serial.register import (
    Registration,
    _judge,
    predict_error,
    refine_registration,
    register_views,
)
from histoquant.serial.transform import (
    Transform,
    decode_transform,
    encode_transform,
    make_affine,
    map_points,
    unmap_points,
)
from histoquant.serial.views import VIEW_MPP, View, make_view
from histoquant.study import Section, Source, Study
from histoquant.synthetic import LayoutSettings, RenderSettings
from histoquant.synthetic.serial import PoseSettings, SerialSection, arrange_series, render_series
from histoquant.synthetic.serial_study import SerialPlan, write_series

RENDER = RenderSettings(size_um=(1400.0, 1400.0), mpp=2.0, layout=LayoutSettings(rim_um=60.0))


def see(made: SerialSection) -> View:
    factor = made.section.mpp / VIEW_MPP
    pixels = cv2.resize(made.section.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return make_view(Patch(np.asarray(pixels, np.uint8), 0.0, 0.0, VIEW_MPP), TissueSettings())


def render(seed: int, pose: PoseSettings, series: int = 0) -> SerialSection:
    layout = arrange_series(np.random.default_rng(series), RENDER.size_um, RENDER.layout)
    return render_series(np.random.default_rng([series, seed]), layout, RENDER, pose)


@pytest.fixture(scope="module")
def first() -> SerialSection:
    return render(1, PoseSettings())


@given(
    st.floats(-180, 180),
    st.booleans(),
    st.floats(-500, 500),
    st.lists(st.floats(-8, 8), min_size=8, max_size=8),
)
def test_a_transform_comes_back(angle: float, flip: bool, shift: float, bend: list[float]) -> None:
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
        [1 - 2 * flip, 1]
    )
    transform = Transform(
        np.column_stack([matrix, [shift, 0]]), np.array(bend).reshape(2, 2, 2), 0.0, 0.0, 100.0
    )
    points = np.array([[0.0, 0.0], [30.0, 70.0], [250.0, -40.0]])
    back = unmap_points(transform, map_points(transform, points))
    assert back == pytest.approx(points, abs=0.5)
    assert transform.flips == flip
    assert np.cos(np.radians(transform.angle_deg) - turn) == pytest.approx(1, abs=1e-6)


def test_a_transform_is_kept_as_plain_values() -> None:
    transform = Transform(np.array([[0, 1, 5], [-1, 0, 9.0]]), np.ones((2, 3, 2)), 1.0, 2.0, 50.0)
    again = decode_transform(json.loads(json.dumps(encode_transform(transform))))
    points = np.array([[3.0, 4.0], [60.0, 20.0]])
    assert map_points(again, points).tolist() == map_points(transform, points).tolist()
    straight = decode_transform(encode_transform(make_affine([[1, 0, 0], [0, 1, 0]])))
    assert map_points(straight, points).tolist() == points.tolist()


@pytest.mark.parametrize("values", [{}, {"matrix": [[1, 0], [0, 1]]}, {"matrix": "x"}])
def test_damaged_transforms_are_told(values: dict[str, object]) -> None:
    with pytest.raises(RegistrationError, match="holds no transform"):
        decode_transform(values)


def test_landmarks_lie_where_the_pose_puts_them() -> None:
    """Without way through depth and warp, a section turned by 90 degrees is the first, turned."""
    plain, turned = (
        render(seed, PoseSettings(depth_um=0, warp_um=0, angle_deg=angle))
        for seed, angle in ((1, 0), (2, 90))
    )
    both = plain.landmarks.merge(turned.landmarks, on="fiber")
    assert len(both) > 100
    width_um = turned.section.pixels.shape[1] * turned.section.mpp
    # x of the turned section runs against y of the plain one.
    total = both["x_um_y"] + both["y_um_x"]
    assert np.ptp(total) < 0.01
    assert total.mean() == pytest.approx(width_um, abs=4)
    assert np.ptp(both["y_um_y"] - both["x_um_x"]) < 0.01


@pytest.mark.parametrize(
    "pose",
    [
        PoseSettings(angle_deg=137.0, flip=True, stretch=(1.03, 0.98)),
        PoseSettings(angle_deg=-90.0, kept=0.65),
        PoseSettings(angle_deg=20.0, tear_um=60.0, fold_um=50.0),
    ],
    ids=["turned, flipped and stretched", "partial", "torn and folded"],
)
def test_sections_are_registered(first: SerialSection, pose: PoseSettings) -> None:
    other = render(2, pose)
    found = register_views(see(first), see(other))
    assert found.transform is not None
    assert found.transform.flips == pose.flip
    both = first.landmarks.merge(other.landmarks, on="fiber")
    mapped = map_points(found.transform, both[["x_um_x", "y_um_x"]].to_numpy())
    error = np.hypot(*(mapped - both[["x_um_y", "y_um_y"]].to_numpy()).T)
    assert np.median(error) < 20


@pytest.mark.parametrize(("shift_um", "refined"), [(0.0, True), (70.0, False)])
def test_blocks_refine_what_landmarks_give_unless_they_lead_away(
    first: SerialSection, shift_um: float, refined: bool
) -> None:
    """Five landmarks with an error of 12 um, once all of them on the next fiber."""
    other = render(2, PoseSettings(angle_deg=137.0, flip=True))
    both = first.landmarks.merge(other.landmarks, on="fiber")
    fixed, moving = both[["x_um_x", "y_um_x"]].to_numpy(), both[["x_um_y", "y_um_y"]].to_numpy()
    x, y = fixed.T
    corners = (x + y, x - y, y - x, -x - y, -np.hypot(x - x.mean(), y - y.mean()))
    some = [int(np.argmax(one)) for one in corners]
    noise = np.random.default_rng(0).normal(0, 12, (5, 2))
    pairs = (fixed[some], moving[some] + noise + np.array([shift_um, 0.0]))
    hand = fit_landmarks(*pairs)
    found = refine_registration(see(first), see(other), hand, pairs)
    assert found.landmarks == 5 and (found.blocks > 5) == refined
    assert found.transform is not None and hand.transform is not None
    away = (map_points(one.transform, fixed) - moving for one in (found, hand))
    errors = [float(np.median(np.hypot(*one.T))) for one in away]
    assert errors[0] < min(errors[1], 10.0) if refined else errors[0] == errors[1] > 40


def test_sections_of_another_biopsy_are_not_registrable(first: SerialSection) -> None:
    found = register_views(see(first), see(render(2, PoseSettings(), series=1)))
    assert found.transform is None
    assert found.reason


@pytest.mark.parametrize(("clear", "reason"), [(100, ""), (20, "and only"), (10, "only 10 of 100 blocks")])
def test_few_blocks_that_agree_do_not_suffice(clear: int, reason: str) -> None:
    """Of the blocks found, six in ten lie where the others say; of all blocks of tissue it must be 15 %."""
    points = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 110.0
    found = points + np.random.default_rng(1).uniform(-90, 90, (100, 2))
    right = np.arange(100) < 0.6 * clear
    found[right] = points[right]
    blocks = Blocks(points, found, np.ones(100), np.arange(100) < clear)
    told = _judge(blocks, make_affine([[1, 0, 0], [0, 1, 0]]), bend=True)
    assert reason in told.reason
    assert (told.transform is None) == bool(reason)


def test_glass_is_not_registrable(first: SerialSection) -> None:
    blank = View(np.zeros((300, 300), np.float32), np.zeros((300, 300), bool), VIEW_MPP)
    assert "too little tissue on the second" in register_views(see(first), blank).reason


def make_block(error_um: float) -> tuple[Block, dict[str, Ground]]:
    """Two sections of 2 mm, the second shifted by 100 um to the right, its right half without tissue."""
    sections = tuple(
        Section(name, "P1", "", name, "", "", "A", (Source(Path(f"{name}.svs"), 2),))
        for name in ("one", "two")
    )
    points = np.stack(np.meshgrid(np.arange(100, 2000, 200.0), np.arange(100, 2000, 200.0)), -1).reshape(
        -1, 2
    )
    exact = Registration(make_affine([[1, 0, 0], [0, 1, 0]]), error_um=0.0)
    shifted = Registration(
        make_affine([[1, 0, 100], [0, 1, 0]]),
        error_um=error_um,
        points=points,
        errors_um=np.full(len(points), error_um),
    )
    tissue = np.ones((200, 200), bool)
    half = tissue.copy()
    half[:, 100:] = False
    patch = Patch(np.zeros((200, 200, 3), np.uint8), 0.0, 0.0, 10.0)
    nothing = np.zeros_like(tissue)
    grounds = {"one": Ground(patch, tissue, nothing), "two": Ground(patch, half, nothing)}
    return Block("P1", "A", sections, "one", {"one": exact, "two": shifted}), grounds


def test_matched_fields_lie_on_the_same_places_where_all_have_tissue() -> None:
    block, grounds = make_block(8.0)
    settings = FieldSettings(count=4, width_um=200.0, min_tissue_fraction=1.0)
    placed = match_fields(block, grounds, settings, np.random.default_rng(0))
    one, two = (pd.DataFrame(placed[name]["fields"]) for name in ("one", "two"))
    assert len(one) == 4
    assert (two["center_x_um"] - one["center_x_um"]).tolist() == pytest.approx([100.0] * 4)
    assert two["center_y_um"].tolist() == one["center_y_um"].tolist()
    assert two["center_x_um"].max() <= 1000 - 100 + 10
    assert placed["two"]["draw"] == "matched"
    assert placed["two"]["drawn_on"] == "one"
    assert placed["two"]["expected_error_um"] == [8.0] * 4
    assert placed["one"]["registration_error_um"] is None


def test_no_field_is_matched_where_places_are_not_known() -> None:
    block, grounds = make_block(80.0)
    with pytest.raises(FieldsError, match="no room for a field of 200 um where all sections have tissue"):
        match_fields(block, grounds, FieldSettings(count=4, width_um=200.0), np.random.default_rng(0))


def test_one_registered_section_is_not_enough() -> None:
    block, grounds = make_block(8.0)
    block.registrations["two"] = Registration(None, "unlike")
    with pytest.raises(FieldsError, match="fewer than two sections are registered"):
        match_fields(block, grounds, FieldSettings(), np.random.default_rng(0))


def test_errors_are_those_of_blocks_nearby() -> None:
    points = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [1000.0, 0.0], [1010.0, 0.0], [1000.0, 10.0]])
    found = Registration(None, points=points, errors_um=np.array([1.0, 2, 3, 40, 50, 60]))
    asked = np.array([[0.0, 0.0], [1000.0, 0.0], [5000.0, 0.0]])
    assert predict_error(found, asked, neighbours=3).tolist() == [2.0, 50.0, np.inf]


def test_a_study_without_blocks_is_refused(tmp_path: Path) -> None:
    sections = tuple(
        Section(name, "P1", "", "CD19", "", control, block, (Source(tmp_path, 2, kind="slide"),))
        for name, block, control in (("a", "", ""), ("b", "A", "positive"), ("c", "A", ""))
    )
    with pytest.raises(RegistrationError, match="no block of two sections"):
        group_sections(Study(tmp_path / "STUDY.csv", sections, "utf-8", ",", ()))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study of one biopsy under two markers, measured in matched fields by the command."""
    folder = tmp_path_factory.mktemp("serial µ 张三")
    render = SerialPlan().render.model_copy(update={"size_um": (1150.0, 1150.0)})
    write_series(folder, SerialPlan(render=render))
    (folder / "PROTOCOL.toml").write_text(PROTOCOL.replace("count = 2", "count = 4"))
    words = ("--out", folder / "out", "--protocol", folder / "PROTOCOL.toml", "--workers", 1, "--quiet")
    done = invoke("serial", folder / "STUDY.csv", *words)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_command_measures_the_same_places(series: Path) -> None:
    registrations = pd.read_csv(series / "out" / "serial" / "registrations.csv")
    assert registrations["registered"].tolist() == ["yes", "yes"]
    assert registrations["draw"].tolist() == ["matched", "matched"]
    receipts = [
        json.loads((series / "out" / "sections" / name / "receipt.json").read_text())
        for name in ("P01-BAFF-R", "P01-CD19")
    ]
    assert [receipt["draw"] for receipt in receipts] == ["matched", "matched"]
    overlap = pd.read_csv(series / "out" / "serial" / "overlap.csv")
    assert set(overlap["marker"] + overlap["marker_2"]) == {"BAFF-RCD19"}
    assert overlap["windows"].unique().tolist() == [4]
    assert {"overlap", "overlap_on_even_ground", "cross_pairs_in_spaces"} <= set(overlap["measure"])
    assert not overlap["note"].str.contains("fibers are not stored", na=False).any()
    # Fields lie where landmarks, which registration has not seen, say they do.
    marks = [pd.read_csv(series / "truth" / f"{name}_landmarks.csv") for name in ("P01-BAFF-R", "P01-CD19")]
    both = marks[0].merge(marks[1], on="fiber")
    centers = [
        pd.DataFrame(receipt["fields"])[["center_x_um", "center_y_um"]].to_numpy() for receipt in receipts
    ]
    for one, two in zip(*centers, strict=True):
        near = np.argsort(np.hypot(both["x_um_x"] - one[0], both["y_um_x"] - one[1]))[:8]
        fit = np.linalg.lstsq(
            np.column_stack([both[["x_um_x", "y_um_x"]].to_numpy()[near], np.ones(8)]),
            both[["x_um_y", "y_um_y"]].to_numpy()[near],
            rcond=None,
        )[0]
        assert np.hypot(*(np.append(one, 1) @ fit - two)) < 40
    page = (series / "out" / "serial" / "serial.html").read_text(encoding="utf-8")
    assert "data:image/webp" in page
    assert "matched" in page


def test_a_run_that_drew_by_itself_is_compared_as_it_is(series: Path) -> None:
    """Independent draws stay; where they share no place, that is said."""
    words = ("--out", series / "own", "--protocol", series / "PROTOCOL.toml", "--quiet", "--workers", 1)
    assert invoke("run", series / "STUDY.csv", *words, "--fields", 1).returncode == 0
    before = (series / "own" / "sections" / "P01-CD19" / "objects.parquet").read_bytes()
    done = invoke("serial", series / "STUDY.csv", *words, "--fields", 1)
    assert done.returncode == 0, done.stderr
    assert (series / "own" / "sections" / "P01-CD19" / "objects.parquet").read_bytes() == before
    registrations = pd.read_csv(series / "own" / "serial" / "registrations.csv")
    assert registrations["draw"].tolist() == ["independent", "independent"]
    overlap = pd.read_csv(series / "own" / "serial" / "overlap.csv")
    assert overlap["note"].str.contains("fewer than three places").all()


def test_a_study_without_a_block_ends_with_one_line(small_study: Path, tmp_path: Path) -> None:
    done = invoke("serial", small_study / "STUDY.csv", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "block" in done.stderr
