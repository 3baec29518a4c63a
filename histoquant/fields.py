"""Fields: random places on the tissue, drawn with a receipt from which they come back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.errors import FieldsError
from histoquant.geometry import Field, contains_points, rasterize_field
from histoquant.protocol import FieldSettings

Mask = npt.NDArray[np.bool_]
_PATIENCE = 200  # refusals in a row after which a sequence counts as stuck


@dataclass(frozen=True)
class Draw:
    """Fields of one section and how they were drawn.

    Attributes
    ----------
    fields : tuple of Field
        In the order drawn; fewer than asked where the tissue has no more room.
    receipt : dict
        Plain values (JSON): settings, feasible area, every sequence with its refusals, the fields.
    """

    fields: tuple[Field, ...]
    receipt: dict[str, Any]


@dataclass(frozen=True)
class _Ground:
    """What a field is drawn on: masks of the whole slide and where a center may lie."""

    tissue: Mask
    forbidden: Mask
    candidates: Mask
    mpp: float
    settings: FieldSettings


def spawn_generator(seed: int, name: str) -> np.random.Generator:
    """Random generator of one section: the same whatever is measured beside it.

    Parameters
    ----------
    seed : int
        The run's seed, 0 or more.
    name : str
        The section's ID.

    Examples
    --------
    >>> a, b = spawn_generator(0, "P1-CD19"), spawn_generator(0, "P1-CD19")
    >>> a.random() == b.random() != spawn_generator(0, "P2-CD19").random()
    True
    """
    words = np.frombuffer(hashlib.sha256(name.encode(errors="surrogateescape")).digest(), dtype=">u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *words.tolist()]))


def draw_fields(
    tissue: Mask, forbidden: Mask, mpp: float, settings: FieldSettings, rng: np.random.Generator
) -> Draw:
    """Draw fields uniformly over all feasible positions, none overlapping another.

    A position is feasible if the field lies on the slide, holds tissue over at least
    `min_tissue_fraction` of its area and touches nothing forbidden. A sequence of draws that leaves no
    room for the next field is begun again, up to `max_sequences` times.

    Parameters
    ----------
    tissue, forbidden : ndarray of bool, shape (rows, columns)
        The whole slide's overview; forbidden are excluded regions and artefacts.
    mpp : float
        Pixel size of the overview, um/px.
    settings : FieldSettings
        Number, shape and size of fields.
    rng : numpy.random.Generator
        See `spawn_generator`.

    Returns
    -------
    Draw

    Raises
    ------
    FieldsError
        There is no tissue, or no room for a single field.
    """
    if not tissue.any():
        raise FieldsError("no tissue found", fix="check the slide, or annotate the region to keep")
    feasible, candidates = find_feasible(tissue, forbidden, mpp, settings)
    if not candidates.any():
        raise FieldsError(
            f"no room for a field of {settings.width_um:g} um",
            fix="the tissue is too small: choose another section, or a smaller field in the protocol",
        )
    ground = _Ground(tissue, forbidden, candidates, mpp, settings)
    sequences: list[dict[str, Any]] = []
    best: list[Field] = []
    for _ in range(settings.max_sequences):
        placed, refused = _draw_sequence(ground, rng)
        sequences.append({"placed": len(placed), "refused": refused})
        if len(placed) > len(best):
            best = placed
        if len(best) == settings.count:
            break
    if not best:
        raise FieldsError(f"no room for a field of {settings.width_um:g} um", fix="choose another section")
    receipt = {
        "settings": settings.model_dump(mode="json"),
        "overview_mpp": mpp,
        "tissue_mm2": round(float(tissue.sum()) * mpp**2 / 1e6, 6),
        "feasible_mm2": round(float(feasible.sum()) * mpp**2 / 1e6, 6),
        "sequences": sequences,
        "fields": [asdict(field) for field in best],
    }
    return Draw(tuple(best), receipt)


def restore_fields(receipt: Mapping[str, Any]) -> tuple[Field, ...]:
    """Fields of a receipt, exactly as drawn.

    Raises
    ------
    FieldsError
        The receipt holds no fields, or not in this form.
    """
    try:
        return tuple(Field(**item) for item in receipt["fields"])
    except (KeyError, TypeError) as error:
        raise FieldsError("the receipt holds no fields", fix="draw the section's fields again") from error


def frame_image(width_um: float, height_um: float, settings: FieldSettings, number: int = 1) -> Field:
    """Inset counting frame of a camera image, which has no surroundings.

    Parameters
    ----------
    width_um, height_um : float
        Size of the image.
    settings : FieldSettings
        Inset, and the share of the short side that it may take.
    number : int, optional
        Number of the field.

    Examples
    --------
    >>> frame_image(400.0, 300.0, FieldSettings())
    Field(number=1, shape='rectangle', center_x_um=200.0, center_y_um=150.0, width_um=280.0, height_um=180.0)
    """
    inset = min(settings.inset_um, settings.max_inset_fraction * min(width_um, height_um))
    return Field(
        number, "rectangle", width_um / 2, height_um / 2, width_um - 2 * inset, height_um - 2 * inset
    )


def measure_tissue(tissue: Mask, mpp: float, field: Field) -> float:
    """Share of a field that is tissue, on the pixels of the overview.

    Parameters
    ----------
    tissue : ndarray of bool, shape (rows, columns)
        Overview mask whose upper left corner is the slide's.
    mpp : float
        Its pixel size, um/px.
    field : Field
        The field.
    """
    window, x_um, y_um = _crop(tissue, mpp, field)
    inside = rasterize_field(field, window.shape, x_um, y_um, mpp)
    return float(window[inside].mean()) if inside.any() else 0.0


def _crop(mask: Mask, mpp: float, field: Field) -> tuple[Mask, float, float]:
    left, top = max(0, int(field.left_um / mpp) - 1), max(0, int(field.top_um / mpp) - 1)
    right = int((field.left_um + field.width_um) / mpp) + 2
    bottom = int((field.top_um + field.height_um) / mpp) + 2
    return mask[top:bottom, left:right], left * mpp, top * mpp


def find_feasible(tissue: Mask, forbidden: Mask, mpp: float, settings: FieldSettings) -> tuple[Mask, Mask]:
    """Find where the center of a field may lie.

    Parameters
    ----------
    tissue, forbidden, mpp, settings
        As for `draw_fields`.

    Returns
    -------
    feasible : ndarray of bool, shape (rows, columns)
        Pixels whose center is feasible.
    candidates : ndarray of bool, same shape
        The wider set of pixels that covers every feasible position.
    """
    size = 2 * int(np.ceil(settings.width_um / mpp / 2)) + 3
    center = size * mpp / 2
    shape = Field(0, settings.shape, center, center, settings.width_um, settings.width_um)
    kernel = rasterize_field(shape, (size, size), 0.0, 0.0, mpp).astype(np.float32)

    def cover(mask: Mask, kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        filtered = cv2.filter2D(mask.astype(np.float32), -1, kernel, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(filtered, np.float32)

    share = cover(tissue, kernel / kernel.sum())
    blocked = cover(forbidden, kernel) > 0.5
    rows, columns = ((np.arange(length) + 0.5) * mpp for length in tissue.shape)
    radius = settings.width_um / 2
    on_slide = ((rows >= radius) & (rows <= tissue.shape[0] * mpp - radius))[:, None] & (
        (columns >= radius) & (columns <= tissue.shape[1] * mpp - radius)
    )[None, :]
    # Moving the center within its pixel changes the share by no more than the rim's.
    slack = 4.0 * mpp / settings.width_um
    near = cv2.dilate(on_slide.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    core = np.asarray(cv2.erode(kernel, np.ones((5, 5), np.uint8)), np.float32)
    surely_blocked = cover(forbidden, core) > 0.5
    feasible = (share >= settings.min_tissue_fraction - 1e-4) & ~blocked & on_slide
    candidates = (share >= settings.min_tissue_fraction - slack) & ~surely_blocked & near
    return feasible, candidates


def _draw_sequence(
    ground: _Ground, rng: np.random.Generator
) -> tuple[list[Field], list[dict[str, float | str]]]:
    settings, mpp = ground.settings, ground.mpp
    rows, columns = np.nonzero(ground.candidates)
    placed: list[Field] = []
    refused: list[dict[str, float | str]] = []
    misses = 0
    while len(placed) < settings.count and misses < _PATIENCE and rows.size:
        pick = int(rng.integers(rows.size))
        x, y = (round(float((c + rng.random()) * mpp), 3) for c in (columns[pick], rows[pick]))
        field = Field(len(placed) + 1, settings.shape, x, y, settings.width_um, settings.width_um)
        reason = _refuse(field, placed, ground)
        if reason:
            refused.append({"x_um": x, "y_um": y, "reason": reason})
            misses += 1
            continue
        misses = 0
        placed.append(field)
        free = ~_surely_overlapping(field, (columns + 0.5) * mpp, (rows + 0.5) * mpp, mpp)
        rows, columns = rows[free], columns[free]
    return placed, refused


def _refuse(field: Field, placed: list[Field], ground: _Ground) -> str:
    height_um, width_um = (length * ground.mpp for length in ground.tissue.shape)
    reach = field.width_um / 2
    on_slide = (
        reach <= field.center_x_um <= width_um - reach and reach <= field.center_y_um <= height_um - reach
    )
    if not on_slide:
        return "reaches beyond the slide"
    for other in placed:
        if _overlap(field, other):
            return f"overlaps field {other.number}"
    if measure_tissue(ground.forbidden, ground.mpp, field) > 0:
        return "touches an excluded region"
    share = measure_tissue(ground.tissue, ground.mpp, field)
    return "" if share >= ground.settings.min_tissue_fraction else f"tissue over {share:.3f} of the field"


def _overlap(a: Field, b: Field) -> bool:
    dx, dy = abs(a.center_x_um - b.center_x_um), abs(a.center_y_um - b.center_y_um)
    return bool(np.hypot(dx, dy) < a.width_um) if a.shape == "circle" else max(dx, dy) < a.width_um


def _surely_overlapping(
    field: Field, x_um: npt.NDArray[np.floating[Any]], y_um: npt.NDArray[np.floating[Any]], mpp: float
) -> Mask:
    """Pixels, by their centers, in which every center of a field would overlap `field`."""
    to_corner = np.sqrt(0.5) if field.shape == "circle" else 0.5
    reach = 2 * (field.width_um - to_corner * mpp)
    around = Field(0, field.shape, field.center_x_um, field.center_y_um, reach, reach)
    return contains_points(around, x_um, y_um)
