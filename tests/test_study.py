import os
import tempfile
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from histoquant.errors import StudyError
from histoquant.study import Section, Source, Study, encode_name, fingerprint_file, read_study

MARKERS = ("BAFF", "BAFF-R", "CD19")
HEADER = "patient,group,marker,slide"
Table = Callable[..., Study]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Write a study table beside some slides, and read it."""
    for name in ("a.svs", "b.svs", "c.svs", "1.png", "2.png", "out.geojson"):
        (tmp_path / name).touch()

    def write(*lines: str, encoding: str = "utf-8", end: str = "\n") -> Study:
        (tmp_path / "study.csv").write_bytes(end.join([*lines, ""]).encode(encoding))
        return read_study(tmp_path / "study.csv", MARKERS)

    return write


def ids(study: Study) -> list[str]:
    return [section.id for section in study.sections]


# What a table holds


def test_reads_sections_in_order(table: Table, tmp_path: Path) -> None:
    study = table(
        "patient,group,marker,slide,section,mpp,kind,block,annotations,batch,control",
        "P2,B,CD19,b.svs,,,,,,,",
        "P1,A,CD19,a.svs,upper,0.25,Slide,B7,out.geojson,lot 3,Positive",
    )
    assert study.sections[0] == Section(
        id="P1-CD19-upper",
        patient="P1",
        group="A",
        marker="CD19",
        batch="lot 3",
        control="positive",
        block="B7",
        sources=(Source(tmp_path / "a.svs", 3, 0.25, "slide", tmp_path / "out.geojson"),),
    )
    assert study.sections[1].sources == (Source(tmp_path / "b.svs", 2),)
    assert ids(study) == ["P1-CD19-upper", "P2-CD19"]
    assert not any(section.problem for section in study.sections)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_reads_any_spreadsheets_csv(table: Table, encoding: str, delimiter: str, end: str) -> None:
    lines = ["patient,group,marker,slide,备注", "张三,难治,CD19,a.svs,活检"]
    study = table(*(line.replace(",", delimiter) for line in lines), encoding=encoding, end=end)
    assert (study.encoding, study.delimiter) == (encoding, delimiter)
    assert (study.sections[0].id, study.sections[0].group) == ("张三-CD19", "难治")
    assert study.sections[0].extra == {"备注": "活检"}
    assert study.sections[0].folder == "张三-CD19"


def test_the_header_may_be_written_loosely_and_blank_lines_left(table: Table) -> None:
    study = table(" Patient , GROUP,marker,Slide,", "P1, A ,CD19, a.svs,", "", " , ,,,", "P2,A,CD19,b.svs")
    assert [(s.patient, s.group, s.sources[0].row) for s in study.sections] == [
        ("P1", "A", 2),
        ("P2", "A", 5),
    ]
    assert study.extra_columns == ()


def test_quoted_cells_may_hold_the_delimiter(table: Table, tmp_path: Path) -> None:
    (tmp_path / "a, left.svs").touch()
    study = table(HEADER, 'P1,"A, early",CD19,"a, left.svs"')
    assert (study.sections[0].group, study.sections[0].problem) == ("A, early", "")


def test_unknown_columns_are_kept(table: Table) -> None:
    study = table(
        f"{HEADER},Age,section", "P1,A,CD19,1.png,040,x", "P1,A,CD19,2.png,041,x", "P2,A,CD19,a.svs"
    )
    assert study.extra_columns == ("Age",)
    assert [section.extra for section in study.sections] == [{"Age": "040; 041"}, {"Age": ""}]


def test_names_are_composed_and_paths_stay_as_the_disk_has_them(table: Table, tmp_path: Path) -> None:
    apart, composed = "Ame\u0301lie", "Am\u00e9lie"
    (tmp_path / f"{apart}.svs").touch()
    study = table(HEADER, f"{apart},A,CD19,{apart}.svs", f"{composed},A,BAFF,a.svs")
    assert {section.patient for section in study.sections} == {composed}
    assert study.sections[1].sources[0].path.name == f"{apart}.svs"
    assert not study.sections[1].problem


def test_sections_without_a_name_are_numbered(table: Table) -> None:
    study = table(HEADER, "P1,A,CD19,b.svs", "P1,A,CD19,a.svs", "P1,A,BAFF,a.svs", "P2,A,CD19,c.svs")
    assert ids(study) == ["P1-BAFF", "P1-CD19-1", "P1-CD19-2", "P2-CD19"]
    assert [section.sources[0].path.name for section in study.sections[1:3]] == ["a.svs", "b.svs"]


def test_named_and_numbered_sections_live_together(table: Table) -> None:
    study = table(f"{HEADER},section", "P1,A,CD19,a.svs,x", "P1,A,CD19,b.svs,")
    assert ids(study) == ["P1-CD19", "P1-CD19-x"]


def test_field_images_share_a_section(table: Table, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    study = table(
        f"{HEADER},section,kind",
        "P1,A,CD19,more,x,",
        "P1,A,CD19,a.svs,x,Field",
        "P1,A,CD19,1.png,x,",
        "P1,A,CD19,2.png,y,",
    )
    assert ids(study) == ["P1-CD19-x", "P1-CD19-y"]
    assert [source.path.name for source in study.sections[0].sources] == ["1.png", "a.svs", "more"]


def test_a_tiff_is_a_field_or_a_slide_by_what_is_in_it(table: Table, tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "flat.tif", pixels)
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif") as tiff:
        tiff.write(pixels, subifds=1, tile=(16, 16), photometric="rgb")
        tiff.write(pixels[::2, ::2], subfiletype=1, tile=(16, 16), photometric="rgb")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 and no more")
    names = ("flat.tif", "damaged.tif", "missing.tif")
    study = table(f"{HEADER},section", *(f"P1,A,CD19,{name},x" for name in names))
    assert len(study.sections[0].sources) == 3
    assert study.sections[0].problem == "row 4, column slide: missing.tif does not exist; check the path"
    with pytest.raises(
        StudyError, match=r"row 3, column slide: section P1-CD19-x has several rows, and this"
    ):
        table(f"{HEADER},section", "P1,A,CD19,flat.tif,x", "P1,A,CD19,pyramid.ome.tif,x")


def test_a_group_given_once_holds_for_the_patient(table: Table) -> None:
    study = table(HEADER, "P1,,CD19,a.svs", "P1,A,BAFF,a.svs", "P2,,CD19,b.svs")
    assert [section.group for section in study.sections] == ["A", "A", ""]


ROWS = (
    "P1,A,CD19,b.svs,,",
    "P1,A,CD19,a.svs,,",
    "P1,A,CD19,c.svs,,",
    "P1,A,BAFF,2.png,x,later",
    "P1,A,BAFF,1.png,x,first",
    "P2,,CD19,a.svs,,",
    "P2,B,BAFF-R,b.svs,,",
)


def describe_rows(rows: Sequence[str]) -> list[tuple[object, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.csv"
        path.write_text("\n".join([f"{HEADER},section,note", *rows]), encoding="utf-8")
        sections = read_study(path, MARKERS).sections
    return [(s.id, s.group, [one.path.name for one in s.sources], dict(s.extra)) for s in sections]


@settings(max_examples=50, deadline=None)
@given(st.permutations(ROWS))
def test_ids_do_not_depend_on_the_tables_order(rows: list[str]) -> None:
    assert describe_rows(rows) == describe_rows(ROWS)


# What stops a study before it begins


def test_no_table_to_read(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path / "absent.csv", "does not exist; check the path"),
        (tmp_path, "is a folder; give the study table"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ]:
        with pytest.raises(StudyError) as caught:
            read_study(path, MARKERS)
        assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty; give a table with the columns patient, group, marker, slide"),
        (b" \n \r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"\xff\xfe\x00\xd8", "is neither UTF-8 nor GB18030 text"),
        (("\ufeff" + HEADER).encode("utf-16-le"), "is neither UTF-8 nor GB18030 text"),
        (b"\xef\xbb\xbfpatient\xff", "is neither UTF-8 nor GB18030 text"),
        (f"{HEADER}\nP1,A,CD19,a\0.svs".encode(), "is neither UTF-8 nor GB18030 text"),
        (HEADER.encode(), "has no rows below its header"),
        (f"{HEADER}\n,,,\n".encode(), "has no rows below its header"),
        (f"{HEADER}\nP1,A,CD19,{'x' * 200_000}".encode(), "is not a CSV table"),
    ],
)
def test_no_table_in_the_file(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "study.csv"
    path.write_bytes(data)
    with pytest.raises(StudyError) as caught:
        read_study(path, MARKERS)
    assert str(caught.value).startswith(f"{path}: {said}")


NAMED = f"{HEADER},section"


@pytest.mark.parametrize(
    ("lines", "where", "said"),
    [
        (["patient,marker", "P1,CD19"], "row 1", "has no column group, slide; add it; the header has"),
        (["", HEADER, "P1,A,CD19,a.svs"], "row 1", "has no column patient, group, marker, slide"),
        ([f"{HEADER},Patient", "P1,A,CD19,a.svs,P1"], "row 1", "has the column patient twice"),
        ([f"{HEADER},age,age", "P1,A,CD19,a.svs,1,2"], "row 1", "has the column age twice"),
        ([HEADER, "P1,A,CD19,a.svs,left"], "row 2", "has 5 cells for 4 columns; quote cells"),
        ([HEADER, ",A,CD19,a.svs"], "row 2, column patient", "is empty"),
        ([HEADER, "P1,A,,a.svs"], "row 2, column marker", "is empty"),
        ([HEADER, "P1,A,CD19"], "row 2, column slide", "is empty"),
        ([HEADER, "P1,A,CD19,a.svs", "P1,A,CD19 , a.svs"], "row 3", "repeats row 2; remove one"),
        ([HEADER, "P1,A,CD19,a.svs", "P2,A,CD19,b.svs", "P1,B,BAFF,c.svs"], "row 4, column group",
         "patient P1 is in group B here and in A in row 2; give each patient one group"),
        ([f"{HEADER},note", "P1,A,CD19,a.svs,1", "P1,A,CD19,a.svs,2"], "row 3",
         "has the same section ID P1-CD19-1 as row 2; name the section"),
        ([HEADER, "P-1,A,CD19,a.svs", "P,A,1-CD19,a.svs"], "row 3", "has the same section ID P-1-CD19"),
        ([NAMED, "P1,A,CD19,a.svs,1", "P1,A,CD19,b.svs,", "P1,A,CD19,c.svs,"], "row 3",
         "has the same section ID P1-CD19-1 as row 2"),
        ([NAMED, "P1,A,CD19,b.svs,", "P1,A,CD19,c.svs,", "P1,A,CD19,a.svs,2"], "row 4",
         "has the same section ID P1-CD19-2 as row 3"),
        ([NAMED, "P1,A,CD19,1.png,x", "P1,A,CD19,a.svs,x"], "row 3, column slide",
         "section P1-CD19-x has several rows, and this one is a whole slide"),
        ([f"{NAMED},kind", "P1,A,CD19,1.png,x,", "P1,A,CD19,2.png,x,Slide"], "row 3, column slide",
         "section P1-CD19-x has several rows, and this one is a whole slide"),
        ([f"{NAMED},note", "P1,A,CD19,1.png,x,1", "P1,A,CD19,1.png,x,2"], "row 3, column slide",
         "names the same image of section P1-CD19-x as row 2"),
        ([f"{NAMED},batch", "P1,A,CD19,1.png,x,1", "P1,A,CD19,2.png,x,2"], "row 3, column batch",
         "differs from row 2 of the same section; make them equal"),
        ([HEADER, "p1,A,CD19,a.svs", "P1,A,CD19,b.svs"], "row 3",
         "sections p1-CD19 and P1-CD19 would share a folder"),
        # Two spellings would be two patients, or two groups.
        ([HEADER, "P1,A,CD19,a.svs", "p1,A,BAFF,b.svs"], "row 3, column patient",
         "p1 and P1 of row 2 differ only in upper and lower case, spaces or width"),
        ([HEADER, "P１,A,CD19,a.svs", "P1,A,BAFF,b.svs"], "row 3, column patient", "P1 and P１ of row 2"),
        ([HEADER, "P1,not refractory,CD19,a.svs", "P2,Not\u00a0refractory,CD19,b.svs"], "row 3, column group",
         "Not\u00a0refractory and not refractory of row 2 differ only"),
    ],
)  # fmt: skip
def test_a_contradictory_table(table: Table, tmp_path: Path, lines: list[str], where: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        table(*lines)
    assert str(caught.value).startswith(f"{tmp_path / 'study.csv'}, {where}: {said}")
    assert caught.value.fix


# What fails one section only


@pytest.mark.parametrize(
    ("columns", "cells", "problem"),
    [
        ("", "CD19,gone.svs", "column slide: gone.svs does not exist; check the path"),
        ("", f"CD19,{'x' * 300}.svs", f"column slide: {'x' * 300}.svs does not exist; check the path"),
        ("", "CD20,a.svs", "column marker: unknown marker CD20; add [markers.CD20] to the protocol, "
         "which knows BAFF, BAFF-R, CD19"),
        ("", "CD 20,a.svs", 'column marker: unknown marker CD 20; add [markers."CD 20"] to the protocol, '
         "which knows BAFF, BAFF-R, CD19"),
        (",annotations", "CD19,a.svs,no.json", "column annotations: no.json does not exist; check the path"),
        (",kind", "CD19,a.svs,photo", "column kind: photo is not slide or field"),
        (",control", "CD19,a.svs,maybe", "column control: maybe is not positive, negative or empty"),
        (",mpp", "CD19,a.svs,0", "column mpp: 0 um/px is implausible; a microscope's pixel is 0.1 to 1.1 um"),
        (",mpp", "CD19,a.svs,-0.25", "column mpp: -0.25 um/px is implausible; a microscope's pixel is 0.1 to "
         "1.1 um"),
        (",mpp", "CD19,a.svs,352.8", "column mpp: 352.8 um/px is implausible; a microscope's pixel is 0.1 to "
         "1.1 um"),
        (",mpp", "CD19,a.svs,nan", "column mpp: nan um/px is implausible; a microscope's pixel is 0.1 to "
         "1.1 um"),
        (",mpp", "CD19,a.svs,inf", "column mpp: inf um/px is implausible; a microscope's pixel is 0.1 to "
         "1.1 um"),
        (",mpp", "CD19,a.svs,40x", "column mpp: 40x is not a number of um/px; write it with digits "
         "and a point"),
    ],
)  # fmt: skip
def test_a_bad_row_fails_its_section_only(table: Table, columns: str, cells: str, problem: str) -> None:
    study = table(HEADER + columns, "P1,A,BAFF,b.svs", f"P1,A,{cells}")
    assert [section.problem for section in study.sections] == ["", f"row 3, {problem}"]


def test_one_section_may_have_many_problems(table: Table) -> None:
    study = table(f"{NAMED},mpp", "P1,A,CD20,1.png,x,0", "P1,A,CD20,no.png,x,0.25")
    parts = study.sections[0].problem.split("; ")
    assert [part.split(":")[0] for part in parts if part.startswith("row")] == [
        "row 2, column mpp",
        "row 3, column slide",
        "row 2, column marker",
    ]


@pytest.mark.parametrize("text", ["0.1", "0.25", "1.1", " 5e-1 "])
def test_a_plausible_pixel_size_is_taken(table: Table, text: str) -> None:
    study = table(f"{HEADER},mpp", f"P1,A,CD19,a.svs,{text}")
    assert study.sections[0].sources[0].mpp == float(text)


# Names of folders

names = st.text(max_size=12) | st.text(alphabet="aA.~% /é张", max_size=6) | st.text(min_size=60, max_size=400)


@given(one=names, other=names)
@example("a/b", "a%2Fb")
@example("a.", "a")
@example("nul", "%6Eul")
@example("x" * 300, "x" * 299)
def test_different_names_have_different_folders(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) is (one == other)


@given(st.text(max_size=15))
def test_a_short_name_can_be_read_back(name: str) -> None:
    assert urllib.parse.unquote(encode_name(name)) == name


DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}


@given(names.filter(bool))
@example("..")
@example(".")
@example(" ")
@example("a.")
@example("ab ")
@example("CON")
@example("nul.tar.gz")
@example("aux .txt")
@example("Com¹")
@example("..\\..\\etc")
@example("张" * 200)
@example("." * 300)
@example("a" * 159 + ". ." + "b" * 100)
def test_a_folder_name_is_safe_on_any_system(name: str) -> None:
    folder = encode_name(name)
    assert folder
    assert not set(folder) & set('<>:"/\\|?*')
    assert folder.isprintable()
    assert folder[0] not in ". "
    assert folder[-1] not in ". "
    assert folder.partition(".")[0].rstrip(" ").upper() not in DEVICES
    assert len(folder.encode()) <= 200


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("P1-CD19", "P1-CD19"),
        ("张三-BAFF-R", "张三-BAFF-R"),
        ("Zoë (2), left+right_1", "Zoë (2), left+right_1"),
        ("a/b\\c:d", "a%2Fb%5Cc%3Ad"),
        ("100%", "100%25"),
        ("a.", "a%2E"),
        ("com1.x-CD19", "%63om1.x-CD19"),
    ],
)
def test_names_that_break_no_path_stay(name: str, folder: str) -> None:
    assert encode_name(name) == folder


# Fingerprints


def test_a_fingerprint_follows_the_blocks_read_and_the_size(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    data = bytearray(range(100))
    path.write_bytes(data)
    before = fingerprint_file(path, blocks=3, block_bytes=10)
    assert before == fingerprint_file(path, blocks=3, block_bytes=10)
    for index, seen in [(0, True), (9, True), (20, False), (45, True), (54, True), (70, False), (99, True)]:
        path.write_bytes(data[:index] + b"\xff" + data[index + 1 :])
        assert (fingerprint_file(path, blocks=3, block_bytes=10) != before) is seen
    path.write_bytes(data[:20] + b"\xff" + data[20:])
    assert fingerprint_file(path, blocks=3, block_bytes=10) != before


def test_a_small_file_is_read_whole_and_its_name_does_not_matter(tmp_path: Path) -> None:
    one, other = tmp_path / "a.png", tmp_path / "b.png"
    one.write_bytes(b"x" * 1000)
    other.write_bytes(b"x" * 1000)
    os.utime(other, (0, 0))
    assert fingerprint_file(one) == fingerprint_file(other)
    other.write_bytes(b"x" * 500 + b"y" + b"x" * 499)
    assert fingerprint_file(one) != fingerprint_file(other)


def test_a_folders_fingerprint_does_not_depend_on_how_the_disk_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    for name in ("1.png", "2.png", "张.png"):
        (folder / name).write_text(name, encoding="utf-8")
    before = fingerprint_file(folder)
    files = sorted(folder.iterdir())
    for listed in (files, files[::-1]):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", lambda _, listed=listed: iter(listed))
            assert fingerprint_file(folder) == before


def test_a_folders_fingerprint_follows_its_visible_images(tmp_path: Path) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).write_text(name, encoding="utf-8")
    before = fingerprint_file(folder)
    # What Explorer and people leave in it is not measured.
    for name in (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", "notes.txt"):
        (folder / name).write_text("seen", encoding="utf-8")
    assert fingerprint_file(folder) == before
    (folder / "2.png").rename(folder / "3.png")
    assert fingerprint_file(folder) != before
    (folder / "3.png").rename(folder / "2.png")
    (folder / "2.png").write_text("else", encoding="utf-8")
    assert fingerprint_file(folder) != before


def test_a_mirax_slide_includes_its_companion_folder(tmp_path: Path) -> None:
    slide = tmp_path / "a.mrxs"
    slide.write_bytes(b"index")
    before = fingerprint_file(slide)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixels")
    assert fingerprint_file(slide) != before


def test_a_missing_file_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.svs"):
        fingerprint_file(tmp_path / "gone.svs")
