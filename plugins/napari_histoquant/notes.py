"""A line of text below a widget's buttons, broken where the dock ends."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import Label

_LINES = 4


def make_note(lines: int = _LINES) -> Any:
    """An empty label whose text is broken into lines, with room for so many."""
    label = Label(value="")
    label.native.setWordWrap(True)
    # The form gives a label one line, however many its text has.
    label.native.setMinimumHeight(lines * label.native.fontMetrics().lineSpacing())
    return label
