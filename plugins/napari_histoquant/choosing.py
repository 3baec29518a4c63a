"""Choices of a box that depend on what was opened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def offer_choices(box: Any, names: Iterable[str]) -> None:
    """Offer choices in a box until others are offered; what is chosen stays if it is among them.

    napari resets every box whenever a layer comes or goes: to what a list was at first, or to what a
    function says now.
    """
    kept = list(names)
    box.choices = lambda _: kept
