"""Settings of a rendered section: every size in micrometres, every stain as optical density."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from histoquant.protocol import Positive, Settings, Share, Vector

Density = Annotated[float, Field(ge=0, le=3)]
Count = Annotated[int, Field(ge=0)]
Length = Annotated[float, Field(ge=200, le=30_000)]
Amount = Annotated[float, Field(ge=0)]
Span = tuple[Density, Density]


class LayoutSettings(Settings):
    """Where fascicles, fibers and vessels are."""

    fiber_um: Annotated[float, Field(ge=10, le=200)] = 55.0
    """Mean diameter of a fiber with its share of endomysium."""
    fiber_spread: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation of the logarithm of the diameter."""
    roundness: Share = 0.35
    """Rounding of corners, as a share of the fiber's radius; 0 is polygonal."""
    waviness_um: Amount = 1.5
    """Amplitude of the bending of fiber outlines."""
    endomysium_um: Annotated[float, Field(ge=0.5, le=30)] = 2.6
    """Mean width of the gap between neighbouring fibers."""
    stretch: Annotated[float, Field(ge=1, le=20)] = 1.0
    """Length of a fiber by its width, along the rows, as a cut aslant shows it; 1 is cut across."""
    fascicle_um: Annotated[float, Field(ge=100, le=5000)] = 600.0
    """Mean diameter of a fascicle."""
    perimysium_um: Annotated[float, Field(ge=2, le=300)] = 28.0
    """Mean width of the gap between fascicles."""
    rim_um: Amount = 100.0
    """Glass around the tissue."""
    tears: Count = 0
    """Slits of bare glass in the tissue."""
    vessels_per_mm2: Amount = 3.0
    """Arterioles and venules in the perimysium."""
    atrophic: Share = 0.06
    """Share of small angular fibers."""
    necrotic: Share = 0.03
    """Share of pale, moth-eaten, invaded fibers."""
    regenerating: Share = 0.03
    """Share of basophilic fibers with central nuclei."""
    central_nuclei: Share = 0.03
    """Share of other fibers with a central nucleus."""
    foci_per_mm2: Amount = 2.0
    """Focal infiltrates, in which lymphocytes gather and the endomysium is wide."""
    focus_um: Positive = 90.0
    """Standard deviation of a focal infiltrate's density."""


class CellsSettings(Settings):
    """Nuclei and positive cells."""

    positive_cells_per_fiber: Amount = 0.3
    """Planted value: expected positive cells with a nucleus per fiber of the whole section."""
    lymphocytes_per_fiber: Amount = 0.4
    """Negative lymphocytes per fiber."""
    focal: Share = 0.6
    """Share of lymphocytes that gather in foci, and around vessels."""
    touching: Share = 0.45
    """Share of lymphocytes that lie against another."""
    myonuclei_per_mm: Amount = 14.0
    """Nuclei per millimetre of fiber outline, inside the fiber."""
    endomysial_per_mm: Amount = 8.0
    """Flat nuclei of capillaries and fibroblasts per millimetre of fiber outline."""
    without_nucleus: Share = 0.06
    """Rings whose nucleus lies outside the plane, per positive cell."""
    compartment: Literal["nucleus", "membrane", "cytoplasm", "cell"] = "membrane"
    """Part of the cell that holds DAB."""
    ring_od: Span = (0.35, 1.0)
    """Weakest and strongest DAB of a positive cell, at its peak."""
    ring_um: Positive = 0.8
    """Half width of a DAB ring."""
    unevenness: Share = 0.35
    """Change of DAB along a ring; 1 leaves gaps."""
    faint: Share = 0.04
    """Share of negative lymphocytes with a trace of DAB."""
    faint_od: Density = 0.08
    """Most DAB of a trace."""


class StainingSettings(Settings):
    """Stain, light and focus of one slide."""

    haematoxylin_vector: Vector = (0.651, 0.701, 0.290)
    """Optical density of haematoxylin in red, green and blue."""
    dab_vector: Vector = (0.269, 0.568, 0.778)
    """Optical density of DAB in red, green and blue."""
    white: Vector = (243.0, 241.0, 239.0)
    """Intensity of bare glass."""
    nucleus_od: Density = 0.65
    """Haematoxylin of a typical nucleus."""
    fiber_od: Density = 0.085
    """Haematoxylin of a typical fiber."""
    background_od: Density = 0.04
    """DAB of the tissue that is no signal."""
    unevenness: Share = 0.25
    """Change of the background over the slide."""
    endomysium: Literal["pale", "similar", "hue", "dark"] = "pale"
    """Endomysium against fibers: paler, nearly alike, another hue only, or darker."""
    positive_fibers: Share = 0.01
    """Share of fibers that hold DAB, necrotic and regenerating ones first."""
    positive_fiber_od: Span = (0.15, 0.4)
    """Weakest and strongest DAB of such a fiber."""
    precipitate_per_mm2: Amount = 3.0
    """Specks of DAB precipitate."""
    texture: Share = 0.08
    """Granularity of fibers, relative."""
    chromatin: Share = 0.3
    """Mottling of nuclei, relative."""
    hazy: Share = 0.2
    """Share of nuclei that are not in the plane of focus."""
    blur_um: Amount = 0.45
    """Standard deviation of the point spread."""
    defocus_um: Amount = 0.0
    """Additional blur where the slide is most out of focus."""
    noise: Amount = 1.5
    """Standard deviation of intensity."""


class RenderSettings(Settings):
    """A section to render."""

    size_um: tuple[Length, Length] = (2400.0, 2400.0)
    """Width and height of the slide."""
    mpp: Annotated[float, Field(ge=0.1, le=2)] = 0.5
    """Pixel size, um/px."""
    layout: LayoutSettings = LayoutSettings()
    cells: CellsSettings = CellsSettings()
    staining: StainingSettings = StainingSettings()

    @model_validator(mode="after")
    def _room(self) -> Self:
        """Some tissue must be left inside the rim."""
        if min(self.size_um) < 2 * self.layout.rim_um + 100:
            raise ValueError("size_um must exceed twice rim_um by 100 um")
        return self
