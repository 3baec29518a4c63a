# This module touches files: it reads the study table and fingerprints its inputs.
"""The study: which sections there are, and which files belong to each."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from histoquant.backends import open_backend
from histoquant.errors import SlideError, StudyError
from histoquant.geometry import PLAUSIBLE_MPP
from histoquant.sheets import Line, read_rows

REQUIRED = ("patient", "group", "marker", "slide")
OPTIONAL = ("section", "mpp", "kind", "block", "annotations", "batch", "control")
FIELD_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
# Names that Windows keeps for devices, whatever follows a dot.
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)")
_MAX_NAME_BYTES = 180

Kind = Literal["slide", "field"]


@dataclass(frozen=True)
class Source:
    """One row's slide, field image or folder of field images.

    Attributes
    ----------
    path : Path
        The file or folder.
    row : int
        Line of the study table, the header being 1.
    mpp : float or None
        Pixel size given, um/px.
    kind : {"slide", "field"} or None
        As given; None: decided by the file.
    annotations : Path or None
        GeoJSON of regions to keep or to exclude.
    """

    path: Path
    row: int
    mpp: float | None = None
    kind: Kind | None = None
    annotations: Path | None = None


@dataclass(frozen=True)
class Section:
    """One section of a study: a slide, or all its field images.

    Attributes
    ----------
    id : str
        `<patient>-<marker>` and what tells sections apart; seeds the draw.
    patient, group, marker, batch, control, block : str
        As in the study table; empty where not given.
    sources : tuple of Source
        One slide, or one or more field images or folders.
    extra : mapping of str to str
        Unknown columns.
    problem : str
        Why the section cannot be measured, with row and column; empty if it can.
    placed : mapping or None
        Fields that are given, not drawn: `fields`, and what the receipt says of them.
    """

    id: str
    patient: str
    group: str
    marker: str
    batch: str
    control: str
    block: str
    sources: tuple[Source, ...]
    extra: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    placed: Mapping[str, Any] | None = None

    @property
    def folder(self) -> str:
        """Name of the section's folder on disk."""
        return encode_name(self.id)


@dataclass(frozen=True)
class Study:
    """A study table as read: its sections, sorted, and how the file was read."""

    path: Path
    sections: tuple[Section, ...]
    encoding: str
    delimiter: str
    extra_columns: tuple[str, ...]


def read_study(path: Path, markers: Iterable[str]) -> Study:
    """Read a study table.

    Parameters
    ----------
    path : Path
        CSV; utf-8, utf-8-sig or GB18030; comma, semicolon or tab.
    markers : iterable of str
        Markers that the protocol knows.

    Returns
    -------
    Study
        Sections sorted by patient, marker and ID. A section with an unknown marker, a missing file
        or a bad value carries its problem.

    Raises
    ------
    StudyError
        The table is missing, empty or unreadable; a column is missing; rows contradict each other; names of
        patients or groups differ only in case, spaces or width.
    """
    encoding, delimiter, rows = read_rows(path, "study table", REQUIRED, OPTIONAL)
    extra = tuple(name for name in rows[0][1] if name not in REQUIRED + OPTIONAL) if rows else ()
    if not rows:
        raise StudyError("has no rows below its header", path, "add one row per section")
    _refuse_contradictions(rows, path)
    groups = _assign_groups(rows, path)
    known = frozenset(markers)
    members = _group_rows(rows, path)
    for column in ("patient", "group"):
        _refuse_near_names(rows, column, path)
    sections = [_make_section(name, own, groups, known, extra, path) for name, own in members.items()]
    sections.sort(key=lambda section: (section.patient, section.marker, section.id))
    return Study(path, tuple(sections), encoding, delimiter, extra)


def count_images(section: Section) -> int | None:
    """Field images of a section as far as the table tells; None for a slide or a folder."""
    if len(section.sources) > 1:
        return len(section.sources)
    source = section.sources[0]
    is_image = source.kind == "field" or source.path.suffix.lower() in FIELD_SUFFIXES
    return 1 if is_image and source.kind != "slide" and not source.path.is_dir() else None


