"""Fields to measure: a section opened, its tissue found, its fields drawn, its stains chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoquant import pictures
from histoquant.annotations import Annotations, rasterize_area, read_annotations
from histoquant.errors import FieldsError, HistoquantError
from histoquant.fields import (
    Draw,
    draw_fields,
    find_feasible,
    frame_image,
    measure_tissue,
    restore_fields,
    spawn_generator,
)
from histoquant.geometry import Field, Patch, crop_to_field
from histoquant.objects import find_inside
from histoquant.protocol import MarkerSettings, Protocol, StainSettings, Vector
from histoquant.qc.avoid import Avoided, avoid_artefacts
from histoquant.qc.judge import measure_field_quality
from histoquant.slide import Slide, list_field_images, open_slide, require_mpp
from histoquant.stains import (
    DEFAULT_VECTORS,
    Stains,
    correct_spill,
    crop_stains,
    estimate_vectors,
    estimate_white,
    separate_stains,
)
from histoquant.study import Kind, Section, Source
from histoquant.tissue import find_tissue

Mask = npt.NDArray[np.bool_]
_SAMPLE_FIELDS = 5
_SAMPLE_MPP = 1.0


@dataclass(frozen=True)
class FieldTask:
    """All that measuring one field needs; it travels to a worker."""

    path: Path
    mpp: float
    kind: Kind
    field: Field
    white: Vector
    vectors: tuple[Vector, Vector]
    annotations: Annotations
    tissue_fraction: float
    geojson_origin_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Prepared:
    """A section whose fields are known.

    Attributes
    ----------
    tasks : tuple of FieldTask
        Fields to measure.
    failed : tuple of dict
        Rows of fields that failed already.
    fields_asked : int
        Fields that were asked for.
    receipt : dict
        How the fields came about, plain values.
    overview : bytes or None
        WebP of the section with its fields.
    """

    tasks: tuple[FieldTask, ...]
    failed: tuple[dict[str, Any], ...]
    fields_asked: int
    receipt: dict[str, Any]
    overview: bytes | None = None


def prepare_section(section: Section, protocol: Protocol, seed: int) -> Prepared:
    """Open a section, find its tissue, draw its fields and choose its stains.

    A section of camera images is not drawn: every image is one field with an inset frame.

    Parameters
    ----------
    section : Section
        Of the study.
    protocol : Protocol
        Settings.
    seed : int
        The run's seed.

    Returns
    -------
    Prepared

    Raises
    ------
    HistoquantError
        The section cannot be measured at all; the message is its reason.
    """
    if section.problem:
        raise HistoquantError(section.problem)
    images = [image for source in section.sources for image in _expand(source)]
    if len(images) == 1:
        with open_slide(images[0].path, images[0].mpp, images[0].kind) as slide:
            if slide.kind == "slide":
                return _prepare_slide(slide, section, images[0], protocol, seed)
    return _prepare_images(images, section.id, protocol, seed)


def restore_task(
    section: Section, receipt: Mapping[str, Any], row: Mapping[str, Any], protocol: Protocol
) -> FieldTask:
    """Make the task of a field again, from what a run has stored; nothing is drawn or estimated.

    Parameters
    ----------
    section : Section
        Of the study.
    receipt : mapping
        Its receipt.json.
    row : mapping
        The field's row in measured.json.
    protocol : Protocol
        Of the run.

    Returns
    -------
    FieldTask

    Raises
    ------
    HistoquantError
        The section's image or annotations are gone, or the receipt is damaged.
    """
    place = [float(row[name]) for name in ("center_x_um", "center_y_um", "width_um", "height_um")]
    field = Field(int(row["field"]), row["shape"], *place)
    try:
        if receipt.get("drawn", True):
            source, how, mpp = section.sources[0], receipt["stains"], float(receipt["mpp"])
        else:
            images = [image for source in section.sources for image in _expand(source)]
            source = images[field.number - 1]
            (entry,) = (entry for entry in receipt["images"] if entry["number"] == field.number)
            how, mpp = entry["stains"], float(entry["mpp"])
        white = _make_vector(how["white"])
        vectors = (_make_vector(how["vectors"][0]), _make_vector(how["vectors"][1]))
    except (LookupError, TypeError, ValueError) as error:
        raise HistoquantError(
            f"the receipt does not fit field {field.number} ({error!r})", section.id, "run it again"
        ) from error
    kind: Kind = "slide" if receipt.get("drawn", True) else "field"
    origin = (0, 0)
    if protocol.geojson_from_bounds and kind == "slide":
        with open_slide(source.path, source.mpp, source.kind) as slide:
            origin = slide.bounds_px
    annotations = Annotations(None, None, ())
    if source.annotations is not None:
        annotations = read_annotations(source.annotations, mpp, origin)
    share = float(row["tissue_fraction"])
    return FieldTask(source.path, mpp, kind, field, white, vectors, annotations, share, origin)


def read_field(task: FieldTask, marker: MarkerSettings, protocol: Protocol) -> tuple[Patch, Stains, Stains]:
    """Read a field with its margin and separate its stains.

    Parameters
    ----------
    task : FieldTask
        The field and its slide.
    marker : MarkerSettings
        Its compartment says whether spill is taken off.
    protocol : Protocol
        Settings.

    Returns
    -------
    patch : Patch
        Pixels as they are on the slide.
    separated, stains : Stains
        At the working resolution: as separated, and with the spill taken off, if it is, to measure in.

    Raises
    ------
    SlideError
        The region cannot be read.
    """
    field, margin_um = task.field, protocol.fields.margin_um
    with open_slide(task.path, task.mpp, task.kind) as slide:
        corner = field.left_um - margin_um, field.top_um - margin_um
        patch = slide.read(*corner, field.width_um + 2 * margin_um, field.height_um + 2 * margin_um)
    separated = separate_stains(patch, task.white, task.vectors, protocol.working_mpp)
    plain = marker.compartment == "nucleus" or protocol.cells.method == "qupath"
    return patch, separated, separated if plain else correct_spill(separated)


def measure_quality(task: FieldTask, patch: Patch, stains: Stains, protocol: Protocol) -> dict[str, float]:
    """Measure the quality of a field, its stains as they are: no spill taken off, margin left out.

    Parameters
    ----------
    task : FieldTask
        The field.
    patch : Patch
        Pixels that cover it.
    stains : Stains
        Of the patch, as separated.
    protocol : Protocol
        Settings.

    Returns
    -------
    dict of str to float
        See `histoquant.qc.judge.measure_field_quality`; empty if the protocol asks for no check.
    """
    if not protocol.qc.check:
        return {}
    box = crop_to_field(patch, task.field)
    top, left = round((box.y_um - stains.y_um) / stains.mpp), round((box.x_um - stains.x_um) / stains.mpp)
    rows, columns = (round(side * box.mpp / stains.mpp) for side in box.pixels.shape[:2])
    part = crop_stains(stains, (slice(top, top + rows), slice(left, left + columns)))
    inside = find_inside(task.field, task.annotations, part)
    return measure_field_quality(box.pixels, box.mpp, part, inside, task.vectors, protocol.qc)


def _make_vector(values: Sequence[Any]) -> Vector:
    red, green, blue = map(float, values)
    return red, green, blue


@dataclass(frozen=True)
class Survey:
    """Where fields may lie on a slide.

    Attributes
    ----------
    tissue, feasible : ndarray of bool, shape (rows, columns)
        Tissue within the regions kept; centers that a field may have.
    mpp : float
        Pixel size of both, um/px; their upper left corner is the slide's.
    tissue_mm2, feasible_mm2 : float
        Their areas.
    """

    tissue: Mask
    feasible: Mask
    mpp: float
    tissue_mm2: float
    feasible_mm2: float


def survey_slide(slide: Slide, annotations: Annotations, protocol: Protocol) -> Survey:
    """Find where fields may lie, without drawing any.

    Parameters
    ----------
    slide : Slide
        An open slide.
    annotations : Annotations
        Regions to keep and to exclude.
    protocol : Protocol
        Of tissue and fields.

    Returns
    -------
    Survey

    Raises
    ------
    SlideError, ScaleError
        The slide cannot be read, or its pixel size is unknown.
    """
    overview = slide.overview(protocol.tissue.mpp)
    tissue, forbidden = _apply(annotations, find_tissue(overview, protocol.tissue), overview)
    avoided = avoid_artefacts(slide, tissue, overview.mpp, protocol.qc).mask
    tissue, forbidden = tissue & ~avoided, forbidden | avoided
    feasible, _ = find_feasible(tissue, forbidden, overview.mpp, protocol.fields)
    tissue_mm2, feasible_mm2 = (float(mask.sum()) * overview.mpp**2 / 1e6 for mask in (tissue, feasible))
    return Survey(tissue, feasible, overview.mpp, tissue_mm2, feasible_mm2)


def choose_stains(
    settings: StainSettings, overview: npt.NDArray[np.uint8], sample: npt.NDArray[np.uint8]
) -> tuple[Vector, tuple[Vector, Vector], dict[str, Any]]:
    """Choose white point and stain vectors as the settings say.

    Parameters
    ----------
    settings : StainSettings
        Given values, defaults, or `auto`.
    overview : ndarray of uint8, shape (rows, columns, 3)
        Where glass is looked for.
    sample : ndarray of uint8, shape (rows, columns, 3)
        Tissue in which nuclei are resolved; used with vectors `auto` only.

    Returns
    -------
    white : tuple of float
    vectors : tuple of two tuples of float
    how : dict
        Both, and where each came from, for the receipt.
    """
    white, white_source = (
        estimate_white(overview) if settings.white == "auto" else (settings.white, "protocol")
    )
    vectors, source = DEFAULT_VECTORS, "default"
    if settings.vectors == "auto":
        try:
            vectors, source = estimate_vectors(sample, white), "estimated"
        except HistoquantError as error:
            source = f"default, since they could not be estimated: {error}"
    elif settings.vectors != "default":
        vectors, source = settings.vectors, "protocol"
    how = {"white": white, "white_source": white_source, "vectors": vectors, "vectors_source": source}
    return white, vectors, how


def _expand(source: Source) -> list[Source]:
    if not source.path.is_dir():
        return [source]
    return [replace(source, path=path, kind="field") for path in list_field_images(source.path)]


def _prepare_slide(slide: Slide, section: Section, source: Source, protocol: Protocol, seed: int) -> Prepared:
    mpp = require_mpp(slide)
    overview = slide.overview(protocol.tissue.mpp)
    origin = slide.bounds_px if protocol.geojson_from_bounds else (0, 0)
    annotations, tissue, forbidden = find_ground(overview, source, mpp, protocol, origin)
    avoided = avoid_artefacts(slide, tissue, overview.mpp, protocol.qc)
    tissue, forbidden = tissue & ~avoided.mask, forbidden | avoided.mask
    draw = _choose_fields(section, tissue, forbidden, overview.mpp, protocol, seed, avoided)
    sample = sample_tissue(slide, draw.fields) if protocol.stain.vectors == "auto" else overview.pixels
    white, vectors, how = choose_stains(protocol.stain, overview.pixels, sample)
    tasks = tuple(
        FieldTask(source.path, mpp, "slide", field, white, vectors, annotations, share, origin)
        for field in draw.fields
        for share in [measure_tissue(tissue, overview.mpp, field)]
    )
    receipt = {
        "section": section.id,
        "seed": seed,
        "slide": source.path.name,
        "mpp": mpp,
        "stains": how,
        "notes": [*slide.problems, *annotations.notes, *avoided.notes],
        "artefacts": {"share": round(avoided.share, 6), "found": list(avoided.found)},
        **draw.receipt,
    }
    picture = pictures.draw_fields_thumbnail(overview, draw.fields, tissue)
    return Prepared(tasks, (), protocol.fields.count, receipt, pictures.encode_webp(picture))


def _choose_fields(
    section: Section,
    tissue: Mask,
    forbidden: Mask,
    mpp: float,
    protocol: Protocol,
    seed: int,
    avoided: Avoided,
) -> Draw:
    """Fields that are given, or drawn on this section alone."""
    if section.placed is not None:
        return Draw(restore_fields(section.placed), dict(section.placed))
    draw = _draw(tissue, forbidden, mpp, protocol, spawn_generator(seed, section.id), avoided)
    return Draw(draw.fields, {"draw": "independent", **draw.receipt})


def _draw(
    tissue: Mask,
    forbidden: Mask,
    mpp: float,
    protocol: Protocol,
    rng: np.random.Generator,
    avoided: Avoided,
) -> Draw:
    try:
        return draw_fields(tissue, forbidden, mpp, protocol.fields, rng)
    except FieldsError as error:
        if not avoided.found:
            raise
        kinds = ", ".join(str(one["kind"]) for one in avoided.found)
        raise FieldsError(
            f"{error.what}, since artefacts cover {avoided.share:.0%} of the tissue ({kinds})",
            error.where,
            "look at the slide and scan or mount it again; qc.artefacts.avoid = false draws on artefacts too",
        ) from error


def _prepare_images(images: Sequence[Source], name: str, protocol: Protocol, seed: int) -> Prepared:
    tasks: list[FieldTask] = []
    failed: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for number, source in enumerate(images, start=1):
        try:
            task, how = _prepare_image(source, number, protocol)
        except HistoquantError as error:
            failed.append({"field": number, "status": "failed", "reason": str(error)})
            continue
        tasks.append(task)
        drawn.append({"image": source.path.name, "mpp": task.mpp, **how, **asdict(task.field)})
    if not tasks:
        others = f" (and {len(failed) - 1} more images of the section)" if len(failed) > 1 else ""
        raise HistoquantError(f"{failed[0]['reason']}{others}")
    receipt = {"section": name, "seed": seed, "drawn": False, "images": drawn}
    return Prepared(tuple(tasks), tuple(failed), len(images), receipt)


def _prepare_image(source: Source, number: int, protocol: Protocol) -> tuple[FieldTask, dict[str, Any]]:
    with open_slide(source.path, source.mpp, source.kind) as slide:
        if slide.kind == "slide":
            raise HistoquantError(
                "is a whole slide among field images", source.path, "give it a section of its own"
            )
        mpp = require_mpp(slide)
        overview = slide.overview(protocol.tissue.mpp)
        annotations, tissue, _ = find_ground(overview, source, mpp, protocol)
        whole = slide.read(0, 0, slide.width_px * mpp, slide.height_px * mpp)
    field = frame_image(slide.width_px * mpp, slide.height_px * mpp, protocol.fields, number)
    white, vectors, how = choose_stains(protocol.stain, whole.pixels, whole.pixels)
    share = measure_tissue(tissue, overview.mpp, field)
    notes = {"stains": how, "notes": [*slide.problems, *annotations.notes]}
    return FieldTask(source.path, mpp, "field", field, white, vectors, annotations, share), notes


def find_ground(
    overview: Patch, source: Source, mpp: float, protocol: Protocol, origin_px: tuple[int, int] = (0, 0)
) -> tuple[Annotations, Mask, Mask]:
    """Find the tissue on an overview, what annotations keep of it, and what they exclude.

    Parameters
    ----------
    overview : Patch
        The whole slide.
    source : Source
        Its annotations, if any.
    mpp : float
        Pixel size of level 0, um/px.
    protocol : Protocol
        What is tissue.
    origin_px : tuple of int, optional
        Column and row of level 0 from which annotations count.

    Returns
    -------
    annotations : Annotations
    tissue, forbidden : ndarray of bool, shape (rows, columns)

    Raises
    ------
    AnnotationError
        The annotations cannot be used.
    """
    tissue = find_tissue(overview, protocol.tissue)
    if source.annotations is None:
        return Annotations(None, None, ()), tissue, np.zeros_like(tissue)
    annotations = read_annotations(source.annotations, mpp, origin_px)
    return annotations, *_apply(annotations, tissue, overview)


def _apply(annotations: Annotations, tissue: Mask, overview: Patch) -> tuple[Mask, Mask]:
    """Tissue within the regions kept, and what is excluded, on the overview."""
    place = (tissue.shape, overview.x_um, overview.y_um, overview.mpp)
    if annotations.keep is not None:
        tissue = tissue & rasterize_area(annotations.keep, *place)
    if annotations.exclude is None:
        return tissue, np.zeros_like(tissue)
    forbidden = rasterize_area(annotations.exclude, *place)
    return tissue & ~forbidden, forbidden


def sample_tissue(slide: Slide, fields: Sequence[Field]) -> npt.NDArray[np.uint8]:
    """Read what stain vectors are estimated from: pixels of some fields, fine enough to resolve nuclei.

    Parameters
    ----------
    slide : Slide
        An open slide.
    fields : sequence of Field
        In the order in which they were drawn; the first five are read.

    Returns
    -------
    ndarray of uint8, shape (pixels, 1, 3)
    """
    patches = [
        slide.read(field.left_um, field.top_um, field.width_um, field.height_um, _SAMPLE_MPP).pixels
        for field in fields[:_SAMPLE_FIELDS]
    ]
    return np.concatenate([patch.reshape(-1, 1, 3) for patch in patches])
