"""Artefacts: planted ones are found where they are, good tissue stays, and no field is drawn on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from histoquant.annotations import Annotations
from histoquant.control.survey import check_section
from histoquant.errors import FieldsError, SlideError
from histoquant.geometry import Patch
from histoquant.prepare import prepare_section, survey_slide
from histoquant.protocol import ArtefactSettings, Protocol, QcSettings, TissueSettings, validate_protocol
from histoquant.qc.artefacts import find_artefacts, fit_mask, lay_probes, spread_blur
from histoquant.qc.avoid import avoid_artefacts
from histoquant.qc.holes import measure_holes
from histoquant.slide import Slide, open_slide
from histoquant.study import Section, Source
from histoquant.synthetic import RenderSettings, render_section, write_section
from histoquant.synthetic import Section as Rendered
from histoquant.synthetic.artefacts import (
    Planted,
    plant_bubble,
    plant_defocus,
    plant_edge,
    plant_fold,
    plant_holes,
    plant_pen,
)
from histoquant.tissue import find_tissue

Mask = npt.NDArray[np.bool_]
MPP = 1.0
WHITE = (243.0, 241.0, 239.0)
FEW = {"fields": {"count": 3, "width_um": 300}}


@pytest.fixture(scope="module")
def good() -> Rendered:
    return render_section(np.random.default_rng(5), RenderSettings(size_um=(2000, 1800), mpp=MPP))


def shrink(pixels: npt.NDArray[np.uint8], mpp: float) -> Patch:
    small = cv2.resize(pixels, None, fx=MPP / mpp, fy=MPP / mpp, interpolation=cv2.INTER_AREA)
    return Patch(np.asarray(small, np.uint8), 0.0, 0.0, mpp)


def look(pixels: npt.NDArray[np.uint8]) -> dict[str, Mask]:
    """Artefacts found, by kind, in pixels of 1 um."""
    tissue = find_tissue(shrink(pixels, 8.0), TissueSettings())
    found = find_artefacts(shrink(pixels, 5.0), tissue, ArtefactSettings())
    return {kind: fit_mask(mask, pixels.shape) for kind, mask in found}


def find_ground(good: Rendered) -> Mask:
    return fit_mask(find_tissue(shrink(good.pixels, 8.0), TissueSettings()), good.pixels.shape)


def test_good_tissue_is_left_alone(good: Rendered) -> None:
    assert [kind for kind, mask in look(good.pixels).items() if mask.any()] == []


def test_tissue_that_fills_the_slide_has_no_edge(good: Rendered) -> None:
    inner = good.pixels[500:1300, 500:1500]
    found = find_artefacts(shrink(inner, 5.0), np.ones((100, 125), bool), ArtefactSettings())
    assert [one.kind for one in found if one.mask.any()] == []


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("fold", lambda rng, good: plant_fold(rng, good.pixels, MPP, WHITE, 100, 2)),
        ("pen", lambda rng, good: plant_pen(rng, good.pixels, MPP, "blue", 0.5)),
        ("pen", lambda rng, good: plant_pen(rng, good.pixels, MPP, "green", 0.5)),
        ("pen", lambda rng, good: plant_pen(rng, good.pixels, MPP, "red", 0.5)),
        ("pen", lambda rng, good: plant_pen(rng, good.pixels, MPP, "black", 1.2)),
        ("pen", lambda rng, good: plant_pen(rng, good.pixels, MPP, "black", 0.4)),
        ("bubble", lambda rng, good: plant_bubble(rng, good.pixels, MPP, 600, 0.5)),
        ("edge", lambda rng, good: plant_edge(good.pixels, MPP, find_ground(good), 0.25)),
    ],
)
def test_a_planted_artefact_is_found_where_it_is(
    good: Rendered, kind: str, plant: Callable[[np.random.Generator, Rendered], Planted]
) -> None:
    planted = plant(np.random.default_rng(1), good)
    found = look(planted.pixels)
    ground = find_ground(good)
    assert (found[kind] & planted.mask & ground).sum() > 0.75 * (planted.mask & ground).sum()
    near = cv2.dilate(planted.mask.astype(np.uint8), np.ones((121, 121), np.uint8)) > 0
    assert not (found[kind] & ground & ~near).any()


def test_a_dense_infiltrate_is_no_artefact(good: Rendered) -> None:
    """Nuclei side by side over 300 um, brown ones among them: what the study is about."""
    rng = np.random.default_rng(2)
    pixels = good.pixels.copy()
    for x, y in rng.uniform(-150, 150, (1200, 2)) + np.array([1000, 900]):
        color = (120, 95, 160) if rng.random() < 0.5 else (140, 95, 70)
        cv2.circle(pixels, (int(x), int(y)), 3, color, -1)
    found = look(pixels)
    assert [kind for kind, mask in found.items() if mask[800:1000, 900:1100].any()] == []


def test_bare_glass_has_no_artefacts() -> None:
    glass = Patch(np.full((60, 60, 3), 240, np.uint8), 0.0, 0.0, 5.0)
    assert find_artefacts(glass, np.zeros((60, 60), bool), ArtefactSettings()) == ()


def test_blur_reaches_as_far_as_its_square() -> None:
    tissue = np.ones((75, 75), bool)
    places, spacing = lay_probes(tissue, 8.0)
    mask = spread_blur(tissue, 8.0, places, [2.0, 0.7, float("nan"), 0.7], spacing, 1.25)
    assert mask[:37, :37].all() and not mask[40:].any() and not mask[:, 40:].any()
    assert not spread_blur(tissue, 8.0, places, [0.7] * 4, spacing, 1.25).any()


def test_probes_stay_few_on_a_large_section() -> None:
    places, spacing = lay_probes(np.ones((2000, 2000), bool), 8.0)
    assert spacing == 1600.0 and len(places) == 100


def test_holes_are_measured_and_gaps_are_not(good: Rendered) -> None:
    density = -np.log10(good.pixels / np.array(WHITE)).sum(axis=2).astype(np.float32) / np.float32(1.73)
    inside = find_ground(good)
    planted = plant_holes(np.random.default_rng(0), good.pixels, MPP, inside, WHITE, 0.06).pixels
    holed = -np.log10(planted / np.array(WHITE)).sum(axis=2).astype(np.float32) / np.float32(1.73)
    assert measure_holes(density, MPP, inside) < 0.01
    assert 0.04 < measure_holes(holed, MPP, inside) < 0.07
    assert np.isnan(measure_holes(np.zeros((50, 50), np.float32), MPP, np.ones((50, 50), bool)))


@pytest.fixture(scope="module")
def spoilt(good: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with a pen mark across."""
    planted = plant_pen(np.random.default_rng(1), good.pixels, MPP, "green", 0.8)
    path = tmp_path_factory.mktemp("artefacts") / "pen.svs"
    write_section(replace(good, pixels=planted.pixels), path)
    return path