def encode_name(name: str) -> str:
    """Make a name safe as a folder's: letters and digits of any script stay.

    Examples
    --------
    >>> encode_name("张三-CD19"), encode_name("a/b"), encode_name(".."), encode_name("nul")
    ('张三-CD19', 'a%2Fb', '%2E%2E', '%6Eul')
    """
    encoded = "".join(c if c.isalnum() or c in "-_.+=@, ()" else _percent(c) for c in name)
    if encoded[:1] in (".", " ") or _RESERVED.match(encoded):
        encoded = _percent(encoded[0]) + encoded[1:]
    if encoded[-1:] in (".", " "):
        encoded = encoded[:-1] + _percent(encoded[-1])
    if len(encoded.encode()) <= _MAX_NAME_BYTES:
        return encoded
    cut = encoded.encode()[: _MAX_NAME_BYTES - 20].decode(errors="ignore")
    return f"{cut}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def fingerprint_file(path: Path, blocks: int = 16, block_bytes: int = 65_536) -> str:
    """Fingerprint a file by its size and blocks spread over it, or a folder by its field images.

    Parameters
    ----------
    path : Path
        File or folder.
    blocks, block_bytes : int
        How many blocks are read, and their size; smaller files are read whole.

    Returns
    -------
    str
        Hexadecimal digest.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    if path.is_dir():
        # Other files come and go as people browse a folder (Thumbs.db, desktop.ini) or keep notes in it.
        return _fingerprint_folder(path, FIELD_SUFFIXES | TIFF_SUFFIXES)
    digest = hashlib.sha256()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= blocks * block_bytes:
            digest.update(file.read())
        else:
            for index in range(blocks):
                file.seek((size - block_bytes) * index // (blocks - 1))
                digest.update(file.read(block_bytes))
    companion = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and companion.is_dir():
        digest.update(_fingerprint_folder(companion).encode())
    return digest.hexdigest()


def _fingerprint_folder(path: Path, suffixes: frozenset[str] | None = None) -> str:
    """Fingerprint the visible files of a folder, or those with one of some endings."""
    digest = hashlib.sha256()
    for child in sorted(path.iterdir()):
        wanted = suffixes is None or child.suffix.lower() in suffixes
        if wanted and child.is_file() and not child.name.startswith("."):
            digest.update(os.fsencode(child.name) + b"\0" + fingerprint_file(child).encode())
    return digest.hexdigest()


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _refuse_contradictions(rows: Sequence[Line], path: Path) -> None:
    seen: dict[tuple[tuple[str, str], ...], int] = {}
    for line, row in rows:
        for name in ("patient", "marker", "slide"):
            if not row[name]:
                raise StudyError("is empty", f"{path}, row {line}, column {name}", "fill it in")
        key = tuple(row.items())
        if key in seen:
            raise StudyError(f"repeats row {seen[key]}", f"{path}, row {line}", "remove one of the two")
        seen[key] = line


def _refuse_near_names(rows: Sequence[Line], column: str, path: Path) -> None:
    """Two spellings of one name would stand for two patients, or split a group."""
    seen: dict[str, tuple[str, int]] = {}
    for line, row in rows:
        name = row[column]
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        known, first = seen.setdefault(plain, (name, line))
        if known != name:
            raise StudyError(
                f"{name} and {known} of row {first} differ only in upper and lower case, spaces or width",
                f"{path}, row {line}, column {column}",
                "write them alike, or tell them apart by more",
            )


def _assign_groups(rows: Sequence[Line], path: Path) -> dict[str, str]:
    groups: dict[str, tuple[str, int]] = {}
    for line, row in rows:
        patient, group = row["patient"], row["group"]
        if not group:
            continue
        known, first = groups.setdefault(patient, (group, line))
        if known != group:
            raise StudyError(
                f"patient {patient} is in group {group} here and in {known} in row {first}",
                f"{path}, row {line}, column group",
                "give each patient one group",
            )
    return {patient: group for patient, (group, _) in groups.items()}


def _group_rows(rows: Sequence[Line], path: Path) -> dict[str, list[Line]]:
    """Rows by section ID; numbers of unnamed sections do not depend on the table's order."""
    unnamed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for _, row in rows:
        if not row.get("section"):
            unnamed[row["patient"], row["marker"]].append(row["slide"])
    members: dict[str, list[Line]] = defaultdict(list)
    for line, row in rows:
        name = f"{row['patient']}-{row['marker']}"
        siblings = sorted(unnamed[row["patient"], row["marker"]])
        if row.get("section"):
            name += f"-{row['section']}"
        elif len(siblings) > 1:
            name += f"-{siblings.index(row['slide']) + 1}"
        members[name].append((line, row))
    folders: dict[str, str] = {}
    for name, group in members.items():
        _refuse_clash(name, group, path)
        other = folders.setdefault(encode_name(name).casefold(), name)
        if other != name:
            raise StudyError(
                f"sections {other} and {name} would share a folder",
                f"{path}, row {group[0][0]}",
                "name patient, marker or section apart by more than upper and lower case",
            )
    return {name: sorted(group, key=lambda member: member[1]["slide"]) for name, group in members.items()}


