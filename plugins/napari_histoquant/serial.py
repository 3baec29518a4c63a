# This module touches files: it reads a run's registrations and keeps landmarks in its folder.
"""The widget Serial sections: registered sections on each other, compared, and corrected by landmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit, FloatSlider, PushButton

from histoquant.errors import HistoquantError
from histoquant.serial.blocks import Block, read_blocks
from histoquant.serial.landmarks import read_landmarks, save_landmarks
from napari_histoquant.choosing import offer_choices, require_path
from napari_histoquant.linking import (
    SECTION,
    Linked,
    choose_block,
    describe_registration,
    link_block,
    make_layer_affine,
    show_landmarks,
    show_sections,
)
from napari_histoquant.messages import guard, show_info
from napari_histoquant.notes import make_note
from napari_histoquant.refreshing import refresh_layer
from napari_histoquant.scene import find_layer, put_layer
from napari_histoquant.slides import KEY


class SerialWidget(Container):
    """Compare serial sections and correct their registration.

    Parameters
    ----------
    napari_viewer : Viewer
        Where the layers go.
    """

    def __init__(self, napari_viewer: Any) -> None:
        self.viewer = napari_viewer
        self.blocks: tuple[Block, ...] = ()
        self.linked: Linked | None = None
        self.run = FileEdit(label="run", mode="d", nullable=True, tooltip="The --out of `histoquant serial`.")
        self.block = ComboBox(label="block", choices=[], tooltip="Patient and block.")
        self.open = PushButton(text="Open block")
        self.section = ComboBox(label="section", choices=[], tooltip="What is compared with the reference.")
        # napari's style leaves no room for the number beside it.
        self.opacity = FloatSlider(
            label="opacity", value=1.0, min=0.0, max=1.0, step=0.05, readout=False, tooltip="Of the section."
        )
        self.blink = PushButton(text="Blink (K)", tooltip="The section, or what is below it.")
        self.on_reference = PushButton(
            text="Landmark on the reference (1)", tooltip="Where the pointer is, or where you click next."
        )
        self.on_section = PushButton(
            text="The same on the section (2)", tooltip="Where the pointer is, or where you click next."
        )
        self.remove = PushButton(text="Remove the last (X)")
        self.save = PushButton(text="Save landmarks", tooltip="For the next `histoquant serial`.")
        self.about = make_note()
        super().__init__(
            widgets=[
                *(self.run, self.block, self.open, self.section, self.opacity, self.blink),
                *(self.on_reference, self.on_section, self.remove, self.save, self.about),
            ]
        )
        self.wanted: Callable[[float, float], None] | None = None
        self._keys = {
            "K": guard(self._blink),
            "1": guard(lambda: self._mark(True)),
            "2": guard(lambda: self._mark(False)),
            "X": guard(self._remove),
        }
        self.run.changed.connect(guard(self._list_blocks))
        self.open.changed.connect(guard(self._open))
        self.section.changed.connect(guard(self._choose))
        self.opacity.changed.connect(guard(self._blend))
        for button, key in ((self.blink, "K"), (self.on_reference, "1"), (self.on_section, "2")):
            button.changed.connect(lambda _=None, run=self._keys[key]: run())
        self.remove.changed.connect(lambda _=None: self._keys["X"]())
        self.save.changed.connect(guard(self._save))
        self.viewer.mouse_drag_callbacks.append(self._click)

    def _list_blocks(self) -> None:
        self.blocks = read_blocks(self._require_run())
        offer_choices(self.block, [block.title for block in self.blocks])

    def _open(self) -> None:
        run = self._require_run()
        block = choose_block(self.blocks, self.block.value)
        linked = link_block(block, read_landmarks(run / "serial").get(block.title))
        layers = show_sections(linked)
        for layer in [one for one in self.viewer.layers if _is_ours(one)]:
            self.viewer.layers.remove(layer)
        self.linked = None
        shown = [self._bind(put_layer(self.viewer, data)).name for data in layers]
        self.linked = linked
        offer_choices(self.section, [name for name in linked.others if name in shown])
        self._choose()
        self.viewer.canvas.overlays.scale_bar.visible = True
        self.viewer.reset_view()

    def _choose(self) -> None:
        """Let a section be the one that is compared."""
        if self.linked is None or self.section.value is None:
            return
        for name in self.linked.others:
            layer = self._find(name)
            if layer is not None:
                layer.visible = name == self.section.value
        self._blend()
        self._tell()

    def _blend(self) -> None:
        layer = None if self.linked is None else self._find(self.section.value)
        if layer is not None:
            layer.opacity = self.opacity.value

    def _blink(self) -> None:
        layer = self._find(self._require_section())
        if layer is not None:
            layer.visible = not layer.visible

    def _mark(self, on_reference: bool) -> None:
        """Set a landmark where the pointer is, or where the next click will be."""
        section = self._require_section()
        linked = self._linked

        def mark(x: float, y: float) -> None:
            linked.add(section, on_reference, (x, y))
            self._tell()

        if self.viewer.mouse_over_canvas:
            y, x = self.viewer.cursor.position[-2:]
            mark(float(x), float(y))
        else:
            self.wanted = mark
            self.about.value = "Click the place in the picture."

    def _click(self, viewer: Any, event: Any) -> Any:
        """A click that is no drag sets the landmark that was asked for."""
        yield
        wanted, self.wanted = self.wanted, None
        if wanted is not None and event.type != "mouse_move":
            y, x = event.position[-2:]
            guard(lambda: wanted(float(x), float(y)))()

    def _remove(self) -> None:
        self._linked.remove(self._require_section())
        self._tell()

    def _tell(self) -> None:
        """Show landmarks, and the section where they put it."""
        linked, section = self._linked, self._require_section()
        layer = self._find(section)
        try:
            affine = make_layer_affine(linked.register(section))
        except HistoquantError:
            linked.remove(section)  # they give no map with the one set last
            raise
        finally:
            for data in show_landmarks(linked, section):
                self._bind(refresh_layer(self.viewer, data))
        if layer is not None:
            layer.affine = affine
        self.about.value = describe_registration(linked, section)

    def _save(self) -> None:
        run, linked = self._require_run(), self._linked
        save_landmarks(run, linked.block.title, linked.list_landmarks())
        show_info(f"Landmarks are saved. Run `histoquant serial` with --out {run} again to use them.")

    def _find(self, section: str) -> Any | None:
        return find_layer(self.viewer, f"{SECTION} {section}")

    def _bind(self, layer: Any) -> Any:
        """Let the keys work while a layer is active: napari asks the layer first."""
        for key, run in self._keys.items():
            layer.bind_key(key, lambda _, run=run: run(), overwrite=True)
        return layer

    @property
    def _linked(self) -> Linked:
        if self.linked is None:
            raise HistoquantError("no block is open", "Serial sections", "open one first")
        return self.linked

    def _require_run(self) -> Path:
        return require_path(self.run, "run", "Serial sections")

    def _require_section(self) -> str:
        if self._linked and self.section.value is None:
            raise HistoquantError("no section is chosen", "Serial sections", "choose one")
        return str(self.section.value)


def _is_ours(layer: Any) -> bool:
    return str(layer.metadata.get(KEY, {}).get("kind", "")).startswith(SECTION)
