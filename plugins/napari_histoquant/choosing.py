"""What a user chooses: a box's choices that depend on what was opened, and a file or folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histoquant.errors import HistoquantError


def offer_choices(box: Any, names: Iterable[str]) -> None:
    """Offer choices in a box until others are offered; what is chosen stays if it is among them.

    napari resets every box whenever a layer comes or goes: to what a list was at first, or to what a
    function says now.
    """
    kept = list(names)
    box.choices = lambda _: kept


def take_path(edit: Any) -> Path | None:
    """The file or folder that was chosen in a line; None if none was.

    Parameters
    ----------
    edit : FileEdit
        The line; an empty one is the current folder to magicgui.
    """
    path: Path | None = edit.value
    return None if path == Path() else path


def require_path(edit: Any, what: str, where: str) -> Path:
    """The file or folder that was chosen in a line.

    Parameters
    ----------
    edit : FileEdit
        The line.
    what : str
        What it holds.
    where : str
        Name of the widget.

    Raises
    ------
    HistoquantError
        None was.
    """
    path = take_path(edit)
    if path is None:
        raise HistoquantError(f"no {what} is chosen", where, f"choose a {what} first")
    return path
