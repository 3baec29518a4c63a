from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.blot.analyse import analyse_blots, compare_samples, normalise_bands, write_blots
from histoquant.blot.measure import BlotSettings, Lane, find_lanes, measure_bands, measure_density
from histoquant.blot.read import read_blot, read_lanes, read_wedge
from histoquant.blot.render import BlotRendering, render_blot, render_wedge
from histoquant.blot.wedge import Wedge, apply_wedge, fit_wedge
from histoquant.errors import HistoquantError, ResultsError, SlideError, StudyError
from histoquant.results import open_run

PEAKS = [0.3, 0.6, 0.9, 0.4, 0.8]
HEADER = "image,protein,lane,sample,group,left_px,right_px,top_px,bottom_px\n"


def render(peaks=PEAKS, seed=0, **faults):
    return render_blot(np.random.default_rng(seed), peaks, BlotRendering(**faults))


def measure(blot, **settings):
    chosen = BlotSettings(**settings)
    lanes = find_lanes(measure_density(blot.image, chosen.bright))
    return lanes, measure_bands(blot.image, lanes, chosen)


def make_block(height=20.0, rows=(40, 60), columns=(20, 60), shape=(100, 80), ground=100.0):
    """A rectangle of `height` brighter than even ground."""
    image = np.full(shape, ground, np.float32)
    image[rows[0] : rows[1], columns[0] : columns[1]] += height
    return image.astype(np.uint8)


@pytest.mark.parametrize(
    "faults",
    [{}, {"tilt_deg": 3.0}, {"smile_px": 20.0}, {"noise": 0.03}, {"gradient_od": 0.2}, {"bulge_od": 0.03}],
    ids=str,
)
def test_known_volumes_come_back(faults):
    blot = render(**faults)
    lanes, bands = measure(blot)
    assert [(lane.left + lane.right) / 2 for lane in lanes] == pytest.approx(list(blot.centers_px), abs=15)
    assert [band["volume"] for band in bands] == pytest.approx(list(blot.volumes), rel=0.05)
    assert not any(band["saturated"] for band in bands)


def test_a_rolling_ball_gives_about_the_same():
    blot = render()
    assert [b["volume"] for b in measure(blot, background="rolling")[1]] == pytest.approx(
        list(blot.volumes), rel=0.08
    )


def test_a_rectangle_by_hand():
    """20 x 40 px, 20 of 255 brighter than the ground: the volume is known without any rendering."""
    lane = Lane(0, 80, 35, 65)
    band = measure_bands(make_block(), [lane], BlotSettings(bright=True))[0]
    assert band["volume"] == pytest.approx(20 * 40 * 20 / 255, rel=1e-4)
    assert band["background"] == pytest.approx(100 / 255, rel=1e-4)
    assert (band["top_px"], band["bottom_px"]) == (35, 65)


def _measure_faint(bulge):
    """Box and relative volume of a band of a tenth of full scale, 6.5 rows SD, on a ground that bulges."""
    y = np.arange(160)[:, None]
    band = 0.1 * np.exp(-(((y - 80) / 6.5) ** 2) / 2) * np.ones((1, 60))
    grain = np.random.default_rng(0).normal(0, 0.002, band.shape)
    light = 0.15 + bulge * np.sin(np.pi * y / 160) + band + grain
    found = measure_bands(np.rint(65_535 * light).astype(np.uint16), [Lane(0, 60)], BlotSettings(bright=True))
    return (found[0]["top_px"], found[0]["bottom_px"]), found[0]["volume"] / band.sum()


def test_a_bulging_ground_hardly_widens_the_box_of_a_faint_band():
    """Found once only, the box was 43 to 118 and the volume 12 % too large."""
    box, volume = _measure_faint(0.0)
    bulging, more = _measure_faint(0.05)
    assert bulging == pytest.approx(box, abs=5)
    assert volume == pytest.approx(1, abs=0.01)
    assert more == pytest.approx(1, abs=0.1)


