"""A run against a person's truth: reading it, counting it, matching it, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import shapely
from conftest import invoke

from histoquant.annotations import read_shapes
from histoquant.errors import AnnotationError, HistoquantError, ResultsError, StudyError
from histoquant.geometry import Field
from histoquant.protocol import validate_protocol
from histoquant.synthetic.compare import compare_fields
from histoquant.synthetic.truth import read_truth as read_rendered
from histoquant.validation import validate_run
from histoquant.validation.cells import count_marks, judge_cells, match_field, pair_points
from histoquant.validation.page import build_page
from histoquant.validation.pairs import PAIR_COLUMNS, pair_fields, pair_sections, summarise_agreement
from histoquant.validation.truth import Place, Truth, TruthError, read_truth
from histoquant.validation.validate import read_places

PLACES = {"P01-CD19": Place(frozenset({1, 2}), 0.5), "camera": Place(frozenset({1, 2}), None)}
SQUARE = Field(1, "square", 50.0, 50.0, 100.0, 100.0)


def make_marks(*rows: tuple[str, int, object]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["cell", "positive", "shape"]).assign(
        section="S", field=np.nan, kind="cell", nucleus=True
    )


def make_objects(*rows: tuple[str, float, float, bool, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["object", "x_um", "y_um", "positive", "counted"])


def test_a_mark_counts_by_more_than_half_of_its_area() -> None:
    shapes = [
        shapely.Point(99.9, 50), shapely.Point(100, 50),
        shapely.Point(100, 50).buffer(4, quad_segs=32), shapely.Point(99.5, 50).buffer(4, quad_segs=32),
        shapely.box(95, 0, 105, 9), shapely.box(94, 0, 105, 9),
    ]  # fmt: skip
    marks = make_marks(*((str(at), 1, shape) for at, shape in enumerate(shapes)))
    assert count_marks(marks, SQUARE).tolist() == [True, False, False, True, False, True]
    circle = Field(1, "circle", 50.0, 50.0, 100.0, 100.0)
    corner = make_marks(("1", 1, shapely.Point(99, 99)), ("2", 1, shapely.box(40, 40, 60, 60)))
    assert count_marks(corner, circle).tolist() == [False, True]
    assert count_marks(corner[:0], circle).tolist() == []


def test_pairs_are_as_many_as_can_be() -> None:
    # The nearest pair alone would leave the other two without partner.
    i, j = pair_points(np.array([[0.0, 0], [3.0, 0]]), np.array([[2.0, 0], [6.0, 0]]))
    assert i.tolist() == [0, 1] and j.tolist() == [0, 1]
    assert pair_points(np.zeros((0, 2)), np.zeros((1, 2)))[0].size == 0


def test_cells_are_judged_one_by_one() -> None:
    marks = make_marks(
        ("hit", 1, shapely.Point(10, 10)), ("missed", 1, shapely.Point(30, 10)),
        ("called negative", 1, shapely.Point(50, 10)), ("negative", 0, shapely.Point(70, 10)),
        ("called positive", 0, shapely.Point(10, 50)), ("doubt", -1, shapely.Point(30, 50)),
        ("edge", 1, shapely.Point(101, 50)), ("far", 1, shapely.Point(900, 900)),
    )  # fmt: skip
    objects = make_objects(
        ("1", 11, 10, True, True), ("3", 50, 12, False, True), ("4", 70, 10, False, True),
        ("5", 10, 52, True, True), ("6", 30, 51, True, True), ("7", 99, 50, True, True),
        ("8", 80, 80, True, True),
    )  # fmt: skip
    cells = match_field(SQUARE, marks, objects).assign(section="S")
    assert set(cells.loc[cells["source"].eq("truth"), "cell"]) == set(marks["cell"]) - {"far"}
    found = judge_cells(cells).set_index("measure")
    # Both: 1 and the one at the edge. Only the run: 5 and 8. Missed: two. The doubtful one is neither.
    assert found.loc["precision", ["estimate", "n"]].tolist() == [0.5, 4]
    assert found.loc["recall", ["estimate", "n"]].tolist() == [0.5, 4]
    assert found.loc["f1", "estimate"] == 0.5
    # Matched by place: hit, called negative, edge; negative, called positive.
    assert found.loc["sensitivity", "estimate"] == pytest.approx(2 / 3)
    assert found.loc["specificity", "estimate"] == pytest.approx(1 / 2)
    assert found.loc["agreement", "n"] == 5
    positive = judge_cells(cells[cells["positive"].ne(0) | cells["source"].eq("run")]).set_index("measure")
    assert positive.loc["specificity", "note"] == "the truth marks no negative cell"


def test_sections_sum_what_both_counted() -> None:
    fields = pd.DataFrame(
        {"patient": "P", "marker": "CD19", "section": "S", "field": [1, 2, 3], "fibers": [10, 20, 0],
         "positive_cells": [1, 4, 0]}
    )  # fmt: skip
    counts = pd.DataFrame(
        {"section": "S", "field": [1, 2, 3], "fibers": [10, np.nan, 0], "positive_cells": [2.0, 5, 0]}
    )
    sections = pair_sections(pair_fields(fields, counts)).iloc[0]
    assert sections[["fields", "fibers", "true_fibers"]].tolist() == [3, 10, 10]
    assert sections[["positive_cells", "true_positive_cells"]].tolist() == [5, 7]
    assert sections["cells_per_fiber"] == pytest.approx(0.1) and sections["true_cells_per_fiber"] == 0.2
    none = pair_sections(pair_fields(fields, counts.assign(fibers=np.nan))).iloc[0]
    assert np.isnan(none["fibers"]) and np.isnan(none["true_cells_per_fiber"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("section,field\nP01-CD19,1\n", "row 1: has the columns field, section; give the columns"),
        ("section,field,fibers,positive_cells\n", "has no rows"),
        ("section,field,fibers,positive_cells\nP01-CD91,1,2,3\n", "row 2.*no section P01-CD91.*P01-CD19"),
        ("section,field,fibers,positive_cells\nP01-CD19,7,2,3\n", "row 2.*no field 7.*1, 2"),
        ("section,field,fibers,positive_cells\nP01-CD19,1,2,3\nP01-CD19,1,2,3\n", "row 3.*as row 2"),
        ("section,field,fibers,positive_cells\nP01-CD19,1,-2,3\n", "row 2, column fibers: -2 is no count"),
        ("section,field,fibers,positive_cells\nP01-CD19,1,2,2.5\n", "column positive_cells: 2.5 is no count"),
        ("section,x_um,y_um,positive\nP01-CD19,1,2,yes\n", "row 2, column positive: yes is not"),
        ("section,x_um,y_um,positive\nP01-CD19,a,2,1\n", "row 2, column x_um: a is not a number"),
        ("section,x_um,y_um,positive\nP01-CD19,1,2,1\nP01-CD19,1,2,0\n", "row 3.*repeats the point of row 2"),
        ("section,x_um,y_um,positive\ncamera,1,2,1\n", "row 2.*several images"),
    ],
)
def test_wrong_truth_is_told_with_its_row(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(TruthError, match=told):
        read_truth(path, PLACES)


def test_tables_come_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "李 truth.csv"
    path.write_bytes("Section;Field;Fibers;Positive_cells\nP01-CD19;1;;3\n".encode("utf-8-sig"))
    truth = read_truth(path, PLACES)
    assert (truth.name, truth.form) == ("李 truth", "counts")
    assert np.isnan(truth.counts["fibers"][0]) and truth.counts["positive_cells"][0] == 3
    with pytest.raises(StudyError, match="check the path of the truth"):
        read_truth(tmp_path / "no.csv", PLACES)


def write_features(folder: Path, name: str, *features: tuple[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    listed = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(shape),
         "properties": {"classification": {"name": label}} if label else {}}
        for label, shape in features
    ]  # fmt: skip
    (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": listed}))


def test_outlines_have_classes_and_pixels(tmp_path: Path) -> None:
    write_features(
        tmp_path / "Li", "P01-CD19.geojson",
        ("Fiber", shapely.box(0, 0, 40, 40)), ("Positive", shapely.MultiPoint([(2, 4), (6, 8)])),
        ("Negative cell", shapely.box(0, 0, 2, 2)), ("Ignore*", shapely.box(0, 0, 9, 9)),
        ("Uncertain", shapely.Point(1, 1)), ("Exclude", shapely.box(0, 0, 9, 9)),
    )  # fmt: skip
    truth = read_truth(tmp_path / "Li", PLACES)
    assert truth.marks["kind"].tolist() == ["fiber", "cell", "cell", "cell", "cell"]
    assert truth.marks["positive"].tolist() == [0, 1, 1, 0, -1]
    assert truth.marks["shape"][0].bounds == (0, 0, 20, 20) and truth.marks["shape"][1].x == 1


@pytest.mark.parametrize(
    ("name", "features", "told"),
    [
        ("other.geojson", [("Positive", shapely.Point(1, 1))], "no section other"),
        ("camera.geojson", [("Positive", shapely.Point(1, 1))], "several images"),
        ("P01-CD19.geojson", [("", shapely.Point(1, 1))], "feature 1: has no class"),
        ("P01-CD19.geojson", [("Tumor", shapely.Point(1, 1))], "feature 1: has the class 'tumor'"),
        ("P01-CD19.geojson", [("Fiber", shapely.Point(1, 1))], "is a fiber without outline"),
        ("P01-CD19.txt", [], "holds no GeoJSON"),
    ],
)
def test_wrong_outlines_are_told(
    tmp_path: Path, name: str, features: list[tuple[str, object]], told: str
) -> None:
    write_features(tmp_path / "Li", name, *features)
    with pytest.raises(TruthError, match=told):
        read_truth(tmp_path / "Li", PLACES)


def test_a_section_has_one_file_however_its_accents_are_stored(tmp_path: Path) -> None:
    places = {"Müller-CD19": PLACES["P01-CD19"]}
    write_features(tmp_path, "Mu\u0308ller-CD19.geojson", ("Positive", shapely.Point(1, 1)))
    assert read_truth(tmp_path, places).marks["section"].tolist() == ["Müller-CD19"]
    write_features(tmp_path, "Müller-CD19.json", ("Positive", shapely.Point(1, 1)))
    with pytest.raises(TruthError, match="marks Müller-CD19 again, as Mu"):
        read_truth(tmp_path, places)


def test_shapes_are_read_one_by_one(tmp_path: Path) -> None:
    write_features(tmp_path, "a.geojson", ("", shapely.LineString([(0, 0), (1, 1)])))
    assert read_shapes(tmp_path / "a.geojson") == []
    (tmp_path / "b.geojson").write_text('{"type": "Feature", "geometry": null, "properties": null}')
    assert read_shapes(tmp_path / "b.geojson") == []
    point = {"type": "Point", "coordinates": [1, 2]}
    feature = {"type": "Feature", "geometry": point, "properties": {"name": "positive"}}
    (tmp_path / "c.geojson").write_text(json.dumps(feature))
    assert read_shapes(tmp_path / "c.geojson")[0].names == ("positive",)
    deep = '{"type":"GeometryCollection","geometries":[' * 5000 + "]}" * 5000
    (tmp_path / "d.geojson").write_text(deep)
    with pytest.raises(AnnotationError):
        read_shapes(tmp_path / "d.geojson")


@pytest.fixture(scope="module")
def measured(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(small_run, tmp_path_factory.mktemp("validated") / "results")


@pytest.fixture(scope="module")
def rendered(small_study: Path, measured: Path) -> pd.DataFrame:
    names = pd.read_csv(measured / "sections.csv")["section"]
    return compare_fields(measured, {name: read_rendered(small_study / "truth" / name) for name in names})


def test_points_are_counted_as_rendered_truth_is(
    small_study: Path, measured: Path, rendered: pd.DataFrame, tmp_path: Path
) -> None:
    tables = [
        pd.read_csv(small_study / "truth" / f"{name}_cells.csv").assign(section=name)
        for name in rendered["section"].unique()
    ]
    pd.concat(tables).to_csv(tmp_path / "points.csv", index=False)
    done = invoke("validate", measured, tmp_path / "points.csv")
    assert "sensitivity" in done.stdout and "Traceback" not in done.stderr
    folder = measured / "validation" / "points"
    keys = ["section", "field"]
    fields = pd.read_csv(folder / "fields.csv").merge(rendered, on=keys, suffixes=("", "_rendered"))
    assert len(fields) == len(rendered)
    assert (fields["true_positive_cells"] == fields["true_positive_cells_rendered"]).all()
    cells = pd.read_csv(folder / "cells.csv", dtype={"match": str})
    assert cells.loc[cells["match_um"].notna(), "match_um"].le(4).all()
    agreement = pd.read_csv(folder / "agreement.csv", keep_default_na=False)
    assert set(agreement["level"]) == {"section", "field", "cell"}


def test_counts_give_tables_and_a_page(measured: Path, rendered: pd.DataFrame, tmp_path: Path) -> None:
    truth = rendered[["section", "field"]].assign(
        fibers=rendered["true_fibers"], positive_cells=rendered["true_positive_cells"]
    )
    truth.to_csv(tmp_path / "李 <b>.csv", index=False)
    done = invoke("validate", measured, tmp_path / "李 <b>.csv")
    assert done.returncode == 0, done.stderr
    assert "limits of agreement" in done.stdout
    folder = next(path for path in (measured / "validation").iterdir() if path.name.startswith("李"))
    assert {path.name for path in folder.iterdir()} == {
        "fields.csv", "sections.csv", "agreement.csv", "validation.html"
    }  # fmt: skip
    page = (folder / "validation.html").read_text(encoding="utf-8")
    assert "李 &lt;b&gt;" in page and "<svg" in page and "<b>" not in page.split("<main>")[1]
    report = (measured / "report.html").read_text(encoding="utf-8")
    assert quote(f"validation/{folder.name}/validation.html") in report and "李 &lt;b&gt;</a>" in report
    same = rendered["fibers"].to_numpy() - rendered["true_fibers"].to_numpy()
    agreement = pd.read_csv(folder / "agreement.csv", keep_default_na=False)
    row = agreement.query("marker == '' and level == 'field' and quantity == 'fibers' and measure == 'bias'")
    assert float(row["estimate"].iloc[0]) == pytest.approx(same.mean(), abs=1e-6)


def test_the_page_tells_the_limits_of_its_confidence(measured: Path) -> None:
    pairs = pd.read_csv(measured / "fields.csv").assign(true_fibers=9, true_positive_cells=2)
    pairs = pairs.assign(true_cells_per_fiber=2 / 9)[list(PAIR_COLUMNS)]
    sections = pair_sections(pairs)
    agreement = summarise_agreement(pairs, sections, pd.DataFrame({"section": []}), 0.9)
    truth = Truth("Li", "counts", pd.DataFrame(), pd.DataFrame())
    page = build_page(truth, {}, pairs, sections, agreement, (), 0.9)
    assert "bias ± 1.64 SD, between which 90 of 100" in page and "1.96" not in page.split("</svg>")[-1]


def test_what_is_left_out_is_told(measured: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    fields = pd.read_csv(run / "fields.csv", keep_default_na=False)
    fields.loc[0, "status"] = "failed"
    fields.to_csv(run / "fields.csv", index=False)
    names = fields.loc[[0, 1], ["section", "field"]].assign(fibers=5, positive_cells=1)
    names.to_csv(tmp_path / "Li.csv", index=False)
    done = invoke("validate", run, tmp_path / "Li.csv")
    assert done.returncode == 1 and "is failed in the run and was not compared" in done.stderr
    names[:1].to_csv(tmp_path / "Li.csv", index=False)
    done = invoke("validate", run, tmp_path / "Li.csv")
    assert done.returncode == 2 and "has no field that the run counted" in done.stderr
    section = fields.loc[2, "section"]
    (tmp_path / "far.csv").write_text(f"section,x_um,y_um,positive\n{section},99999,99999,1\n")
    assert any("None of the 1 marked cells" in note for note in validate_run(run, tmp_path / "far.csv").notes)
    (run / "sections" / section / "objects.parquet").unlink()
    with pytest.raises(ResultsError, match=r"objects\.parquet"):
        validate_run(run, tmp_path / "far.csv")


def test_counts_of_fields_drawn_anew_are_not_what_was_compared(
    small_study: Path, measured: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(measured, tmp_path / "run", ignore=shutil.ignore_patterns("validation"))
    fields = pd.read_csv(run / "fields.csv")
    fields[["section", "field", "fibers", "positive_cells"]].to_csv(tmp_path / "Li.csv", index=False)
    assert invoke("validate", run, tmp_path / "Li.csv").returncode == 0
    words = ("--protocol", small_study / "PROTOCOL.toml", "--workers", 1, "--seed", 5)
    assert invoke("run", small_study / "STUDY.csv", "--out", run, *words).returncode == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "validation/Li" not in page and "The comparison Li is not shown" in page


def test_outlines_from_another_corner_are_refused(measured: Path) -> None:
    protocol = validate_protocol({"geojson_from_bounds": True}, "test")
    fields = pd.read_csv(measured / "fields.csv")
    with pytest.raises(HistoquantError, match="geojson_from_bounds"):
        read_places(measured, fields, protocol, outlines=True)


def test_own_outlines_agree_with_their_run(measured: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    section = "P02-CD19"
    shutil.copy(measured / "sections" / section / "objects.geojson", folder / f"{section}.geojson")
    found = validate_run(measured, folder)
    fields = pd.read_csv(found.folder / "fields.csv")
    # Outlines follow the pixels' edges, the field's edge here does not: one object may tip.
    for name in ("fibers", "positive_cells"):
        assert (fields[name] - fields[f"true_{name}"]).abs().le(1).all()


def test_a_section_without_a_positive_outline_is_told(measured: Path, tmp_path: Path) -> None:
    """Its cells may not have been marked at all, where those of another section are."""
    folder = tmp_path / "fibers first"
    write_features(folder, "P01-BAFF-R.geojson", ("Fiber", shapely.box(0, 0, 9, 9)))
    write_features(folder, "P01-CD19.geojson", ("Positive", shapely.box(0, 0, 9, 9)))
    fields = pd.read_csv(measured / "fields.csv")
    own = fields[fields["section"].eq("P01-BAFF-R") & fields["positive_cells"].gt(0)]
    assert len(own)
    notes = "\n".join(validate_run(measured, folder).notes)
    for number in own["field"]:
        assert f"No positive mark in field {number} of P01-BAFF-R, where the run counts" in notes
