# This module touches files: it keeps a run's log of draws.
"""Draws of fields made by hand: every one a line of a log, and none after a count without a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histoquant.errors import FieldsError, StorageError
from histoquant.results import read_json, read_record

LOG = "draws.jsonl"


def list_draws(run: Path, section: str) -> list[dict[str, Any]]:
    """List the draws of a section that were logged in a run's folder, the oldest first.

    Parameters
    ----------
    run : Path
        The folder; it may be absent.
    section : str
        ID of the section.

    Returns
    -------
    list of dict
        time, section, seed, settings, fields, counted (whether counts existed), reason.

    Raises
    ------
    FieldsError
        The log cannot be read, or a line of it is damaged.
    """
    path = run / LOG
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise FieldsError(f"cannot be read ({error})", path, "mend the file or its permissions") from error
    draws = []
    # Not by splitlines: it breaks at signs that a reason may hold, those of a pasted line say.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            draw = json.loads(line)
            if draw["section"] == section:
                draws.append(draw)
        except (ValueError, KeyError, TypeError) as error:
            raise FieldsError("is damaged", f"{path}, line {number}", "mend the line or remove it") from error
    return draws


def log_draw(run: Path, section: str, folder: str, receipt: Mapping[str, Any], reason: str = "") -> None:
    """Log a draw before its fields are used.

    Choosing fields by their result is how studies go wrong. So once a section has counts, other fields
    need a reason, and every draw stays in the log, those never measured included.

    Parameters
    ----------
    run : Path
        The run's folder; made if absent.
    section, folder : str
        ID of the section, and the name of its folder.
    receipt : mapping
        Of the draw: seed, settings, fields.
    reason : str, optional
        Why the fields are drawn anew.

    Raises
    ------
    FieldsError
        The section has counts, the fields are others, and no reason is given.
    StorageError
        The log cannot be written.
    """
    counted = read_record(run / "sections" / folder)
    stored = read_json(run / "sections" / folder / "receipt.json")
    anew = counted is not None and not (
        isinstance(stored, dict) and stored.get("fields") == receipt["fields"]
    )
    if anew and not reason.strip():
        raise FieldsError(
            "has been counted in other fields already",
            section,
            "give the reason for drawing anew; it is logged",
        )
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "section": section,
        **{key: receipt[key] for key in ("seed", "settings", "fields")},
        "counted": counted is not None,
        "reason": reason.strip(),
    }
    path = run / LOG
    try:
        run.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", path, "choose another folder for the results"
        ) from error
