"""Serial sections on each other: how layers lie, and landmarks set by keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari_histoquant.linking import choose_block, link_block, make_layer_affine, show_sections
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from histoquant.errors import HistoquantError, RegistrationError
from histoquant.protocol import Protocol
from histoquant.results import write_json
from histoquant.serial.blocks import Block, register_study
from histoquant.serial.landmarks import Landmarks, read_landmarks
from histoquant.serial.register import Registration
from histoquant.serial.transform import make_affine, map_points
from histoquant.study import Section, Source, read_study

SQUARE = np.array([[100.0, 100.0], [600.0, 100.0], [100.0, 600.0], [600.0, 600.0]])


@pytest.fixture
def run(study: Path, tmp_path: Path) -> Path:
    """A run of two sections with too little tissue to be registered by the program."""
    lines = ["patient,group,marker,slide,block"]
    for marker in ("CD19", "BAFF-R"):
        lines.append(f"P01,refractory,{marker},{study / 'slides' / f'P01-{marker}.svs'},A")
    (tmp_path / "STUDY.csv").write_text("\n".join(lines), encoding="utf-8")
    out, protocol = tmp_path / "out", Protocol()
    register_study(
        read_study(tmp_path / "STUDY.csv", protocol.markers), protocol, out / "serial", lambda *done: None
    )
    about = {"finished": "2026-01-02", "study": {"path": str(tmp_path / "STUDY.csv")}}
    write_json(out / "run.json", {**about, "protocol": protocol.model_dump(mode="json"), "sections": {}})
    return out


def make_block(transform: Any) -> Block:
    sections = tuple(
        Section(name, "P1", "", name, "", "", "A", (Source(Path(f"{name}.svs"), 2),)) for name in ("a", "b")
    )
    exact = Registration(make_affine([[1, 0, 0], [0, 1, 0]]))
    return Block("P1", "A", sections, "a", {"a": exact, "b": Registration(transform, "why", 7.0)})


def test_a_place_of_a_section_lies_where_the_reference_has_it() -> None:
    turned = make_affine([[0.0, -1.1, 900.0], [1.0, 0.1, -50.0]])
    affine = make_layer_affine(Registration(turned))
    places = np.array([[10.0, 20.0], [300.0, -4.0]])
    x, y = map_points(turned, places).T
    world = affine @ np.array([y, x, np.ones(2)])
    assert pytest.approx(places) == world[:2][::-1].T
    assert np.array_equal(make_layer_affine(Registration(None)), np.eye(3))


def test_landmarks_go_in_pairs_and_lie_on_their_own_slides() -> None:
    turned = make_affine([[0.0, -1.0, 900.0], [1.0, 0.0, 0.0]])
    linked = link_block(make_block(turned), None)
    assert linked.others == ("b",) and linked.register("b").transform is turned
    linked.add("b", True, (10.0, 20.0))
    with pytest.raises(RegistrationError, match="has no partner yet"):
        linked.add("b", True, (11.0, 20.0))
    linked.add("b", False, (10.0, 20.0))
    assert linked.pair("b")[1] == pytest.approx(np.array([[880.0, 10.0]]))
    linked.add("b", True, (0.0, 0.0))
    linked.remove("b")
    assert linked.count("b") == 1 and len(linked.fixed["b"]) == 1
    linked.remove("b")
    with pytest.raises(RegistrationError, match="no landmark to remove"):
        linked.remove("b")
    known = link_block(make_block(turned), Landmarks("a", {"b": (SQUARE, SQUARE + 5.0)}))
    found = known.register("b").transform
    assert found is not None and found.matrix[:, 2] == pytest.approx([5.0, 5.0])
    assert link_block(make_block(turned), Landmarks("other", {"b": (SQUARE, SQUARE)})).count("b") == 0
    with pytest.raises(HistoquantError, match=r"a\.svs"):
        show_sections(linked)
    with pytest.raises(RegistrationError, match="no block is chosen"):
        choose_block([make_block(turned)], "P2 A")


def test_sections_are_compared_and_corrected_by_keys(viewer: Any, run: Path, messages: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Serial sections")
    canvas = viewer.window._qt_viewer.canvas.native
    hint = widget.native.sizeHint()
    assert hint.height() <= 620 and hint.width() <= 460
    for button in (widget.open, widget.on_reference, widget.save):
        button.native.click()
    assert [text.splitlines()[0] for text in messages] == [
        *("No run is chosen.", "No block is open.", "No run is chosen."),
    ]
    messages.clear()
    widget.run.value = run
    assert widget.block.choices == ("P01 A",)
    widget.open.native.click()
    (section,) = widget.linked.others
    reference = widget.linked.block.reference
    assert [layer.name for layer in viewer.layers] == [
        *(reference, section, "landmarks on the reference", "landmarks on the section")
    ]
    assert "not registrable" in widget.about.value

    def press(key: Any, place: tuple[float, float] | None = None) -> None:
        viewer.mouse_over_canvas = place is not None
        if place is not None:
            viewer.cursor.position = (place[1], place[0])
        QTest.keyClick(canvas, key)
        QApplication.processEvents()

    press(Qt.Key.Key_K)
    assert not viewer.layers[section].visible
    press(Qt.Key.Key_K)
    assert viewer.layers[section].visible
    widget.opacity.value = 0.4
    assert viewer.layers[section].opacity == 0.4
    # The same fiber lies 30 um further right on the section.
    for x, y in SQUARE:
        press(Qt.Key.Key_1, (x, y))
        press(Qt.Key.Key_2, (x + 30.0, y))
    assert widget.about.value.startswith("by 4 pairs of landmarks: each is 0 µm")
    assert viewer.layers[section].affine.translate == pytest.approx([0.0, -30.0], abs=1e-6)
    for name in ("landmarks on the reference", "landmarks on the section"):
        assert viewer.layers[name].data[:, ::-1] == pytest.approx(SQUARE)
    # One that stretches the tissue is refused, and goes again.
    press(Qt.Key.Key_1, (300.0, 300.0))
    press(Qt.Key.Key_2, (5000.0, 9000.0))
    assert "would stretch the tissue" in messages[-1]
    assert widget.linked.count(section) == 4
    messages.clear()
    viewer.mouse_over_canvas = False
    widget.on_reference.native.click()
    assert widget.about.value == "Click the place in the picture."
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=QPoint(canvas.width() // 2, canvas.height() // 2))
    QApplication.processEvents()
    assert len(widget.linked.fixed[section]) == 5
    press(Qt.Key.Key_X)
    assert len(widget.linked.fixed[section]) == 4
    widget.save.native.click()
    assert len(messages) == 1 and "Landmarks are saved" in messages[0]
    kept = read_landmarks(run / "serial")["P01 A"]
    assert kept.reference == reference
    assert kept.pairs[section][1] == pytest.approx(SQUARE + np.array([30.0, 0.0]), abs=0.01)
    widget.open.native.click()
    assert len(viewer.layers) == 4 and widget.linked.count(section) == 4


def test_a_folder_without_registrations_is_told(viewer: Any, measured_run: Path, messages: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Serial sections")
    widget.run.value = measured_run
    assert messages[-1].startswith("Has no block of two sections.")
    widget.open.native.click()
    assert messages[-1].startswith("No block is chosen.")
