"""A dock in which something is held, a trail say, until it, what it works on or the window is closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QPushButton, QShortcut, QWidget

from napari_histoquant.messages import guard, show_info

Actions = tuple[tuple[str, str, str, str], ...]
"""Of every action its name, its text, its key and what it does."""


class HoldingDock(QWidget):
    """A dock with a sitting that is begun and ended, and actions that have a button and a key each.

    A subclass says what is held by `under_way`, `let_go` and `tell_end`, begins by `begin_sitting`, ends
    by `stop`, takes clicks by `_click`, and does what an action is for in its method `_do_<name>`.

    Parameters
    ----------
    viewer : Viewer
        The window's.
    begin : str
        Text of the button that begins.
    """

    actions: ClassVar[Actions] = ()

    def __init__(self, viewer: Any, begin: str) -> None:
        super().__init__()
        self.viewer = viewer
        self.begin = QPushButton(begin)
        self.buttons = {name: QPushButton(f"{text} ({_spell(key)})") for name, text, key, _ in self.actions}
        self.begin.clicked.connect(lambda: guard(self._toggle)())
        viewer.layers.events.removed.connect(lambda event: self._watch())
        for name, _, key, tooltip in self.actions:
            button, run = self.buttons[name], guard(getattr(self, f"_do_{name}"))
            button.setToolTip(tooltip)
            button.clicked.connect(lambda _=False, run=run: run())
            # With a button in focus the canvas hears no key.
            shortcut = QShortcut(QKeySequence(_spell(key)), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(run)

    @property
    def under_way(self) -> bool:
        """Whether something is held."""
        raise NotImplementedError

    def begin_sitting(self) -> None:
        """Begin, or say why not."""
        raise NotImplementedError

    def stop(self) -> None:
        """End; everything is kept already."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Let go what is held, without a word to widgets or layers."""
        raise NotImplementedError

    def tell_end(self) -> str:
        """Why the sitting ends now that a layer is gone; empty if it goes on."""
        raise NotImplementedError

    def closeEvent(self, event: Any) -> None:
        """End the sitting; called by Qt."""
        self.stop()
        super().closeEvent(event)

    def changeEvent(self, event: Any) -> None:
        """End the sitting when the dock is closed; called by Qt."""
        super().changeEvent(event)
        # napari takes the widget of a dock out and keeps it, without closing it.
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop()

    def listen(self, on: bool) -> None:
        """Let buttons and clicks on the picture do something."""
        for button in self.buttons.values():
            button.setEnabled(on)
        if on:
            self.viewer.mouse_drag_callbacks.append(self._click)
        elif self._click in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._click)

    def bind(self, layer: Any) -> None:
        """Let the keys work while a layer is active: napari asks the layer first."""
        for name, _, key, _ in self.actions:
            run = guard(getattr(self, f"_do_{name}"))
            layer.bind_key(key, lambda _, run=run: run(), overwrite=True)

    def _click(self, viewer: Any, event: Any) -> Iterator[None]:
        raise NotImplementedError

    def _toggle(self) -> None:
        if self.under_way:
            self.stop()
        else:
            self.begin_sitting()

    def _watch(self) -> None:
        if not self.under_way:
            return
        if not isalive(self):  # the whole window closes
            self.let_go()
        elif why := self.tell_end():
            show_info(why)
            self.stop()


def _spell(key: str) -> str:
    """A key as Qt and people know it."""
    return key.replace("Control-", "Ctrl+")
