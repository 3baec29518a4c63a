# This module touches files: it opens the slides of registered sections.
"""Serial sections of a block as layers that lie on each other, and landmarks that correct how they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.errors import HistoquantError, RegistrationError
from histoquant.serial.blocks import Block
from histoquant.serial.landmarks import LEAST, Landmarks, fit_landmarks
from histoquant.serial.register import Registration
from histoquant.serial.transform import Transform, make_affine, map_points, unmap_points
from histoquant.slide import open_slide
from napari_histoquant.slides import KEY, UNITS, LayerData, show_slide

SECTION, ON_REFERENCE, ON_SECTION = "serial section", "landmarks on the reference", "landmarks on the section"
Place = tuple[float, float]
Floats = npt.NDArray[np.float64]
_SIZE_UM = 40.0
_COLORS = {ON_REFERENCE: "#f0e442", ON_SECTION: "#56b4e9"}


@dataclass
class Linked:
    """A block on the screen, and the landmarks set so far.

    Attributes
    ----------
    block : Block
        As `histoquant serial` registered it.
    fixed, moving : dict of str to list of (float, float)
        By section: places (x, y) on the reference and on the section, um of each slide.
    """

    block: Block
    fixed: dict[str, list[Place]] = field(default_factory=dict)
    moving: dict[str, list[Place]] = field(default_factory=dict)

    @property
    def others(self) -> tuple[str, ...]:
        """Sections beside the reference."""
        return tuple(one.id for one in self.block.sections if one.id != self.block.reference)

    def count(self, section: str) -> int:
        """Complete pairs of a section."""
        return min(len(self.fixed.get(section, [])), len(self.moving.get(section, [])))

    def pair(self, section: str) -> tuple[Floats, Floats]:
        """Complete pairs of a section: places on the reference, and on the section."""
        number = self.count(section)
        places = (one.get(section, [])[:number] for one in (self.fixed, self.moving))
        first, second = (np.array(one, float).reshape(-1, 2) for one in places)
        return first, second

    def register(self, section: str) -> Registration:
        """By the landmarks where there are enough, else as the block has it."""
        if self.count(section) >= LEAST:
            return fit_landmarks(*self.pair(section))
        return self.block.registrations[section]

    def add(self, section: str, on_reference: bool, world: Place) -> None:
        """Add a landmark at a place (x, y) of the world, which is the reference.

        Raises
        ------
        RegistrationError
            The one before has no partner yet.
        """
        own, other = (self.fixed, self.moving) if on_reference else (self.moving, self.fixed)
        if len(own.get(section, [])) > len(other.get(section, [])):
            raise RegistrationError(
                "the landmark before has no partner yet", fix="mark the same place on the other section"
            )
        place = world
        if not on_reference:
            x, y = map_points(straighten(self.register(section)), np.array([world]))[0]
            place = (float(x), float(y))
        own.setdefault(section, []).append(place)

    def remove(self, section: str) -> None:
        """Remove the landmark set last, or the last pair.

        Raises
        ------
        RegistrationError
            There is none.
        """
        numbers = [len(one.get(section, [])) for one in (self.fixed, self.moving)]
        if not max(numbers):
            raise RegistrationError("there is no landmark to remove", fix="mark one first")
        for one, number in zip((self.fixed, self.moving), numbers, strict=True):
            if number == max(numbers):
                one[section].pop()

    def list_landmarks(self) -> Landmarks:
        """All complete pairs."""
        pairs = {name: self.pair(name) for name in self.others if self.count(name)}
        return Landmarks(self.block.reference, pairs)


def link_block(block: Block, known: Landmarks | None) -> Linked:
    """A block with the landmarks that were kept for it."""
    linked = Linked(block)
    if known is not None and known.reference == block.reference:
        for section, (fixed, moving) in known.pairs.items():
            linked.fixed[section] = [(float(x), float(y)) for x, y in fixed]
            linked.moving[section] = [(float(x), float(y)) for x, y in moving]
    return linked


def straighten(registration: Registration) -> Transform:
    """The affine part of a registration; the identity where there is none."""
    matrix = [[1, 0, 0], [0, 1, 0]] if registration.transform is None else registration.transform.matrix
    return make_affine(matrix)


def make_layer_affine(registration: Registration) -> Floats:
    """From a section's micrometres to the reference's, for coordinates (y, x); shape (3, 3)."""
    whole = np.vstack([straighten(registration).matrix, [0, 0, 1]])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], float)
    return np.asarray(swap @ np.linalg.inv(whole) @ swap)


def show_sections(linked: Linked) -> list[LayerData]:
    """Show every section of a block where it lies on the reference, which is at the bottom.

    Raises
    ------
    HistoquantError
        The reference cannot be opened, or no other section.
    """
    layers: list[LayerData] = []
    troubles: list[HistoquantError] = []
    for section in sorted(linked.block.sections, key=lambda one: one.id != linked.block.reference):
        source = section.sources[0]
        try:
            slide = open_slide(source.path, source.mpp, source.kind)
        except HistoquantError as error:
            troubles.append(error)
            continue
        data, properties, kind = show_slide(slide, section.id)
        properties["affine"] = make_layer_affine(linked.register(section.id))
        properties["visible"] = section.id == linked.block.reference
        properties["metadata"] = {KEY: {"kind": f"{SECTION} {section.id}"}}
        layers.append((data, properties, kind))
    if len(layers) < 2:
        raise troubles[0]
    return layers


def show_landmarks(linked: Linked, section: str) -> list[LayerData]:
    """Show the landmarks of a section and of the reference, numbered, where they lie in the world."""
    fixed = np.array(linked.fixed.get(section, []), float).reshape(-1, 2)
    moving = np.array(linked.moving.get(section, []), float).reshape(-1, 2)
    placed = unmap_points(straighten(linked.register(section)), moving)
    return [_show_points(fixed, ON_REFERENCE), _show_points(placed, ON_SECTION)]


def describe_registration(linked: Linked, section: str) -> str:
    """Say by what a section lies where it does, and how well."""
    found = linked.register(section)
    pairs = linked.count(section)
    if found.transform is None:
        return f"not registrable: {found.reason}. Mark {LEAST} places or more on both. {pairs} pairs so far."
    if pairs >= LEAST:
        return (
            f"by {pairs} pairs of landmarks: each is {found.error_um:.0f} µm (median) from where the others "
            "put it. Save, then run `histoquant serial` again."
        )
    bend = float(np.abs(found.transform.bend).max(initial=0.0))
    about = f"; its bend, up to {bend:.0f} µm, is not shown" if bend else ""
    return f"by the program, error {found.error_um:.0f} µm (median){about}. {pairs} pairs of landmarks."


def _show_points(places: Floats, name: str) -> LayerData:
    properties: dict[str, Any] = {
        "name": name,
        "ndim": 2,
        "features": pd.DataFrame({"number": np.arange(1, len(places) + 1)}),
        "symbol": "cross",
        "size": _SIZE_UM,
        "face_color": _COLORS[name],
        "border_color": "black",
        "border_width": 0.05,
        # Black: on pale tissue the colours of the crosses cannot be read as text.
        "text": {"string": "{number}", "color": "black", "size": 12, "anchor": "upper_left"},
        "units": UNITS,
        "metadata": {KEY: {"kind": name}},
    }
    return places[:, ::-1], properties, "points"


def choose_block(blocks: Sequence[Block], title: str) -> Block:
    """The block of a title.

    Raises
    ------
    RegistrationError
        There is none.
    """
    found = next((block for block in blocks if block.title == title), None)
    if found is None:
        raise RegistrationError("no block is chosen", "Serial sections", "choose a run, then a block")
    return found
