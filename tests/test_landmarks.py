"""Landmarks set by hand: the map they give, its error, and what a rerun makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.errors import RegistrationError, ResultsError
from histoquant.protocol import Protocol
from histoquant.results import open_run, write_json
from histoquant.serial.analyse import tabulate_registrations
from histoquant.serial.blocks import read_blocks, register_study
from histoquant.serial.landmarks import Landmarks, fit_landmarks, read_landmarks, save_landmarks
from histoquant.serial.register import predict_error
from histoquant.serial.transform import map_points
from histoquant.study import read_study

SHIFT = np.array([5.0, -3.0])
SQUARE = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0], [1000.0, 1000.0], [400.0, 500.0]])


@given(
    st.floats(-180, 180),
    st.booleans(),
    st.floats(0.8, 1.2),
    st.floats(-5000, 5000),
    st.integers(0, 2**32 - 1),
)
def test_exact_landmarks_give_the_map(
    angle: float, flip: bool, stretch: float, shift: float, seed: int
) -> None:
    turn = np.radians(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
        [-stretch if flip else stretch, 1.0]
    )
    fixed = SQUARE + np.random.default_rng(seed).uniform(-200, 200, SQUARE.shape)
    moving = fixed @ linear.T + shift
    found = fit_landmarks(fixed, moving)
    assert found.transform is not None and found.transform.flips == flip
    assert map_points(found.transform, fixed) == pytest.approx(moving, abs=1e-6)
    assert found.error_um < 1e-6 and found.landmarks == 5


def test_each_landmark_is_predicted_from_the_others() -> None:
    moving = SQUARE.copy()
    moving[4] += (30.0, 40.0)  # the one in the middle is wrong
    found = fit_landmarks(SQUARE, moving)
    assert found.errors_um[4] == pytest.approx(50.0)
    assert found.error_um == pytest.approx(float(np.median(found.errors_um[:5])))
    assert found.near == 0.0 or found.near == np.mean(found.errors_um[:5] < 20)
    asked = np.array([[500.0, 100.0], [-300.0, 500.0], [-2000.0, 500.0]])
    errors = predict_error(found, asked)
    assert np.isfinite(errors[:2]).all() and errors[0] == pytest.approx(found.error_um, rel=0.5)
    assert errors[2] == np.inf, "beyond the landmarks nothing is known"


@pytest.mark.parametrize(
    ("fixed", "moving", "told"),
    [
        (SQUARE[:3], SQUARE[:3], "3 pairs of landmarks are too few"),
        (SQUARE, SQUARE[:4], "4 pairs of landmarks are too few"),
        ([[0, 0], [1, 1], [2, 2], [3, 3.01]], SQUARE[:4], "lie on a line"),
        (SQUARE, SQUARE * (2.0, 1.0), "would stretch the tissue 2.00 and 1.00 times"),
        # Three of four on a line: without the fourth there is no map.
        ([[0, 0], [500, 0], [1000, 0], [0, 900]], [[0, 0], [500, 0], [1000, 0], [0, 900]], "lie on a line"),
    ],
)
def test_landmarks_without_a_map_are_told(fixed: object, moving: object, told: str) -> None:
    with pytest.raises(RegistrationError, match=told):
        fit_landmarks(fixed, moving)  # type: ignore[arg-type]


def test_landmarks_are_kept_by_block(tmp_path: Path) -> None:
    marks = Landmarks("P1-CD19", {"P1-BAFF": (SQUARE, SQUARE + 7.0), "P1-BAFF-R": (SQUARE[:0], SQUARE[:0])})
    save_landmarks(tmp_path, "P1 A", marks)
    save_landmarks(tmp_path, "P2 A", Landmarks("P2-CD19", {"P2-BAFF": (SQUARE, SQUARE)}))
    kept = read_landmarks(tmp_path / "serial")
    assert list(kept) == ["P1 A", "P2 A"] and list(kept["P1 A"].pairs) == ["P1-BAFF"]
    assert np.array_equal(kept["P1 A"].pairs["P1-BAFF"][1], SQUARE + 7.0)
    path = tmp_path / "serial" / "landmarks.json"
    before = path.read_bytes()
    with pytest.raises(RegistrationError, match="too few"):
        save_landmarks(tmp_path, "P1 A", Landmarks("P1-CD19", {"P1-BAFF": (SQUARE[:2], SQUARE[:2])}))
    with open_run(tmp_path), pytest.raises(ResultsError, match="in use by another run"):
        save_landmarks(tmp_path, "P1 A", marks)
    assert path.read_bytes() == before
    save_landmarks(tmp_path, "P1 A", Landmarks("P1-CD19", {}))
    assert list(read_landmarks(tmp_path / "serial")) == ["P2 A"]
    uneven = {"reference": "a", "pairs_um": {"b": {"reference": [[1, 2]], "section": []}}}
    for text in ("[]", '{"P1 A": {"reference": "a"}}', json.dumps({"P1 A": uneven})):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RegistrationError, match="is damaged"):
            read_landmarks(tmp_path / "serial")


def test_a_rerun_takes_the_landmarks(small_study: Path, tmp_path: Path) -> None:
    """Sections with too little tissue to be registered alone."""
    rows = ["patient,group,marker,slide,block"]
    for marker in ("BAFF-R", "CD19"):
        rows.append(f"P01,a,{marker},{small_study / 'slides' / f'P01-{marker}.svs'},A")
    (tmp_path / "STUDY.csv").write_text("\n".join(rows), encoding="utf-8")
    protocol, out = Protocol(), tmp_path / "out"
    study = read_study(tmp_path / "STUDY.csv", protocol.markers)

    def register() -> dict[str, object]:
        blocks, _ = register_study(study, protocol, out / "serial", lambda done, total: None)
        return dict(blocks[0].registrations) | {"reference": blocks[0].reference}

    found = register()
    lost = next(one for one in ("P01-CD19", "P01-BAFF-R") if one != found["reference"])
    assert found[lost].transform is None  # type: ignore[attr-defined]
    # The other section is made the reference by hand.
    save_landmarks(out, "P01 A", Landmarks(lost, {str(found["reference"]): (SQUARE, SQUARE + SHIFT)}))
    by_hand = register()
    assert by_hand["reference"] == lost
    corrected = by_hand[str(found["reference"])]
    assert corrected.landmarks == 5  # type: ignore[attr-defined]
    assert corrected.transform.matrix == pytest.approx(np.array([[1, 0, 5], [0, 1, -3]]), abs=1e-6)  # type: ignore[attr-defined]
    again = register()  # from what is stored
    assert again[str(found["reference"])].landmarks == 5  # type: ignore[attr-defined]
    run = {"finished": "2026-01-02", "study": {"path": str(tmp_path / "STUDY.csv")}}
    with pytest.raises(ResultsError, match="is not a run's folder"):
        read_blocks(out)
    write_json(out / "run.json", {**run, "protocol": protocol.model_dump(mode="json")})
    (block,) = read_blocks(out)
    table = tabulate_registrations([block], {}).set_index("section")
    assert table.loc[found["reference"], "reason"] == "from 5 landmarks set by hand"
    save_landmarks(out, "P01 A", Landmarks(lost, {}))
    assert register()["reference"] == found["reference"]
    kept = json.loads((out / "serial" / "registrations.json").read_text(encoding="utf-8"))
    write_json(out / "serial" / "registrations.json", {"another": kept["P01 A"]})
    with pytest.raises(RegistrationError, match="holds no registered block"):
        read_blocks(out)
