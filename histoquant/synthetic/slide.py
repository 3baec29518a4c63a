# This module touches files: it writes slides.
"""Write a section as a pyramidal slide."""

from __future__ import annotations

from pathlib import Path

import cv2
import tifffile

from histoquant.synthetic.section import Section


def write_section(section: Section, path: Path, quality: int = 85) -> None:
    """Write a tiled JPEG pyramid as Aperio's scanners do; OpenSlide reads pixel size and power.

    Parameters
    ----------
    section : Section
        What to write.
    path : Path
        File, `.svs`.
    quality : int, optional
        JPEG quality, 1 to 100.
    """
    pixels = section.pixels
    about = (
        f"Aperio Image Library v12.0.0\r\n{pixels.shape[1]}x{pixels.shape[0]} (256x256) JPEG Q={quality}"
        f"|AppMag = {10 / section.mpp:g}|MPP = {section.mpp:g}"
    )
    jpeg = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": quality},
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as slide:
        slide.write(pixels, description=about, tile=(256, 256), **jpeg)
        small = cv2.resize(pixels, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
        tiny = cv2.resize(small, None, fx=1 / 4, fy=1 / 4, interpolation=cv2.INTER_AREA)
        # The second image of such a file is its thumbnail.
        slide.write(tiny, description=about, **jpeg)
        for level in (small, tiny):
            slide.write(level, description=about, subfiletype=1, tile=(256, 256), **jpeg)
