from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from histoquant.errors import ProtocolError
from histoquant.protocol import (
    SHIPPED_MARKERS,
    MarkerSettings,
    Protocol,
    hash_measurement,
    hash_protocol,
    load_protocol,
    validate_protocol,
)


def write_protocol(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "protocol.toml"
    path.write_bytes(text.encode(encoding))
    return path


def test_defaults_are_those_of_the_paper() -> None:
    protocol = load_protocol(None)
    assert protocol == Protocol()
    assert (protocol.fields.count, protocol.fields.shape, protocol.fields.width_um) == (10, "circle", 550.0)
    assert (protocol.fields.margin_um, protocol.fields.min_tissue_fraction) == (150.0, 0.7)
    assert (protocol.fields.inset_um, protocol.fields.max_inset_fraction) == (60.0, 0.2)
    assert protocol.statistics.draws == 10_000
    compartments = {name: marker.compartment for name, marker in protocol.markers.items()}
    assert compartments == {"BAFF": "cell", "BAFF-R": "membrane", "CD19": "membrane"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_loads_toml(tmp_path: Path, encoding: str) -> None:
    text = "[fields]\ncount = 3\nwidth_um = 300\n[markers.'抗体 µ']\ncompartment = 'nucleus'\n"
    protocol = load_protocol(write_protocol(tmp_path, text, encoding))
    assert (protocol.fields.count, protocol.fields.width_um) == (3, 300.0)
    assert protocol.markers["抗体 µ"].compartment == "nucleus"


def test_markers_are_added_to_the_shipped_ones_key_by_key() -> None:
    given = {"CD19": {"threshold_od": 0.3}, "Ki67": {"compartment": "nucleus"}}
    markers = validate_protocol({"markers": given}).markers
    assert list(markers) == ["BAFF", "BAFF-R", "CD19", "Ki67"]
    assert markers["CD19"] == MarkerSettings(compartment="membrane", threshold_od=0.3)
    assert markers["BAFF"] == SHIPPED_MARKERS["BAFF"]
    given_baff = validate_protocol({"markers": {"BAFF": {"threshold_od": 0.3}}}).markers["BAFF"]
    assert given_baff == MarkerSettings(compartment="cell", threshold_od=0.3)


def test_markers_may_be_settings_already() -> None:
    given = MarkerSettings(compartment="nucleus")
    assert Protocol(markers={"CD19": given}).markers == {**SHIPPED_MARKERS, "CD19": given}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope = 1", "key nope: is unknown; known are version, "),
        ("[fields]\nnope = 1", "key fields.nope: is unknown; known are count, "),
        ("[fields]\ncount = 0", "key fields.count: Input should be greater than or equal to 1"),
        ("[fields]\ncount = 2.5", "key fields.count"),
        ("[fields]\nwidth_um = 'wide'", "key fields.width_um"),
        ("[fields]\nwidth_um = nan", "key fields.width_um: Input should be a finite number"),
        ("[fibers]\nmin_area_um2 = inf", "key fibers.min_area_um2: Input should be a finite number"),
        ("fields = 3", "key fields: "),
        ("markers = 3", "key markers: "),
        ("[markers]\nCD19 = 3", "key markers.CD19: "),
        ("[markers.CD19]\ncompartment = 'x'", "key markers.CD19.compartment: Input should be 'nucleus'"),
        ("[markers.CD19]\nthreshold_od = -1", "key markers.CD19.threshold_od"),
        ("[stain]\nwhite = 'x'", "key stain.white: Input should be a valid tuple, or Input should be 'auto'"),
        ("[stain]\nwhite = [0, 240, 240]", "key stain.white.0: Input should be greater than 0"),
        ("[fields]\ninsett_um = 1", "key fields.insett_um: is unknown; did you mean inset_um?"),
        (
            "[markers.CD20]\nthreshold = 1",
            "key markers.CD20.threshold: is unknown; did you mean threshold_od?",
        ),
        ("version = 0", "key version: "),
        ("version = '1'", "key version: "),
        ("version = 2", "has version 2; update histoquant: it knows version 1"),
        ("fields = [", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
    ],
)
def test_a_wrong_protocol_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write_protocol(tmp_path, text)
    with pytest.raises(ProtocolError) as caught:
        load_protocol(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_text_in_another_encoding_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="is not TOML"):
        load_protocol(write_protocol(tmp_path, "# µ", "latin-1"))


def test_deep_nesting_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="is not TOML"):
        load_protocol(write_protocol(tmp_path, "a = " + "[" * 100_000))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ProtocolError, match="cannot be read; check the path"):
            load_protocol(path)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Protocol().working_mpp = 1.0  # type: ignore[misc]


