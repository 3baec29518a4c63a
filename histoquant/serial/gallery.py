# This module touches files: it reads overviews of slides.
"""Pictures of a block for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.geometry import Field, Patch, contains_points
from histoquant.pictures import Picture, encode_webp
from histoquant.protocol import Protocol
from histoquant.report.article import Image
from histoquant.report.build import encode_data
from histoquant.serial.blocks import Block, read_view
from histoquant.serial.compare import Measured
from histoquant.serial.match import warp_view
from histoquant.serial.shown import (
    COLORS,
    SIZE_PX,
    join_pictures,
    lay_over,
    mark_cells,
    mark_fields,
    warp_picture,
)
from histoquant.serial.transform import map_points, unmap_points
from histoquant.slide import open_slide
from histoquant.study import Section

_FIELD_MPP = 1.2


def show_block(block: Block, measured: Mapping[str, Measured], protocol: Protocol) -> tuple[str, list[Image]]:
    """Show the sections of a block: laid over one another, side by side, and the cells of two markers.

    Parameters
    ----------
    block : Block
        Registered.
    measured : mapping of str to Measured
        By section; one that is not there was not measured, and is shown without cells.
    protocol : Protocol
        What is tissue on the overviews.

    Returns
    -------
    text : str
        What the pictures show; without any if no section is registered to the reference.
    pictures : list of Image
        In this order: the reference with every other section laid over it; every section on the reference's
        ground with its fields; for each two markers their cells, and the field with most of them.
    """
    reference = next(section for section in block.sections if section.id == block.reference)
    others = [section for section in block.registered if section.id != block.reference]
    if not others:
        return "No section of this block could be registered to another.", []
    view = read_view(reference, protocol)
    rows, columns = np.nonzero(view.tissue)
    low, high = (
        np.array([columns.min(), rows.min()]) * view.mpp,
        np.array([columns.max(), rows.max()]) * view.mpp,
    )
    box = (*(low - 50), *(high - low + 100))
    images = []
    for section in others:
        transform = block.registrations[section.id].transform
        assert transform is not None
        laid = lay_over(view, warp_view(read_view(section, protocol), view, transform))
        alt = f"{reference.id} and {section.id} laid over one another"
        images.append(
            _encode(
                laid, alt, (f"denser in {reference.id}", "#1a9a1a"), (f"denser in {section.id}", "#c218c2")
            )
        )
    mpp = max(box[2], box[3]) / SIZE_PX
    shown = {section.id: _warp(block, section, box, mpp) for section in (reference, *others)}
    if own := measured.get(reference.id):
        corner = np.array(box[:2])
        moved = [
            type(field)(
                field.number, field.shape, field.center_x_um - corner[0], field.center_y_um - corner[1],
                field.width_um, field.height_um,
            )
            for field in own.fields
        ]  # fmt: skip
        shown = {key: mark_fields(picture, moved, mpp) for key, picture in shown.items()}
    images += [_encode(picture, f"{name}, as it lies on {reference.id}") for name, picture in shown.items()]
    pairs = [(one, two) for at, one in enumerate(block.registered) for two in block.registered[at + 1 :]]
    for one, two in pairs:
        if one.id in measured and two.id in measured and one.marker != two.marker:
            groups = [_find_positive(block, section, measured[section.id]) for section in (one, two)]
            picture = mark_cells(shown[block.reference], groups, (box[0], box[1]), mpp, radius_um=9)
            alt = f"positive cells of {one.id} and {two.id}"
            legend = [
                (section.marker, "rgb({},{},{})".format(*color))
                for section, color in zip((one, two), COLORS, strict=True)
            ]
            images.append(_encode(picture, alt, *legend))
            images += _show_field(block, (one, two), measured)
    text = (
        f"All pictures lie on the ground of {reference.id}. Green and magenta turn grey where the "
        "sections agree. Fields are numbered as drawn on the reference. Discs are positive "
        "cells of the first marker, rings those of the second; only cells whose middle lies in a field are "
        "shown."
    )
    return text, images


def _show_field(block: Block, pair: tuple[Section, Section], measured: Mapping[str, Measured]) -> list[Image]:
    """The field with most positive cells, on both sections side by side, cells marked."""
    first = measured[pair[0].id]
    positive = select_inside(first.cells[first.cells["positive"].astype(bool)], first.fields)
    counts = positive["field"].value_counts()
    numbers = [field for field in first.fields if field.number in counts.index] or list(first.fields)
    if not numbers:
        return []
    field = max(numbers, key=lambda one: int(counts.get(one.number, 0)))
    transform = block.registrations[pair[0].id].transform
    assert transform is not None
    middle = unmap_points(transform, np.array([[field.center_x_um, field.center_y_um]]))[0]
    if not np.isfinite(middle).all():
        return []
    half = field.width_um / 2
    box = (middle[0] - half, middle[1] - half, 2 * half, 2 * half)
    pictures = [_warp(block, section, box, _FIELD_MPP) for section in pair]
    groups = [_find_positive(block, section, measured[section.id]) for section in pair]
    marked = mark_cells(pictures[0], groups, (box[0], box[1]), _FIELD_MPP, radius_um=6)
    alt = f"field {field.number} of {pair[0].id}, the same place on {pair[1].id}, and positive cells of both"
    return [_encode(join_pictures([*pictures, marked]), alt)]


def select_inside(cells: pd.DataFrame, fields: Sequence[Field]) -> pd.DataFrame:
    """Select the cells whose middle lies in their own field.

    Parameters
    ----------
    cells : DataFrame
        field, x_um, y_um.
    fields : sequence of Field
        Fields of the same section.

    Returns
    -------
    DataFrame
        Rows of `cells`.
    """
    inside = np.zeros(len(cells), bool)
    for field in fields:
        lies = contains_points(field, cells["x_um"].to_numpy(float), cells["y_um"].to_numpy(float))
        inside |= cells["field"].eq(field.number).to_numpy() & lies
    return cells[inside]


def _find_positive(block: Block, section: Section, own: Measured) -> npt.NDArray[np.float64]:
    """Positive cells of the fields, margins left out, on the ground of the reference, um."""
    transform = block.registrations[section.id].transform
    assert transform is not None
    cells = select_inside(own.cells[own.cells["positive"].astype(bool)], own.fields)
    return unmap_points(transform, cells[["x_um", "y_um"]].to_numpy(float))


def _warp(block: Block, section: Section, box: tuple[float, ...], mpp: float) -> Picture:
    transform = block.registrations[section.id].transform
    assert transform is not None
    left, top, width, height = box
    corners = np.array([[left, top], [left + width, top], [left, top + height], [left + width, top + height]])
    place = map_points(transform, corners)
    low, high = place.min(0) - 60, place.max(0) + 60
    source = section.sources[0]
    with closing(open_slide(source.path, source.mpp, source.kind)) as slide:
        patch: Patch = slide.read(low[0], low[1], high[0] - low[0], high[1] - low[1], mpp)
    return warp_picture(patch, transform, box, mpp)


def _encode(picture: Picture, alt: str, *legend: tuple[str, str]) -> Image:
    return Image(encode_data(encode_webp(picture, 60)), alt, tuple(legend))
