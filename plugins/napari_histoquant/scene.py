"""What is on the screen: the slide, the layers of the plugin, found in a viewer's list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari.layers import Layer

from histoquant.errors import HistoquantError, ScaleError
from napari_histoquant.slides import KEY, LayerData


@dataclass(frozen=True)
class OpenSlide:
    """The slide on the screen: its file and the pixel size it was opened with, um/px."""

    path: Path
    mpp: float
    layer: Any


def find_slide(viewer: Any) -> OpenSlide:
    """Find the slide that is meant: the active layer if it is one, else the first.

    Parameters
    ----------
    viewer : ViewerModel
        Its layers are looked through.

    Returns
    -------
    OpenSlide

    Raises
    ------
    HistoquantError
        No slide is open.
    ScaleError
        Its pixel size is not known.
    """
    active = viewer.layers.selection.active
    layers = [active] if active is not None and get_kind(active) == "slide" else list(viewer.layers)
    layer = next((one for one in layers if get_kind(one) == "slide"), None)
    if layer is None:
        raise HistoquantError("no slide is open", fix="drag a slide into the window, or choose one in Open")
    about = layer.metadata[KEY]
    if about["mpp"] is None:
        raise ScaleError(
            "the pixel size is not known, so that nothing can be measured",
            about["path"],
            "open it again in Plugins > histoquant > Open, with its pixel size",
        )
    return OpenSlide(Path(about["path"]), about["mpp"], layer)


def get_kind(layer: Any) -> str | None:
    """What a layer of the plugin is; None for any other."""
    kind = layer.metadata.get(KEY, {}).get("kind")
    return kind if isinstance(kind, str) else None


def find_layer(viewer: Any, kind: str) -> Any | None:
    """The topmost layer of a kind, or None."""
    return next((layer for layer in reversed(viewer.layers) if get_kind(layer) == kind), None)


def put_layer(viewer: Any, data: LayerData) -> Any:
    """Show a layer, in the place of an older one of its kind."""
    layer = Layer.create(*data)
    kind = get_kind(layer)
    old = find_layer(viewer, kind) if kind else None
    if old is not None:
        viewer.layers.remove(old)
    viewer.layers.append(layer)
    return layer