def _refuse_clash(name: str, group: Sequence[Line], path: Path) -> None:
    if len(group) == 1:
        return
    first_line, first = group[0]
    for line, row in group[1:]:
        where = f"{path}, row {line}"
        same = all(row.get(key, "") == first.get(key, "") for key in ("patient", "marker", "section"))
        if not same or not row.get("section"):
            raise StudyError(f"has the same section ID {name} as row {first_line}", where, "name the section")
        for key in ("batch", "control", "block"):
            if row.get(key, "") != first.get(key, ""):
                raise StudyError(
                    f"differs from row {first_line} of the same section",
                    f"{where}, column {key}",
                    "make them equal",
                )
    slides: dict[str, int] = {}
    for line, row in group:
        earlier = slides.setdefault(row["slide"], line)
        if earlier != line:
            raise StudyError(
                f"names the same image of section {name} as row {earlier}",
                f"{path}, row {line}, column slide",
                "remove one of the two",
            )
        if not _is_field(path.parent / row["slide"], row.get("kind", "")):
            raise StudyError(
                f"section {name} has several rows, and this one is a whole slide",
                f"{path}, row {line}, column slide",
                "only field images share a section: give each slide its own",
            )


def _is_field(path: Path, kind: str) -> bool:
    if kind.lower() in ("slide", "field"):
        return kind.lower() == "field"
    suffix = path.suffix.lower()
    try:
        if suffix in FIELD_SUFFIXES or path.is_dir():
            return True
        if suffix not in TIFF_SUFFIXES:
            return False
        with closing(open_backend(path)) as backend:
            return backend.about.is_field
    except (SlideError, OSError):
        return True  # it fails by itself, with its own reason


def _make_section(
    name: str,
    members: Sequence[Line],
    groups: Mapping[str, str],
    known: frozenset[str],
    extra: Sequence[str],
    path: Path,
) -> Section:
    problems: list[str] = []
    sources = tuple(_make_source(line, row, path, problems) for line, row in members)
    line, first = members[0]
    if first["marker"] not in known:
        problems.append(
            f"row {line}, column marker: unknown marker {first['marker']}; "
            f"add [markers.{_quote_key(first['marker'])}] to the protocol, "
            f"which knows {', '.join(sorted(known))}"
        )
    control = first.get("control", "").lower()
    if control not in ("", "positive", "negative"):
        problems.append(f"row {line}, column control: {control} is not positive, negative or empty")
    return Section(
        id=name,
        patient=first["patient"],
        group=groups.get(first["patient"], ""),
        marker=first["marker"],
        batch=first.get("batch", ""),
        control=control,
        block=first.get("block", ""),
        sources=sources,
        extra={column: "; ".join(dict.fromkeys(row[column] for _, row in members)) for column in extra},
        problem="; ".join(problems),
    )


def _quote_key(name: str) -> str:
    """A key as TOML takes it: quoted where it holds more than letters of English, digits, - and _."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _make_source(line: int, row: Mapping[str, str], table: Path, problems: list[str]) -> Source:
    slide = table.parent / row["slide"]
    if not _is_there(slide):
        problems.append(f"row {line}, column slide: {row['slide']} does not exist; check the path")
    kind = row.get("kind", "").lower()
    if kind not in ("", "slide", "field"):
        problems.append(f"row {line}, column kind: {kind} is not slide or field")
    annotations = table.parent / row["annotations"] if row.get("annotations") else None
    if annotations is not None and not _is_there(annotations):
        problems.append(
            f"row {line}, column annotations: {row['annotations']} does not exist; check the path"
        )
    mpp, trouble = _parse_mpp(row.get("mpp", ""))
    if trouble:
        problems.append(f"row {line}, column mpp: {trouble}")
    return Source(slide, line, mpp, cast("Kind | None", kind or None), annotations)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:  # absent, too long a name, or a folder closed to us
        return False
    return True


def _parse_mpp(text: str) -> tuple[float | None, str]:
    if not text:
        return None, ""
    low, high = PLAUSIBLE_MPP
    try:
        value = float(text)
    except ValueError:
        return None, f"{text} is not a number of um/px; write it with digits and a point"
    if not math.isfinite(value) or not low <= value <= high:
        return None, f"{text} um/px is implausible; a microscope's pixel is {low} to {high} um"
    return value, ""