def make_section(path: Path) -> Section:
    return Section("P1-CD19", "P1", "", "CD19", "", "", "", (Source(path, 2, MPP),))


def test_no_field_lies_on_an_artefact_and_the_receipt_says_why(spoilt: Path) -> None:
    protocol = validate_protocol(FEW)
    prepared = prepare_section(make_section(spoilt), protocol, 0)
    (pen,) = prepared.receipt["artefacts"]["found"]
    assert pen["kind"] == "pen" and 0.05 < pen["share"] < 0.5
    assert pen["text"] in prepared.receipt["notes"]
    assert "under pen" in pen["text"] and "(limit 0.1 OD): no field was drawn there." in pen["text"]
    with open_slide(spoilt) as slide:
        overview = slide.overview(8.0)
        mask = avoid_artefacts(slide, find_tissue(overview, protocol.tissue), 8.0, protocol.qc).mask
        feasible = survey_slide(slide, Annotations(None, None, ()), protocol).feasible
    for task in prepared.tasks:
        place = int(task.field.center_y_um / 8), int(task.field.center_x_um / 8)
        assert not mask[place] and feasible[place]


def test_a_user_can_switch_it_off(spoilt: Path) -> None:
    protocol = validate_protocol({**FEW, "qc": {"artefacts": {"avoid": False}}})
    receipt = prepare_section(make_section(spoilt), protocol, 0).receipt
    assert receipt["artefacts"] == {"share": 0.0, "found": []} and receipt["notes"] == []


def test_a_slide_with_artefacts_is_looked_at_or_repeated(spoilt: Path) -> None:
    look_at = check_section(make_section(spoilt), validate_protocol(FEW), 0)
    assert look_at.verdict != "pass" and any("under pen" in reason for reason in look_at.reasons)
    strict = validate_protocol({**FEW, "qc": {"artefacts": {"max_share": 0.01}}})
    repeat = check_section(make_section(spoilt), strict, 0)
    assert repeat.verdict == "repeat"
    assert any(reason.startswith("artefacts cover") for reason in repeat.reasons)


def test_no_room_beside_artefacts_says_so(spoilt: Path) -> None:
    wide = validate_protocol({"fields": {"width_um": 1200}})
    with pytest.raises(FieldsError, match=r"artefacts cover \d+% .*\(pen\).*qc.artefacts.avoid = false"):
        prepare_section(make_section(spoilt), wide, 0)


class Unreadable:
    """A slide that lets no overview be read."""

    def overview(self, mpp: float) -> Patch:
        raise SlideError("is damaged", "a.svs", "scan it again")


def test_a_slide_that_cannot_be_searched_is_drawn_on_as_it_is() -> None:
    slide: Slide = Unreadable()  # type: ignore[assignment]
    avoided = avoid_artefacts(slide, np.ones((9, 9), bool), 8.0, QcSettings())
    assert avoided.notes == ("Artefacts were not looked for: a.svs: is damaged; scan it again",)
    assert not avoided.mask.any() and avoided.share == 0


@pytest.fixture(scope="module")
def sharp() -> Rendered:
    return render_section(np.random.default_rng(6), RenderSettings(size_um=(1500, 1400), mpp=0.5))


@pytest.mark.parametrize("diameter_um", [700.0, 9000.0])
def test_parts_out_of_focus_are_avoided_but_not_a_whole_slide(
    sharp: Rendered, tmp_path: Path, diameter_um: float
) -> None:
    planted = plant_defocus(np.random.default_rng(3), sharp.pixels, 0.5, 2.5, diameter_um)
    path = tmp_path / "blur.svs"
    write_section(replace(sharp, pixels=planted.pixels), path)
    with open_slide(path) as slide:
        overview = slide.overview(8.0)
        tissue = find_tissue(overview, TissueSettings())
        avoided = avoid_artefacts(slide, tissue, 8.0, Protocol().qc)
    if diameter_um < 1000:
        truth = fit_mask(planted.mask, tissue.shape) & tissue
        assert (avoided.mask & truth).sum() > 0.6 * truth.sum()
        assert [one["kind"] for one in avoided.found] == ["blur"]
    else:
        assert not avoided.mask.any()
        assert avoided.notes == ("100% of the tissue is out of focus: focus and scan again.",)
