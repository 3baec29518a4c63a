"""Fields to measure: a section opened, its tissue found, its fields drawn, its stains chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoquant import pictures
from histoquant.annotations import Annotations, rasterize_area, read_annotations
from histoquant.errors import HistoquantError
from histoquant.fields import draw_fields, frame_image, measure_tissue, spawn_generator
from histoquant.geometry import Field, Patch
from histoquant.protocol import Protocol, StainSettings, Vector
from histoquant.slide import Slide, list_field_images, open_slide, require_mpp
from histoquant.stains import DEFAULT_VECTORS, estimate_vectors, estimate_white
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
                return _prepare_slide(slide, section.id, images[0], protocol, seed)
    return _prepare_images(images, section.id, protocol, seed)


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


def _prepare_slide(slide: Slide, name: str, source: Source, protocol: Protocol, seed: int) -> Prepared:
    mpp = require_mpp(slide)
    overview = slide.overview(protocol.tissue.mpp)
    origin = slide.bounds_px if protocol.geojson_from_bounds else (0, 0)
    annotations, tissue, forbidden = _find_ground(overview, source, mpp, protocol, origin)
    draw = draw_fields(tissue, forbidden, overview.mpp, protocol.fields, spawn_generator(seed, name))
    sample = _sample_tissue(slide, draw.fields) if protocol.stain.vectors == "auto" else overview.pixels
    white, vectors, how = choose_stains(protocol.stain, overview.pixels, sample)
    tasks = tuple(
        FieldTask(source.path, mpp, "slide", field, white, vectors, annotations, share, origin)
        for field in draw.fields
        for share in [measure_tissue(tissue, overview.mpp, field)]
    )
    receipt = {
        "section": name,
        "seed": seed,
        "slide": source.path.name,
        "mpp": mpp,
        "stains": how,
        "notes": [*slide.problems, *annotations.notes],
        **draw.receipt,
    }
    picture = pictures.draw_fields_thumbnail(overview, draw.fields, tissue)
    return Prepared(tasks, (), protocol.fields.count, receipt, pictures.encode_webp(picture))


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
        annotations, tissue, _ = _find_ground(overview, source, mpp, protocol)
        whole = slide.read(0, 0, slide.width_px * mpp, slide.height_px * mpp)
    field = frame_image(slide.width_px * mpp, slide.height_px * mpp, protocol.fields, number)
    white, vectors, how = choose_stains(protocol.stain, whole.pixels, whole.pixels)
    share = measure_tissue(tissue, overview.mpp, field)
    notes = {"stains": how, "notes": [*slide.problems, *annotations.notes]}
    return FieldTask(source.path, mpp, "field", field, white, vectors, annotations, share), notes


def _find_ground(
    overview: Patch, source: Source, mpp: float, protocol: Protocol, origin_px: tuple[int, int] = (0, 0)
) -> tuple[Annotations, Mask, Mask]:
    """Annotations, the tissue they keep, and what they exclude, on the overview."""
    tissue = find_tissue(overview, protocol.tissue)
    if source.annotations is None:
        return Annotations(None, None, ()), tissue, np.zeros_like(tissue)
    annotations = read_annotations(source.annotations, mpp, origin_px)
    place = (tissue.shape, overview.x_um, overview.y_um, overview.mpp)
    if annotations.keep is not None:
        tissue = tissue & rasterize_area(annotations.keep, *place)
    if annotations.exclude is None:
        return annotations, tissue, np.zeros_like(tissue)
    forbidden = rasterize_area(annotations.exclude, *place)
    return annotations, tissue & ~forbidden, forbidden


def _sample_tissue(slide: Slide, fields: Sequence[Field]) -> npt.NDArray[np.uint8]:
    """Pixels of some fields, fine enough to resolve nuclei."""
    patches = [
        slide.read(field.left_um, field.top_um, field.width_um, field.height_um, _SAMPLE_MPP).pixels
        for field in fields[:_SAMPLE_FIELDS]
    ]
    return np.concatenate([patch.reshape(-1, 1, 3) for patch in patches])
