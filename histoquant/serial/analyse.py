# This module touches files: it writes what was found of a study's blocks.
"""From registered blocks to matched fields, tables and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant.errors import HistoquantError
from histoquant.fields import spawn_generator
from histoquant.protocol import Protocol
from histoquant.results import open_run, read_json, write_bytes, write_table
from histoquant.serial.blocks import Block, read_ground
from histoquant.serial.compare import COLUMNS, compare_markers, read_measured
from histoquant.serial.draw import match_fields
from histoquant.serial.page import build_page, tell_comparisons
from histoquant.study import Study

REGISTRATION_COLUMNS = (
    *("patient", "block", "marker", "section", "reference", "registered", "flipped", "angle_deg"),
    *("error_um", "error_90_um", "found_share", "places", "draw", "reason"),
)


def has_own_draw(run: Path) -> bool:
    """Whether a folder holds a run whose fields were not matched by this command."""
    if not (run / "run.json").is_file():
        return False
    receipts = [read_json(path) or {} for path in run.glob("sections/*/receipt.json")]
    return bool(receipts) and all(receipt.get("draw") != "matched" for receipt in receipts)


def place_fields(
    study: Study, blocks: Sequence[Block], protocol: Protocol, seed: int
) -> tuple[Study, list[str]]:
    """Give the sections of every block matched fields.

    Parameters
    ----------
    study : Study
        All sections.
    blocks : sequence of Block
        Registered.
    protocol : Protocol
        Fields and tissue.
    seed : int
        The draw of a block depends on it and on the block's name alone.

    Returns
    -------
    study : Study
        Only sections of blocks; those without a place have a problem.
    troubles : list of str
        Blocks in which no field can be matched.
    """
    placed: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    troubles: list[str] = []
    for block in blocks:
        try:
            grounds = {section.id: read_ground(section, protocol) for section in block.registered}
            rng = spawn_generator(seed, f"block {block.title}")
            placed |= match_fields(block, grounds, protocol.fields, rng)
        except HistoquantError as error:
            troubles.append(str(error))
            problems |= {section.id: str(error) for section in block.sections}
            continue
        for section in block.sections:
            if (reason := block.registrations[section.id].reason) and section.id not in placed:
                problems[section.id] = f"not registrable: {reason}"
    sections = []
    for block in blocks:
        for section in block.sections:
            if section.id in placed:
                sections.append(replace(section, placed=placed[section.id]))
            else:
                sections.append(replace(section, problem=section.problem or problems[section.id]))
    order = {section.id: at for at, section in enumerate(study.sections)}
    sections.sort(key=lambda section: order[section.id])
    return replace(study, sections=tuple(sections)), troubles


def analyse_study(
    run: Path, blocks: Sequence[Block], left_out: Mapping[str, str], protocol: Protocol, seed: int
) -> tuple[Path, list[str]]:
    """Compare markers in a run's stored fields, and write tables and page to `serial/` of its folder.

    Returns
    -------
    page : Path
    told : list of str
        What was found, in sentences.
    """
    sections = [section for block in blocks for section in block.sections]
    measured = {section.id: found for section in sections if (found := read_measured(run, section, protocol))}
    comparisons = compare_markers(blocks, measured, seed, protocol.statistics.confidence)
    rows = [row for comparison in comparisons for row in comparison.rows]
    overlap = pd.DataFrame(rows, columns=list(COLUMNS))
    registrations = tabulate_registrations(blocks, {key: one.draw for key, one in measured.items()})
    page = build_page(blocks, left_out, registrations, comparisons, measured, protocol)
    folder = run / "serial"
    with open_run(run):
        folder.mkdir(exist_ok=True)
        for name, table in (("registrations", registrations), ("overlap", overlap)):
            floats = table.select_dtypes("float").columns
            write_table(folder / f"{name}.csv", table.assign(**{one: table[one].round(6) for one in floats}))
        write_bytes(folder / "serial.html", page.encode())
    return folder / "serial.html", tell_comparisons(comparisons)


def tabulate_registrations(blocks: Sequence[Block], draws: Mapping[str, str]) -> pd.DataFrame:
    """Tabulate how every section of every block was registered.

    Parameters
    ----------
    blocks : sequence of Block
        Blocks.
    draws : mapping of str to str
        Kind of draw by section.

    Returns
    -------
    DataFrame
        `REGISTRATION_COLUMNS`.
    """
    rows = []
    for block in blocks:
        for section in block.sections:
            found = block.registrations[section.id]
            transform = found.transform
            rows.append(
                (
                    *(block.patient, block.name, section.marker, section.id, block.reference),
                    *("no" if transform is None else "yes",),
                    *("" if transform is None else "yes" if transform.flips else "no",),
                    float("nan") if transform is None else transform.angle_deg,
                    *(found.error_um, found.error_90_um, found.near, found.blocks),
                    *(draws.get(section.id, ""), found.reason or _tell_hand(found.landmarks)),
                )
            )
    return pd.DataFrame(rows, columns=list(REGISTRATION_COLUMNS))


def _tell_hand(landmarks: int) -> str:
    return f"from {landmarks} landmarks set by hand" if landmarks else ""
