"""A slide as a layer of napari, and what every layer of the plugin has: place, units, what it is.

Loads no tables, which would take longer than all else of a slide's first picture.
"""

from __future__ import annotations

from typing import Any

from histoquant.slide import Slide

LayerData = tuple[Any, dict[str, Any], str]
KEY = "histoquant"
"""Key of a layer's metadata under which the plugin keeps what it knows of it."""
UNITS = ("um", "um")


def show_slide(slide: Slide, name: str, offset_um: tuple[float, float] = (0.0, 0.0)) -> LayerData:
    """Show a slide as a lazy multiscale image.

    Parameters
    ----------
    slide : Slide
        Stays open as long as the layer lives, since tiles are read when they are looked at.
    name : str
        Of the layer.
    offset_um : tuple of float, optional
        x and y of its upper left corner in the world.

    Returns
    -------
    tuple
        Data, properties, `image`. Without a pixel size the world's unit is the pixel.
    """
    known = slide.mpp is not None
    about = {"kind": "slide", "path": str(slide.path), "mpp": slide.mpp, "problems": list(slide.problems)}
    properties = {
        "name": name,
        "rgb": True,
        "multiscale": True,
        "metadata": {KEY: about},
        **place_image(*offset_um, slide.mpp or 1.0),
    }
    if not known:
        properties["units"] = ("pixel", "pixel")
    return slide.pyramid(), properties, "image"


def place_image(x_um: float, y_um: float, mpp: float) -> dict[str, Any]:
    """Scale and place of an image, as properties of its layer.

    Parameters
    ----------
    x_um, y_um : float
        Its upper left corner in the world; napari counts from the center of the first pixel.
    mpp : float
        Pixel size, um/px.

    Returns
    -------
    dict
        Scale, translation and units.
    """
    return {"scale": (mpp, mpp), "translate": (y_um + mpp / 2, x_um + mpp / 2), "units": UNITS}