def test_density_is_that_of_light():
    image = np.full((20, 20), 20_000, np.uint16)
    image[5, 5] = 2_000
    assert measure_density(image)[5, 5] == pytest.approx(1.0)
    assert measure_density(image, bright=True)[5, 5] == pytest.approx(2_000 / 65_535)


def test_a_scanner_at_its_end_is_seen():
    blot = render([0.3, 2.6, 0.5])
    clipped = np.maximum(blot.image, 6_000)
    bands = measure_bands(clipped, find_lanes(measure_density(clipped)), BlotSettings())
    assert [band["saturated"] for band in bands] == [False, True, False]
    assert "the true volume is larger" in bands[1]["reason"]
    assert bands[1]["volume"] < blot.volumes[1]


def test_the_box_of_a_clipped_band_is_round_its_middle():
    blot = render([0.3, 0.4, 0.3, 1.0, 0.8, 2.4], scan_od=1.6)
    centers = [(lane.left + lane.right) / 2 for lane in measure(blot)[0]]
    assert centers == pytest.approx(list(blot.centers_px), abs=9)


def test_film_at_its_end_is_seen():
    bands = measure(render([0.3, 2.2, 0.4], film_od=1.2))[1]
    assert [band["saturated"] for band in bands] == [False, True, False]


def test_a_peak_beyond_the_linear_part_of_the_film_is_told():
    bands = measure(render([0.3, 0.9, 0.4]), linear_od=0.7)[1]
    assert [band["nonlinear"] for band in bands] == [False, True, False]
    assert "film is not linear" in bands[1]["reason"]


STEPS_OD = [0.05 + 0.15 * step for step in range(21)]


@pytest.mark.parametrize("seed", range(3))
def test_a_wedge_makes_film_linear(seed):
    """Without it the same bands lack more than a twentieth."""
    faults = {"film_od": 1.2, "noise": 0.02}
    blot = render([0.3, 1.05, 0.5, 1.0, 0.4], seed, **faults)
    wedge = fit_wedge(render_wedge(np.random.default_rng(9), STEPS_OD, BlotRendering(**faults)), STEPS_OD)
    lanes = find_lanes(measure_density(blot.image, wedge=wedge), 5)
    bands = measure_bands(blot.image, lanes, BlotSettings(linear_od=0.5), wedge)
    assert [band["volume"] for band in bands] == pytest.approx(list(blot.volumes), rel=0.05)
    assert not any(band["saturated"] or band["nonlinear"] for band in bands)
    plain = measure_bands(blot.image, lanes, BlotSettings())
    assert plain[1]["volume"] < 0.95 * blot.volumes[1]


def test_a_wedge_undoes_a_scanners_gamma():
    def scan(image):
        return np.rint(65_535 * (np.asarray(image) / 65_535) ** (1 / 2.2)).astype(np.uint16)

    blot, settings = render(), BlotRendering()
    wedge = fit_wedge(scan(render_wedge(np.random.default_rng(9), STEPS_OD, settings)), STEPS_OD)
    image = scan(blot.image)
    lanes = find_lanes(measure_density(image, wedge=wedge))
    bands = measure_bands(image, lanes, BlotSettings(), wedge)
    assert [band["volume"] for band in bands] == pytest.approx(list(blot.volumes), rel=0.05)
    assert measure_bands(image, lanes, BlotSettings())[1]["volume"] < 0.6 * blot.volumes[1]


def test_what_is_darker_than_the_wedge_is_saturated():
    od = [0.05, 0.35, 0.65, 0.95]
    blot = render([0.3, 1.4, 0.5])
    wedge = fit_wedge(render_wedge(np.random.default_rng(9), od, BlotRendering()), od)
    lanes = find_lanes(measure_density(blot.image, wedge=wedge))
    bands = measure_bands(blot.image, lanes, BlotSettings(), wedge)
    assert [band["saturated"] for band in bands] == [False, True, False]
    assert bands[1]["volume"] < blot.volumes[1]
    assert [bands[i]["volume"] for i in (0, 2)] == pytest.approx([blot.volumes[i] for i in (0, 2)], rel=0.05)


