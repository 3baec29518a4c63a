"""Scenes to cut tiles from: rendered sections of all kinds, and photographs with other stains."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops

from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    render_section,
)

Labels = npt.NDArray[np.int32]
REAL_MPP = 0.4
"""Nominal pixel size of the photographs."""


@dataclass(frozen=True)
class Scene:
    """Pixels with known fibers.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    mpp : float
        Pixel size of `pixels`, um/px.
    labels : ndarray of int32
        Fibers, 0 = none, -1 = uncertain.
    labels_mpp : float
        Pixel size of `labels`, um/px.
    """

    pixels: npt.NDArray[np.uint8]
    mpp: float
    labels: Labels
    labels_mpp: float


def render_scenes(rng: np.random.Generator, number: int, size_um: float) -> Iterator[Scene]:
    """Render sections over the whole range of morphology and staining."""
    for child in rng.spawn(number):
        section = render_section(child, draw_settings(child, size_um))
        yield Scene(section.pixels, section.mpp, section.labels, section.labels_mpp)


def draw_settings(rng: np.random.Generator, size_um: float) -> RenderSettings:
    """Draw the settings of one rendered section."""
    fiber_um = float(np.exp(rng.uniform(np.log(22), np.log(120))))
    layout = LayoutSettings(
        fiber_um=fiber_um,
        fiber_spread=rng.uniform(0.1, 0.45),
        roundness=rng.uniform(0.1, 0.75),
        waviness_um=rng.uniform(0.5, 3.0),
        endomysium_um=min(float(np.exp(rng.uniform(np.log(0.9), np.log(10)))), fiber_um / 5),
        fascicle_um=rng.uniform(200, 1200),
        perimysium_um=float(np.exp(rng.uniform(np.log(6), np.log(90)))),
        rim_um=rng.choice([5.0, 60.0], p=[0.8, 0.2]),
        tears=int(rng.integers(0, 3)),
        vessels_per_mm2=rng.uniform(0, 15),
        atrophic=rng.uniform(0, 0.3),
        necrotic=rng.uniform(0, 0.08),
        regenerating=rng.uniform(0, 0.15),
        central_nuclei=rng.uniform(0, 0.8),
        foci_per_mm2=rng.uniform(0, 6),
    )
    cells = CellsSettings(
        positive_cells_per_fiber=rng.uniform(0, 1.5),
        lymphocytes_per_fiber=rng.uniform(0, 2),
        myonuclei_per_mm=rng.uniform(4, 18),
        endomysial_per_mm=rng.uniform(2, 12),
        compartment=str(rng.choice(["membrane", "membrane", "cell", "nucleus"])),
    )
    return RenderSettings(
        size_um=(size_um, size_um), mpp=0.5, layout=layout, cells=cells, staining=_draw_staining(rng)
    )


def _draw_staining(rng: np.random.Generator) -> StainingSettings:
    return StainingSettings(
        nucleus_od=rng.uniform(0.3, 1.0),
        fiber_od=rng.uniform(0.03, 0.2),
        background_od=rng.uniform(0.0, 0.15),
        unevenness=rng.uniform(0, 0.5),
        endomysium=str(rng.choice(["pale", "similar", "hue", "dark"], p=[0.4, 0.25, 0.15, 0.2])),
        positive_fibers=rng.uniform(0, 0.05),
        texture=rng.uniform(0.02, 0.2),
        blur_um=rng.uniform(0.2, 0.8),
        noise=rng.uniform(0.5, 3),
    )


def restain_scenes(
    rng: np.random.Generator, folder: Path, tool: Path, names: list[str], number: int
) -> Iterator[Scene]:
    """Stain photographs anew, plainly and with faults, in more ways than the tool itself does."""
    restain = _load_tool(tool)
    sources = {name: restain.Source(folder, name, REAL_MPP) for name in names}
    truths = {name: _read_truth(source.fibers, source.ignore) for name, source in sources.items()}
    for i, child in enumerate(rng.spawn(number)):
        name = names[i % len(names)]
        source = sources[name]
        eosin = float(np.exp(child.uniform(np.log(0.05), np.log(0.6))))
        stain = (eosin, child.uniform(0.5, 1.0), child.uniform(0.1, 0.4))
        pixels, _ = restain.restain(source, child, child.uniform(0, 0.6), stain, bool(child.random() < 0.4))
        yield Scene(pixels, REAL_MPP, truths[name], REAL_MPP)


def _read_truth(fibers: Labels, ignore: npt.NDArray[np.bool_]) -> Labels:
    """Connected fibers without holes; -1 where uncertain."""
    labels = label(fibers, connectivity=1).astype(np.int32)
    for fiber in regionprops(labels):
        place = labels[fiber.slice]
        place[fiber.image_filled & (place == 0)] = fiber.label
    labels[ignore] = -1
    return labels


def _load_tool(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("restain", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
