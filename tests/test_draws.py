"""The log of draws: all are kept, and none follows a count without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from histoquant.draws import LOG, list_draws, log_draw
from histoquant.errors import FieldsError, StorageError
from histoquant.results import encode_json, write_section

FIRST: dict[str, Any] = {"seed": 0, "settings": {"count": 1}, "fields": [{"number": 1}], "sequences": []}
OTHER: dict[str, Any] = {**FIRST, "seed": 1, "fields": [{"number": 1, "center_x_um": 2.0}]}


def count(run: Path, receipt: dict[str, Any]) -> None:
    (run / "sections").mkdir(parents=True, exist_ok=True)
    files = {"receipt.json": encode_json(receipt)}
    write_section(run / "sections" / "A-CD19", files, {"key": "k", "fields": []})


def test_draws_are_free_until_the_section_is_counted(tmp_path: Path) -> None:
    run = tmp_path / "new"
    assert list_draws(run, "A-CD19") == []
    log_draw(run, "A-CD19", "A-CD19", FIRST)
    log_draw(run, "A-CD19", "A-CD19", OTHER)
    log_draw(run, "B-CD19", "B-CD19", FIRST)
    draws = list_draws(run, "A-CD19")
    assert [draw["seed"] for draw in draws] == [0, 1]
    assert [draw["counted"] for draw in draws] == [False, False]


def test_after_a_count_other_fields_need_a_reason(tmp_path: Path) -> None:
    count(tmp_path, FIRST)
    log_draw(tmp_path, "A-CD19", "A-CD19", FIRST)  # the same fields: nothing is chosen
    for reason in ("", "  "):
        with pytest.raises(
            FieldsError, match="A-CD19: has been counted in other fields already; give the reason"
        ):
            log_draw(tmp_path, "A-CD19", "A-CD19", OTHER, reason)
    assert len(list_draws(tmp_path, "A-CD19")) == 1
    log_draw(tmp_path, "A-CD19", "A-CD19", OTHER, "fold in field 1")
    last = list_draws(tmp_path, "A-CD19")[-1]
    assert (last["seed"], last["counted"], last["reason"]) == (1, True, "fold in field 1")
    assert last["fields"] == OTHER["fields"]


def test_a_reason_may_hold_signs_that_end_lines_elsewhere(tmp_path: Path) -> None:
    reason = "fold\u2028in field 1,\x85says Li\x0b\nall the same"
    log_draw(tmp_path, "A-CD19", "A-CD19", FIRST, reason)
    log_draw(tmp_path, "A-CD19", "A-CD19", OTHER)
    assert [draw["reason"] for draw in list_draws(tmp_path, "A-CD19")] == [reason, ""]


def test_a_damaged_log_is_named_with_its_line(tmp_path: Path) -> None:
    log_draw(tmp_path, "A-CD19", "A-CD19", FIRST)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"sect')
    with pytest.raises(FieldsError, match="line 2: is damaged"):
        list_draws(tmp_path, "A-CD19")
    (tmp_path / LOG).write_bytes(b"\xff\xfe")
    with pytest.raises(FieldsError, match="cannot be read"):
        list_draws(tmp_path, "A-CD19")


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        log_draw(tmp_path, "A-CD19", "A-CD19", FIRST)
