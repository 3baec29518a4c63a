"""Small slides and images that tests write."""

import cv2
import numpy as np
import tifffile
from PIL import Image


def make_rgb(rows, columns, seed=0):
    """Smooth colours, so that JPEG keeps them, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 250, (rows // 16 + 2, columns // 16 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def write_aperio(path, rgb, mpp=0.25, power=40, factors=(4, 16), compression=None):
    """A pyramid that OpenSlide takes for Aperio's."""
    about = f"Aperio Image Library v12\r\n{rgb.shape[1]}x{rgb.shape[0]} (256x256)"
    about += f"|AppMag = {power}" if power else ""
    about += f"|MPP = {mpp}" if mpp else ""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, description=about, **options)
        tiff.write(rgb[::16, ::16].copy(), photometric="rgb", description=about, metadata=None)
        for factor in factors:
            size = rgb.shape[1] // factor, rgb.shape[0] // factor
            tiff.write(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), description=about, **options)
    return path


def write_ome(path, rgb, levels=2, **metadata):
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(rgb, subifds=levels - 1, metadata={"axes": "YXS", **metadata}, **options)
        for index in range(1, levels):
            small = cv2.resize(rgb, None, fx=0.5**index, fy=0.5**index, interpolation=cv2.INTER_AREA)
            tiff.write(small, subfiletype=1, **options)
    return path


def write_png(path, rgb, **options):
    Image.fromarray(rgb).save(path, **options)
    return path
