import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histoquant.cells import find_cells
from histoquant.errors import ProtocolError
from histoquant.geometry import Patch
from histoquant.measure import measure_cells
from histoquant.protocol import CellSettings, MarkerSettings, Protocol, QupathSettings, load_protocol
from histoquant.qupath import find_nuclei_by_laplacian
from histoquant.stains import Stains, separate_stains, sum_density

ROOT = Path(__file__).parents[1]
MPP = 0.5
PLAIN = QupathSettings(background_um=0, sigma_um=1.5, threshold_od=0.2)


def make_stains(discs, ground=0.0, shape=(100, 100), dab=0.0):
    """Haematoxylin discs (row, column, radius in px, density) on even ground; DAB in all of them."""
    row, column = np.indices(shape)
    blue = np.full(shape, ground, np.float32)
    brown = np.zeros(shape, np.float32)
    for r, c, radius, od in discs:
        inside = np.hypot(row - r, column - c) <= radius
        blue[inside] = od
        brown[inside] = dab
    return Stains(blue, brown, np.zeros(shape, np.float32), 0.0, 0.0, MPP)


def count(stains, settings=PLAIN):
    return int(find_nuclei_by_laplacian(stains, settings).max())


def test_a_nucleus_is_found_where_it_is():
    labels = find_nuclei_by_laplacian(make_stains([(50, 40, 7, 0.5)]), PLAIN)
    assert labels.dtype == np.int32
    assert labels.max() == 1
    assert np.argwhere(labels).mean(axis=0) == pytest.approx([50, 40], abs=0.5)
    assert 0.6 < (labels > 0).sum() / (np.pi * 49) < 1.2


def test_the_mean_density_decides():
    # Summed over red, green and blue, 0.1 of haematoxylin is 0.164.
    pale = make_stains([(50, 40, 7, 0.1)])
    assert count(pale) == 0
    assert count(pale, PLAIN.model_copy(update={"threshold_od": 0.05})) == 1


def test_two_that_touch_are_split_by_shape():
    pair = make_stains([(50, 40, 8, 0.5), (50, 52, 8, 0.5)])
    assert count(pair) == 2
    assert count(pair, PLAIN.model_copy(update={"split_by_shape": False})) == 1


@pytest.mark.parametrize(("low", "high", "found"), [(10, 400, 1), (60, 400, 0), (1, 10, 0)])
def test_areas_out_of_bounds_are_left_out(low, high, found):
    stains = make_stains([(50, 50, 7, 0.5)])  # 38 um2
    assert count(stains, PLAIN.model_copy(update={"min_area_um2": low, "max_area_um2": high})) == found


def test_dark_ground_passes_only_if_it_is_taken_off():
    """A bump on dark ground has a mean far above the threshold, and less than it above its ground."""
    stains = make_stains([(50, 50, 7, 0.45)], ground=0.4)
    assert count(stains) == 1
    assert count(stains, PLAIN.model_copy(update={"background_um": 8.0})) == 0
    strong = make_stains([(50, 50, 7, 0.8)], ground=0.4)
    lifted = PLAIN.model_copy(update={"background_um": 8.0})
    assert count(strong, lifted) == 1
    assert count(strong, lifted.model_copy(update={"max_background_od": 0.5})) == 0


def test_the_median_takes_specks_away():
    stains = make_stains([(50, 50, 1, 3.0)])
    small = PLAIN.model_copy(update={"min_area_um2": 1.0, "threshold_od": 0.05})
    assert count(stains, small) == 1
    assert count(stains, small.model_copy(update={"median_um": 1.5})) == 0


def test_nothing_on_glass_and_nothing_is_changed():
    stains = make_stains([])
    assert count(stains) == 0
    blue = stains.haematoxylin.copy()
    find_nuclei_by_laplacian(stains, PLAIN)
    np.testing.assert_array_equal(blue, stains.haematoxylin)


def test_the_density_sum_comes_back_from_the_stains():
    pixels = np.array([[[200, 150, 100], [30, 60, 255]]], np.uint8)
    vectors = ((0.7, 0.6, 0.4), (0.2, 0.5, 0.8))
    stains = separate_stains(Patch(pixels, 0, 0, MPP), (255, 255, 255), vectors)
    np.testing.assert_allclose(sum_density(stains), np.log10(255 / pixels).sum(axis=2), atol=1e-5)


@pytest.mark.parametrize(("compartment", "dab"), [("nucleus", 0.3), ("cell", 0.1), ("membrane", 0.0)])
def test_dab_is_the_plain_mean_of_the_compartment(compartment, dab):
    stains = make_stains([(50, 50, 7, 0.5)])
    settings = CellSettings(method="qupath", growth_um=3.0, qupath=PLAIN)
    labels = find_cells(stains, settings, compartment)
    nucleus = find_nuclei_by_laplacian(stains, PLAIN) > 0
    assert labels.max() == 1
    assert (labels > 0).sum() > 2 * nucleus.sum()
    stained = replace(stains, dab=np.where(nucleus, np.float32(0.3), np.float32(0.0)))
    marker = MarkerSettings(compartment=compartment, threshold_od=0.2)
    row = measure_cells(labels, np.zeros_like(labels), stained, marker, settings).iloc[0]
    assert row["dab_od"] == pytest.approx(dab, abs=0.04)
    assert bool(row["positive"]) == (dab > 0.2)
    assert bool(row["nucleus"])


def test_the_preset_goes_by_its_name(tmp_path, monkeypatch):
    protocol = load_protocol(Path("qupath"))
    assert protocol.cells.method == "qupath"
    assert protocol.cells.growth_um == 5.0
    assert protocol.stain.white == (255, 255, 255)
    assert protocol.markers["Ki67"].compartment == "nucleus"
    assert Protocol().cells.method == "histoquant"
    monkeypatch.chdir(tmp_path)
    Path("qupath").write_text("working_mpp = 0.4", encoding="utf-8")
    assert load_protocol(Path("qupath")).working_mpp == 0.4


def test_a_preset_that_does_not_exist_is_a_missing_file():
    with pytest.raises(ProtocolError, match="cannot be read"):
        load_protocol(Path("cellprofiler"))


def test_a_wrong_key_of_the_method_is_named():
    with pytest.raises(ProtocolError, match=r"cells\.qupath\.sigma"):
        from histoquant.protocol import validate_protocol

        validate_protocol({"cells": {"qupath": {"sigma": 2}}})


@pytest.mark.skipif(not (ROOT.parent / "shared/data/ihc/os2").is_dir(), reason="the images are not here")
def test_counts_beside_qupaths_own(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("counts", ROOT / "benchmarks" / "qupath_counts.py")
    counts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counts)
    stains = counts.read_stains(counts.IMAGES / "OS-2-vsi.ome.tif")
    dab = counts.count_cells(stains, 0.4)["dab_od"]
    assert len(dab) == pytest.approx(763, rel=0.05)
    assert (dab > 0.2).mean() == pytest.approx(0.2398, abs=0.02)
