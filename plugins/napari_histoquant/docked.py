"""When a dock is closed: napari takes its widget out and keeps it, without closing it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent


def is_undocked(widget: Any, event: Any) -> bool:
    """Whether a `changeEvent` says that a widget was taken out of its dock."""
    return bool(event.type() == QEvent.Type.ParentChange) and widget.parent() is None
