"""The plugin in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from npe2 import PluginManager, PluginManifest

ROOT = Path(__file__).parents[2]


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    manifest = PluginManifest.from_file(ROOT / "plugins" / "napari_histoquant" / "napari.yaml")
    manifest.validate_imports()
    manager = PluginManager.instance()
    manager.discover()
    assert manifest.name in manager


def test_a_section_dragged_in_shows_with_a_scale_bar(viewer: Any, measured_run: Path) -> None:
    viewer.open(str(measured_run), plugin="histoquant")
    assert [layer.name for layer in viewer.layers] == [
        *("P01-CD19", "fibers", "cells", "positive cells", "fields")
    ]
    assert viewer.canvas.overlays.scale_bar.visible
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert picture[..., :3].std() > 10


def test_the_widget_opens_what_is_chosen(
    viewer: Any, measured_run: Path, study: Path, messages: list[str]
) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Open")
    widget.open_slide.native.click()
    widget.open_section.native.click()
    assert [text.splitlines()[0] for text in messages] == ["No slide is chosen.", "No run is chosen."]
    widget.slide.value = study / "slides" / "P01-BAFF-R.svs"
    widget.open_slide.native.click()
    widget.run.value = measured_run
    assert widget.section.choices == ("P01-CD19",)
    widget.open_section.native.click()
    assert len(viewer.layers) == 6
    assert len(messages) == 2
