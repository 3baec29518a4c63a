"""Matched fields: drawn once on the ground that all sections of a block share, and put on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from histoquant.errors import FieldsError
from histoquant.fields import Draw, draw_fields
from histoquant.geometry import Field
from histoquant.protocol import FieldSettings
from histoquant.serial.blocks import Block, Ground
from histoquant.serial.register import predict_error
from histoquant.serial.transform import Transform, map_points

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MOST_ERROR_UM = 50.0
"""Ground where the expected error is larger is none for matched fields."""


def match_fields(
    block: Block, grounds: Mapping[str, Ground], settings: FieldSettings, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Draw fields on the reference of a block, and put them on all its registered sections.

    Ground is where there is tissue on every section, nothing excluded on any, and the registration's
    expected error is small. Each field is put on a section by its middle; its size stays.

    Parameters
    ----------
    block : Block
        With at least two registered sections.
    grounds : mapping of str to Ground
        By section.
    settings : FieldSettings
        Number, shape and size of fields.
    rng : Generator
        Source of randomness.

    Returns
    -------
    dict of str to dict
        By section, what `Section.placed` holds: fields, and what the receipt says of them.

    Raises
    ------
    FieldsError
        Fewer than two sections are registered, or there is no room for a field.
    """
    if len(block.registered) < 2:
        raise FieldsError("fewer than two sections are registered", f"block {block.title}", "look at both")
    own = grounds[block.reference]
    tissue, forbidden = own.tissue.copy(), own.forbidden.copy()
    points = _list_points(tissue, own.overview.mpp)
    for section in block.registered:
        if section.id == block.reference:
            continue
        registration = block.registrations[section.id]
        assert registration.transform is not None
        place = map_points(registration.transform, points)
        ground = grounds[section.id]
        found, barred = (
            _sample(mask, place, ground.overview.mpp).reshape(tissue.shape)
            for mask in (ground.tissue, ground.forbidden)
        )
        sure = predict_error(registration, points).reshape(tissue.shape) <= MOST_ERROR_UM
        tissue &= found & sure
        forbidden |= barred
    try:
        draw = draw_fields(tissue, forbidden, own.overview.mpp, settings, rng)
    except FieldsError as error:
        raise FieldsError(
            f"no room for a field of {settings.width_um:g} um where all sections have tissue",
            f"block {block.title}",
            "leave out the section with the least tissue, or choose a smaller field",
        ) from error
    return {section.id: _place(draw, block, section.id) for section in block.registered}


def _place(draw: Draw, block: Block, section: str) -> dict[str, Any]:
    """Fields of a section and their receipt."""
    registration = block.registrations[section]
    transform = registration.transform
    assert transform is not None
    middle = np.array([[field.center_x_um, field.center_y_um] for field in draw.fields])
    exact = section == block.reference
    errors = np.zeros(len(middle)) if exact else predict_error(registration, middle)
    fields = [asdict(_move(field, transform)) for field in draw.fields]
    return {
        "draw": "matched",
        "block": block.name,
        "drawn_on": block.reference,
        **{key: value for key, value in draw.receipt.items() if key != "fields"},
        "registration_error_um": None if exact else round(registration.error_um, 2),
        "expected_error_um": [round(float(error), 2) for error in errors],
        "fields": fields,
    }


def _move(field: Field, transform: Transform) -> Field:
    x, y = map_points(transform, np.array([[field.center_x_um, field.center_y_um]]))[0]
    return replace(field, center_x_um=round(float(x), 3), center_y_um=round(float(y), 3))


def _list_points(mask: Mask, mpp: float) -> Floats:
    rows, columns = np.indices(mask.shape)
    return np.column_stack([columns.ravel() + 0.5, rows.ravel() + 0.5]) * mpp


def _sample(mask: Mask, points: Floats, mpp: float) -> Mask:
    x, y = (points / mpp - 0.5).T
    return np.asarray(map_coordinates(mask.astype(np.uint8), [y, x], order=0, cval=0)) > 0
