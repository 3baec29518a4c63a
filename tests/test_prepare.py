"""Stains chosen and fields prepared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from histoquant.errors import HistoquantError
from histoquant.prepare import choose_stains, prepare_section, restore_task
from histoquant.protocol import Protocol, StainSettings, load_protocol
from histoquant.results import encode_json
from histoquant.stains import DEFAULT_VECTORS
from histoquant.study import Section, Source

GLASS = np.full((80, 80, 3), (240, 238, 236), np.uint8)


def make_section(*sources: Source, problem: str = "") -> Section:
    return Section("A-CD19", "A", "", "CD19", "", "", "", sources, {}, problem)


def test_stains_come_from_protocol_defaults_or_the_slide() -> None:
    white, vectors, how = choose_stains(StainSettings(), GLASS, GLASS)
    assert white == pytest.approx((240, 238, 236), abs=1) and how["white_source"] == "glass"
    assert vectors == DEFAULT_VECTORS and how["vectors_source"] == "default"
    given = ((0.6, 0.7, 0.3), (0.3, 0.6, 0.8))
    settings = StainSettings(white=(250, 250, 250), vectors=given)
    assert choose_stains(settings, GLASS, GLASS)[:2] == ((250, 250, 250), given)


def test_vectors_that_cannot_be_estimated_are_the_default_and_the_receipt_says_why() -> None:
    _, vectors, how = choose_stains(StainSettings(vectors="auto"), GLASS, GLASS)
    assert vectors == DEFAULT_VECTORS and how["vectors_source"].startswith("default, since")


def test_problem_of_the_table_is_the_reason() -> None:
    with pytest.raises(HistoquantError, match="row 4, column mpp"):
        prepare_section(make_section(problem="row 4, column mpp: 0"), Protocol(), 0)


def test_slide_is_drawn_and_the_draw_is_repeated(small_study: Path) -> None:
    section = make_section(Source(small_study / "slides" / "P01-CD19.svs", 2))
    protocol = load_protocol(small_study / "PROTOCOL.toml")
    first, second = (prepare_section(section, protocol, 0) for _ in range(2))
    assert first.receipt == second.receipt and first.fields_asked == 2
    assert [task.field for task in first.tasks] == [task.field for task in second.tasks]
    assert all(task.tissue_fraction >= 0.7 for task in first.tasks)
    assert prepare_section(section, protocol, 1).receipt["fields"] != first.receipt["fields"]


def test_an_image_that_fails_leaves_the_others(small_study: Path, tmp_path: Path) -> None:
    pixels = np.full((400, 500, 3), 200, np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), pixels)
    (tmp_path / "2.png").write_bytes(b"no image")
    prepared = prepare_section(make_section(Source(tmp_path, 2, 0.5)), Protocol(), 0)
    assert len(prepared.tasks) == 1 and prepared.fields_asked == 2
    assert prepared.failed[0]["field"] == 2 and "2.png" in prepared.failed[0]["reason"]
    slide = Source(small_study / "slides" / "P01-CD19.svs", 3)
    mixed = prepare_section(make_section(Source(tmp_path / "1.png", 2, 0.5), slide), Protocol(), 0)
    assert "whole slide among field images" in mixed.failed[0]["reason"]
    with pytest.raises(HistoquantError, match=r"2\.png"):
        prepare_section(make_section(Source(tmp_path / "2.png", 2, 0.5)), Protocol(), 0)


def test_tasks_come_back_from_what_is_stored(small_study: Path, tmp_path: Path) -> None:
    box = [[[0, 0], [1500, 0], [1500, 900], [0, 900], [0, 0]]]
    areas = tmp_path / "areas.geojson"
    areas.write_text(json.dumps({"type": "Polygon", "coordinates": box}))
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.png").write_bytes(b"no image")
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(images / name), np.full((400, 500, 3), 200, np.uint8))
    protocol = load_protocol(small_study / "PROTOCOL.toml")
    for section in (
        make_section(Source(small_study / "slides" / "P01-CD19.svs", 2, annotations=areas)),
        make_section(Source(images, 2, 0.5)),
    ):
        prepared = prepare_section(section, protocol, 0)
        assert len(prepared.tasks) == 2
        receipt = json.loads(encode_json(prepared.receipt))
        for task in prepared.tasks:
            row = {**asdict(task.field), "field": task.field.number, "tissue_fraction": task.tissue_fraction}
            assert restore_task(section, receipt, row, protocol) == task
    bounds = protocol.model_copy(update={"geojson_from_bounds": True})
    section = make_section(Source(small_study / "slides" / "P01-CD19.svs", 2))
    prepared = prepare_section(section, bounds, 0)
    row = {**asdict(prepared.tasks[0].field), "field": 1, "tissue_fraction": 1.0}
    task = restore_task(section, json.loads(encode_json(prepared.receipt)), row, bounds)
    assert task.geojson_origin_px == prepared.tasks[0].geojson_origin_px
    for receipt in ({}, {"drawn": False, "images": []}):
        with pytest.raises(HistoquantError, match="the receipt does not fit field 1"):
            restore_task(section, receipt, row, protocol)