def test_a_curve_goes_through_its_steps_and_only_rises():
    wedge = fit_wedge([1000, 400, 450, 100, 30], [0, 0.4, 0.5, 1.0, 1.6])
    assert (np.diff(wedge.darkness) > 0).all()
    density = apply_wedge(np.arange(1, 1200, dtype=np.uint16)[None], wedge)[0]
    assert (np.diff(density) <= 0).all()
    assert density[[999, 99, 29, 4]] == pytest.approx([0.0, 1.0, 1.6, 1.6], abs=1e-6)
    assert density[1199 - 1] < 0, "paler than clear: on the line of the first two steps"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("100,0\n50,1", "has 2 different steps"),
        ("100,0\n100,0\n100,0\n100,0", "has 1 different steps"),
        ("10,0\n50,0.5\n90,1\n100,2", "do not fall with density"),
        ("1000,0\n100,1\n10,2\n9.9,3\n9.8,4", "tells only 3 steps apart"),
        ("0,0\n50,1", "row 2: has 0 as value"),
        ("x,0\n50,1", "row 2: has 'x' as value"),
        ("9,\n50,1", "row 2: has '' as od"),
    ],
)
def test_a_wrong_wedge_is_named(tmp_path, rows, message):
    path = tmp_path / "wedge.csv"
    path.write_text(f"value,od\n{rows}\n", encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_wedge(path)


def test_a_lane_without_a_band_keeps_its_place():
    blot = render([0.5, 0.6, 0.0, 0.5, 0.6])
    lanes, bands = measure(blot)
    assert len(lanes) == 5
    assert "no band to be seen" in bands[2]["reason"]
    assert abs(bands[2]["volume"]) < 0.05 * bands[1]["volume"]


def test_nothing_on_an_empty_strip():
    assert find_lanes(np.zeros((60, 200), np.float32)) == []


def test_the_number_of_lanes_keeps_the_clearest():
    assert len(find_lanes(measure_density(render().image), 3)) == 3


def bands_of(rows):
    return pd.DataFrame(rows, columns=["protein", "lane", "sample", "group", "volume", "saturated"])


def test_normalised_by_lane_then_by_the_controls():
    rows = [
        *(
            ("actin", lane, f"P{lane}", g, v, False)
            for lane, g, v in [(1, "c", 10), (2, "c", 20), (3, "r", 10)]
        ),
        *(
            ("BAFF", lane, f"P{lane}", g, v, False)
            for lane, g, v in [(1, "c", 10), (2, "c", 60), (3, "r", 80)]
        ),
    ]
    samples, notes = normalise_bands(bands_of(rows), "actin", "c")
    assert samples["normalised"].tolist() == [1.0, 3.0, 8.0]
    assert samples["fold"].tolist() == [0.5, 1.5, 4.0]
    assert notes == []


def test_a_saturated_band_enters_nothing():
    rows = [
        ("actin", 1, "P1", "c", 10.0, False),
        ("actin", 2, "P1", "c", 10.0, True),
        ("BAFF", 1, "P1", "c", 5.0, False),
        ("BAFF", 2, "P1", "c", 90.0, False),
    ]
    samples, _ = normalise_bands(bands_of(rows), "actin", "c")
    assert samples["normalised"].tolist() == [0.5]
    assert samples["note"].tolist() == ["1 of 2 lanes left out: saturated or not found, there or in actin"]


def test_what_cannot_be_normalised_is_said():
    rows = [("BAFF", 1, "P1", "r", 5.0, False)]
    assert "loading control actin" in normalise_bands(bands_of(rows), "actin", "c")[1][0]
    with_base = [*rows, ("actin", 1, "P1", "r", 5.0, False)]
    samples, notes = normalise_bands(bands_of(with_base), "actin", "c")
    assert samples["fold"].isna().all()
    assert "no fold" in notes[0]
    twice = [*with_base, ("actin", 1, "P1", "r", 6.0, False)]
    with pytest.raises(StudyError, match="two images for one lane"):
        normalise_bands(bands_of(twice), "actin", "c")


def test_names_that_leave_a_lane_out_are_told():
    base = [("actin", lane, f"P{lane}", "c", 10.0, False) for lane in (1, 2, 3, 4)]
    rows = [
        ("BAFF", 1, "P1", "c", 5.0, False),
        ("BAFF", 2, "", "c", 5.0, False),
        ("BAFF", 3, "P3", "", 5.0, False),
    ]
    samples, notes = normalise_bands(bands_of([*base, *rows]), "actin", "c")
    assert samples["sample"].tolist() == ["P1", "P3"]
    assert [note.partition(":")[0] for note in notes] == [
        "Left out, since they have no sample",
        "Not compared, since they have no group",
        "No sample is of a group other than c",
    ]
    assert "BAFF lane 2" in notes[0] and "P3" in notes[1]
    assert compare_samples(samples, "c").empty
    assert "nothing to normalise" in normalise_bands(bands_of(base), "actin", "c")[1][0]
    both = [*base, ("BAFF", 1, "P1", "c", 5.0, False), ("BAFF", 2, "P1", "r", 5.0, False)]
    with pytest.raises(StudyError, match="groups c and r"):
        normalise_bands(bands_of(both), "actin", "c")


def test_groups_are_compared_over_samples():
    samples = pd.DataFrame(
        {"protein": "BAFF", "group": ["c"] * 3 + ["r"] * 3, "fold": [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]}
    )
    row = compare_samples(samples, "c").iloc[0]
    assert (row["group"], row["group_2"], row["estimate"], row["statistic"]) == ("c", "r", 3.0, 9.0)
    assert row["p_exact"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,protein\na,b", "has no column"),
        (HEADER + "a.tif,BAFF,x,P1,c,,,,", "'x' as lane"),
        (HEADER + "a.tif,,1,P1,c,,,,", "no protein"),
        (HEADER + "a.tif,BAFF,1,P1,c,,,,\na.tif,BAFF,1,P2,c,,,,", "lane 1 of a.tif twice"),
        (HEADER + "a.tif,BAFF,1,P1,c,,,,\na.tif,actin,2,P2,c,,,,", "another protein"),
        (HEADER + "a.tif,BAFF,1,P1,c,3,,,", "part of a place"),
        (HEADER + "a.tif,BAFF,1,P1,c,9,3,,", "without extent"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    path = tmp_path / "lanes.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_lanes(path)


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(SlideError, match="cannot be read"):
        read_blot(tmp_path / "none.tif")
    (tmp_path / "text.png").write_text("no", encoding="utf-8")
    with pytest.raises(SlideError, match="no image"):
        read_blot(tmp_path / "text.png")


@pytest.fixture
def strips(tmp_path):
    """Two strips of six lanes; the second group has twice the BAFF."""
    rows = [HEADER.strip()]
    for name, peaks in (("BAFF", [0.3, 0.3, 0.3, 0.6, 0.6, 0.6]), ("actin", [0.5] * 6)):
        cv2.imwrite(str(tmp_path / f"{name}.tif"), render(peaks, seed=len(name)).image)
        rows += [
            f"{name}.tif,{name},{i},P{i},{'control' if i < 4 else 'refractory'},,,," for i in range(1, 7)
        ]
    (tmp_path / "lanes.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_from_images_to_the_page(strips, monkeypatch):
    monkeypatch.chdir(strips)
    out = strips / "out"
    done = invoke("blot", "BAFF.tif", "actin.tif", "--lanes", "lanes.csv", "--out", out)
    assert done.returncode == 0, done.stderr
    bands = pd.read_csv(out / "bands.csv")
    assert len(bands) == 12
    assert pd.read_csv(out / "samples.csv")["fold"].gt(0).all()
    assert pd.read_csv(out / "comparisons.csv")["group_2"].tolist() == ["refractory"]
    assert "Mann-Whitney" in (out / "blot.html").read_text(encoding="utf-8")
    assert (out / "overlays" / "BAFF.jpg").stat().st_size > 1000
    # What was found comes back as what is given by hand.
    images = [strips / "BAFF.tif", strips / "actin.tif"]
    again = invoke("blot", *images, "--lanes", out / "lanes.csv", "--out", strips / "again")
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_csv(strips / "again" / "bands.csv"), bands)


def test_the_wedge_of_the_help_is_taken(strips):
    lines = [line.strip() for line in invoke("blot", "--help").stdout.splitlines()]
    at = lines.index("value,od")
    (strips / "wedge.csv").write_text("\n".join(lines[at : at + 6]), encoding="utf-8")
    words = ("blot", strips / "BAFF.tif", strips / "actin.tif", "--lanes", strips / "lanes.csv")
    done = invoke(*words, "--out", strips / "out", "--wedge", strips / "wedge.csv")
    assert done.returncode == 0, done.stderr
    assert "5 steps of a wedge, 0.05 to 1.26 OD" in (strips / "out" / "blot.html").read_text(encoding="utf-8")
    both = invoke(*words, "--out", strips / "out", "--wedge", strips / "wedge.csv", "--bright")
    assert both.returncode == 2 and "is for dark bands" in both.stderr


def test_a_wedge_of_other_bits_or_without_clear_film_is_told(strips):
    image = strips / "BAFF.tif"
    dark = Wedge(np.array([-4.0, -3.8, -3.5, -3.2]), np.array([0.8, 1.0, 1.3, 1.6]))
    notes = analyse_blots([image], None, "actin", "control", BlotSettings(), wedge=dark).notes
    assert any("paler than the palest step" in note for note in notes)
    cv2.imwrite(str(strips / "8.png"), (read_blot(image) // 256).astype(np.uint8))
    with pytest.raises(StudyError, match="beyond those of 8"):
        analyse_blots([strips / "8.png"], None, "actin", "control", BlotSettings(), wedge=dark)


def test_too_few_lanes_found_ask_for_places(strips):
    text = (strips / "lanes.csv").read_text(encoding="utf-8")
    (strips / "lanes.csv").write_text(text + "\nBAFF.tif,BAFF,7,P7,refractory,,,,", encoding="utf-8")
    images = [strips / "BAFF.tif", strips / "actin.tif"]
    found = analyse_blots(images, strips / "lanes.csv", "actin", "control", BlotSettings())
    assert "6 lanes found, 7 listed" in found.notes[0]
    assert found.bands["volume"].isna().sum() == 7
    assert found.bands["volume"].notna().sum() == 6


def test_wrong_sets_of_images_are_named(strips):
    image, lanes = strips / "BAFF.tif", strips / "lanes.csv"
    with pytest.raises(StudyError, match="was not given"):
        analyse_blots([image], lanes, "actin", "control", BlotSettings())
    with pytest.raises(StudyError, match="name of two images"):
        analyse_blots([image, image], None, "actin", "control", BlotSettings())
    found = analyse_blots([image], None, "actin", "control", BlotSettings())
    (strips / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResultsError, match="cannot be made"):
        write_blots(strips / "file", found, "")
    with (
        open_run(strips / "held"),
        pytest.raises(ResultsError, match="is in use by another run"),
    ):
        write_blots(strips / "held", found, "")
    assert not (strips / "held" / "bands.csv").exists()


def test_the_command_refuses_what_is_out_of_range(tmp_path):
    from histoquant.cli.blot import blot

    with pytest.raises(HistoquantError, match="no image"):
        blot(out=tmp_path)
    with pytest.raises(HistoquantError, match="out of range"):
        blot(Path("a.tif"), out=tmp_path, ball_px=-1)