def _list_settings(kind: type[BaseModel]) -> list[tuple[str, str | None]]:
    rows: list[tuple[str, str | None]] = []
    for name, field in kind.model_fields.items():
        rows.append((f"{kind.__name__}.{name}", field.description))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _list_settings(field.annotation)
    return rows


def test_every_setting_says_in_one_line_what_it_is() -> None:
    rows = _list_settings(Protocol) + _list_settings(MarkerSettings)
    assert len(rows) > 30
    assert [name for name, text in rows if not text or "\n" in text or not text.endswith(".")] == []


def test_the_hash_goes_by_value() -> None:
    same: list[dict[str, Any]] = [
        {},
        {"fields": {"count": 10, "width_um": 550}},
        {"markers": {"CD19": {}, "BAFF": {}}},
        Protocol().model_dump(mode="json"),
        {"markers": dict(reversed(Protocol().model_dump(mode="json")["markers"].items()))},
    ]
    assert {hash_protocol(validate_protocol(data)) for data in same} == {hash_protocol(Protocol())}
    orders: list[dict[str, Any]] = [{"X": {}, "Y": {}}, {"Y": {}, "X": {}}]
    assert len({hash_protocol(validate_protocol({"markers": markers})) for markers in orders}) == 1
    assert hash_protocol(validate_protocol({"fields": {"count": 9}})) != hash_protocol(Protocol())
    assert len(hash_protocol(Protocol())) == 64


@pytest.mark.parametrize(
    ("data", "same"),
    [
        ({"markers": {"Ki67": {}}}, True),
        ({"markers": {"BAFF": {"threshold_od": 0.9}}}, True),
        ({"statistics": {"draws": 200}}, True),
        ({"markers": {"CD19": {"threshold_od": 0.9}}}, False),
        ({"fields": {"count": 9}}, False),
        ({"fields": {"margin_um": 100}}, False),
        ({"tissue": {"min_od": 0.1}}, False),
        ({"stain": {"white": [240, 240, 240]}}, False),
        ({"fibers": {"min_area_um2": 50}}, False),
        ({"cells": {"growth_um": 1.0}}, False),
        ({"working_mpp": 0.4}, False),
    ],
)
def test_a_measurement_depends_on_its_own_settings_only(data: dict[str, Any], same: bool) -> None:
    before, after = Protocol(), validate_protocol(data)
    assert (hash_measurement(before, "CD19") == hash_measurement(after, "CD19")) is same
    assert hash_protocol(before) != hash_protocol(after)


@pytest.mark.parametrize("vectors", [[[0, 0, 0], [0.3, 0.6, 0.8]], [[0.6, 0.7, 0.3], [1.2, 1.4, 0.61]]])
def test_stains_of_one_direction_are_refused(vectors: list[list[float]]) -> None:
    with pytest.raises(ProtocolError, match=r"key stain.vectors: .*nearly parallel"):
        validate_protocol({"stain": {"vectors": vectors}})


@pytest.mark.parametrize("name", ["patient", "group"])
def test_a_marker_named_as_a_column_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"cannot be called {name}"):
        validate_protocol({"markers": {name: {}}})


def test_leaving_slides_out_of_statistics_asks_for_no_new_measurement() -> None:
    left_out = Protocol.model_validate({"qc": {"exclude_repeat": True}})
    assert hash_measurement(left_out, "CD19") == hash_measurement(Protocol(), "CD19")
    assert hash_measurement(Protocol.model_validate({"qc": {"exclude": True}}), "CD19") != hash_measurement(
        Protocol(), "CD19"
    )
