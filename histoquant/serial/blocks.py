# This module touches files: it opens slides, and keeps registrations in a run's folder.
"""Blocks: the serial sections of one biopsy, each registered to the one with most tissue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoquant import __version__
from histoquant.errors import HistoquantError, RegistrationError
from histoquant.geometry import Patch
from histoquant.prepare import find_ground
from histoquant.protocol import Protocol
from histoquant.publish import read_run
from histoquant.qc.avoid import avoid_artefacts
from histoquant.results import open_run, read_json, write_json
from histoquant.serial.landmarks import Landmarks, encode_landmarks, fit_landmarks, read_landmarks
from histoquant.serial.register import Registration, refine_registration, register_views
from histoquant.serial.transform import decode_transform, encode_transform, make_affine
from histoquant.serial.views import VIEW_MPP, View, make_view
from histoquant.slide import open_slide, require_mpp
from histoquant.study import Section, Study, fingerprint_file, read_study

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
STORE = "registrations.json"
_STORED = ("reason", "error_um", "error_90_um", "near", "share", "blocks", "landmarks")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Block:
    """Serial sections of one biopsy.

    Attributes
    ----------
    patient, name : str
        Whose, and which.
    sections : tuple of Section
        At least two whole slides.
    reference : str
        ID of the section to which the others are registered.
    registrations : dict of str to Registration
        By section, from the reference; its own is exact.
    """

    patient: str
    name: str
    sections: tuple[Section, ...]
    reference: str
    registrations: dict[str, Registration]

    @property
    def title(self) -> str:
        """Name of the block in tables and messages."""
        return f"{self.patient} {self.name}"

    @property
    def registered(self) -> tuple[Section, ...]:
        """Sections whose place is known."""
        return tuple(s for s in self.sections if self.registrations[s.id].transform is not None)


@dataclass(frozen=True)
class Ground:
    """Where fields may lie on a section: masks of the whole slide, and its overview."""

    overview: Patch
    tissue: Mask
    forbidden: Mask


def group_sections(study: Study) -> tuple[dict[tuple[str, str], tuple[Section, ...]], dict[str, str]]:
    """Group the sections of a study by patient and block.

    Parameters
    ----------
    study : Study
        With the column `block`.

    Returns
    -------
    blocks : dict
        Sections by patient and block; two at least.
    left_out : dict of str to str
        Sections that belong to no such group, with the reason.

    Raises
    ------
    RegistrationError
        No block holds two sections.
    """
    groups: dict[tuple[str, str], list[Section]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for section in study.sections:
        if reason := _refuse(section):
            left_out[section.id] = reason
        else:
            groups[section.patient, section.block].append(section)
    for sections in groups.values():
        if len(sections) == 1:
            left_out[sections[0].id] = "is the only section of its block"
    blocks = {key: tuple(sections) for key, sections in groups.items() if len(sections) > 1}
    if not blocks:
        raise RegistrationError(
            "has no block of two sections",
            study.path,
            "give serial sections of one biopsy the same text in a column block",
        )
    return blocks, left_out


def register_study(
    study: Study, protocol: Protocol, folder: Path, progress: Progress
) -> tuple[tuple[Block, ...], dict[str, str]]:
    """Register all blocks of a study, or take what is stored of the same slides.

    Parameters
    ----------
    study : Study
        With the column `block`.
    protocol : Protocol
        What is tissue.
    folder : Path
        Where registrations are kept, in a run's folder.
    progress : callable
        Called with the number of sections done and of all.

    Returns
    -------
    blocks : tuple of Block
    left_out : dict of str to str
        Sections that were not tried, with the reason.

    Raises
    ------
    RegistrationError
        No block holds two sections, or no section of a block can be read.
    """
    groups, left_out = group_sections(study)
    total, done = sum(map(len, groups.values())), 0
    blocks, kept = [], {}
    with open_run(folder.parent):
        folder.mkdir(exist_ok=True)
        stored, marked = read_json(folder / STORE), read_landmarks(folder)
        for (patient, name), sections in groups.items():
            by_hand = marked.get(f"{patient} {name}")
            key = [__version__, protocol.tissue.model_dump(mode="json"), *_fingerprint(sections)]
            key += [encode_landmarks(by_hand)] if by_hand else []
            old = stored.get(f"{patient} {name}") if isinstance(stored, dict) else None
            if isinstance(old, dict) and old.get("key") == key:
                block = _restore(patient, name, sections, old)
            else:
                block = register_block(patient, name, sections, protocol, by_hand)
            kept[block.title] = {"key": key, **_describe(block)}
            blocks.append(block)
            write_json(folder / STORE, kept)
            done += len(sections)
            progress(done, total)
    return tuple(blocks), left_out


def read_blocks(run: Path) -> tuple[Block, ...]:
    """Read the blocks of a run as `histoquant serial` registered them.

    Parameters
    ----------
    run : Path
        Its folder.

    Returns
    -------
    tuple of Block

    Raises
    ------
    RegistrationError
        No block of the study is registered in the folder.
    ResultsError
        It is no finished run's.
    StudyError
        The study table is gone.
    """
    about, protocol = read_run(run)
    study = read_study(Path(about["study"]["path"]), protocol.markers)
    stored = read_json(run / "serial" / STORE)
    blocks = []
    for (patient, name), sections in group_sections(study)[0].items():
        old = stored.get(f"{patient} {name}") if isinstance(stored, dict) else None
        if isinstance(old, dict) and {section.id for section in sections} <= set(old["sections"]):
            blocks.append(_restore(patient, name, sections, old))
    if not blocks:
        raise RegistrationError("holds no registered block", run, "run `histoquant serial` with this --out")
    return tuple(blocks)


def register_block(
    patient: str,
    name: str,
    sections: Sequence[Section],
    protocol: Protocol,
    by_hand: Landmarks | None = None,
) -> Block:
    """Register the sections of a block to the one with most tissue, or to the one that landmarks name.

    Raises
    ------
    RegistrationError
        No section of the block can be read.
    """
    views: dict[str, View] = {}
    registrations: dict[str, Registration] = {}
    for section in sections:
        try:
            views[section.id] = read_view(section, protocol)
        except HistoquantError as error:
            registrations[section.id] = Registration(None, str(error))
    if not views:
        first = next(iter(registrations.values())).reason
        raise RegistrationError(f"no section can be read ({first})", f"block {patient} {name}", "mend them")
    area = {key: float(view.tissue.sum()) * view.mpp**2 for key, view in views.items()}
    reference = max(area, key=lambda key: area[key])
    pairs: dict[str, tuple[Floats, Floats]] = {}
    if by_hand is not None and by_hand.reference in views:
        reference, pairs = by_hand.reference, by_hand.pairs
    for key, view in views.items():
        if key == reference:
            exact = make_affine([[1, 0, 0], [0, 1, 0]])
            registrations[key] = Registration(exact, error_um=0.0, error_90_um=0.0, near=1.0, share=1.0)
        elif key in pairs:
            hand = fit_landmarks(*pairs[key])
            registrations[key] = refine_registration(views[reference], view, hand, pairs[key])
        else:
            registrations[key] = register_views(views[reference], view)
    return Block(patient, name, tuple(sections), reference, registrations)


def read_view(section: Section, protocol: Protocol) -> View:
    """Read what of a section serves to register it.

    Raises
    ------
    HistoquantError
        The slide cannot be read, or its pixel size is unknown.
    """
    if section.problem:
        raise HistoquantError(section.problem)
    source = section.sources[0]
    with closing(open_slide(source.path, source.mpp, source.kind)) as slide:
        return make_view(slide.overview(max(VIEW_MPP, require_mpp(slide))), protocol.tissue)


def read_ground(section: Section, protocol: Protocol) -> Ground:
    """Read where fields may lie on a section.

    Raises
    ------
    HistoquantError
        The slide or its annotations cannot be read.
    """
    source = section.sources[0]
    with closing(open_slide(source.path, source.mpp, source.kind)) as slide:
        overview = slide.overview(protocol.tissue.mpp)
        origin = slide.bounds_px if protocol.geojson_from_bounds else (0, 0)
        _, tissue, forbidden = find_ground(overview, source, require_mpp(slide), protocol, origin)
        avoided = avoid_artefacts(slide, tissue, overview.mpp, protocol.qc).mask
    return Ground(overview, tissue & ~avoided, forbidden | avoided)


def _refuse(section: Section) -> str:
    """Why a section is in no block."""
    if not section.block:
        return "has no block"
    if section.control:
        return "is a control"
    source = section.sources[0]
    if len(section.sources) > 1 or source.kind == "field" or source.path.is_dir():
        return "is made of field images, whose place on the section is not known"
    if source.kind is None and not section.problem:
        try:
            with open_slide(source.path, source.mpp) as slide:
                if slide.kind == "field":
                    return "is a field image, whose place on the section is not known"
        except HistoquantError:
            return ""  # it is told with its own reason
    return ""


def _fingerprint(sections: Sequence[Section]) -> list[str]:
    prints = []
    for section in sections:
        try:
            prints.append(
                f"{section.id} {section.sources[0].mpp} {fingerprint_file(section.sources[0].path)}"
            )
        except OSError:
            prints.append(f"{section.id} unreadable")
    return prints


def _describe(block: Block) -> dict[str, Any]:
    return {
        "reference": block.reference,
        "sections": {key: _encode(registration) for key, registration in block.registrations.items()},
    }


def _encode(registration: Registration) -> dict[str, Any]:
    transform = registration.transform
    return {
        "transform": None if transform is None else encode_transform(transform),
        **{name: getattr(registration, name) for name in _STORED},
        "points_um": registration.points.round(1).tolist(),
        "errors_um": registration.errors_um.round(2).tolist(),
    }


def _restore(patient: str, name: str, sections: tuple[Section, ...], old: Mapping[str, Any]) -> Block:
    registrations = {}
    for key, values in old["sections"].items():
        transform = None if values["transform"] is None else decode_transform(values["transform"])
        known = [name for name in _STORED if name in values]
        plain: dict[str, Any] = {name: np.nan if values[name] is None else values[name] for name in known}
        points = np.array(values["points_um"], float).reshape(-1, 2)
        errors = np.array([np.inf if e is None else e for e in values["errors_um"]], float)
        registrations[key] = Registration(transform, points=points, errors_um=errors, **plain)
    return Block(patient, name, sections, old["reference"], registrations)
