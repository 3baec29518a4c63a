"""Densities: pixels looked up, averaged and unmixed to stains, in one pass where the scale allows."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled

FloatImage = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Three = tuple[FloatImage, FloatImage, FloatImage]

_BAND_ROWS = 32


def unmix_pixels(pixels: Pixels, tables: FloatImage, unmix: FloatImage, scale: float) -> Three:
    """Look up the density of pixels, bring it to a scale and unmix it.

    The result is that of `cv2.LUT`, `cv2.resize` by area and a product with the matrix, to the bit, in less
    than half the time.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB.
    tables : ndarray of float32, shape (3, 256)
        Density of every intensity, by channel.
    unmix : ndarray of float32, shape (3, 3)
        A row per channel, a column per stain.
    scale : float
        Pixels of the result per pixel; above 1 it is interpolated.

    Returns
    -------
    three ndarrays of float32, shape (round(rows * scale), round(columns * scale))

    Examples
    --------
    >>> tables = np.repeat(np.arange(256, dtype=np.float32)[None], 3, axis=0)
    >>> pixels = np.repeat(np.uint8([[0, 4], [8, 8]])[..., None], 3, axis=2)
    >>> unmix_pixels(pixels, tables, np.eye(3, dtype=np.float32), 0.5)[1]
    array([[5.]], dtype=float32)
    """
    pixels = np.ascontiguousarray(pixels)
    size = [round(side * scale) for side in pixels.shape[:2]]
    whole = scale > 1 or np.isclose(round(1 / scale) * scale, 1.0, rtol=1e-9)
    if scale == 0.5 and pixels.size and not any(side % 2 for side in pixels.shape[:2]):
        three, total = _make_three(size), np.empty((3, size[1]), np.float32)
        quarters = tables * np.float32(0.25)
        pairs = quarters[:, :, None] + quarters[:, None, :]
        _halve(pixels, quarters, pairs, unmix, total, *three)
        return three
    if whole or size == list(pixels.shape[:2]):
        return _resize(pixels, tables, unmix, scale)
    rows, columns = (_list_shares(side, n, 1 / scale) for side, n in zip(pixels.shape, size, strict=False))
    three, total = _make_three(size), np.zeros((3, size[1]), np.float32)
    density = np.empty((3, pixels.shape[1]), np.float32)
    _average(pixels, tables, unmix, *rows, *columns, density, np.empty_like(total), total, *three)
    return three


def _make_three(size: list[int]) -> Three:
    """Room for the result: made here, since arrays made by a compiled function take long to compile."""
    return np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)


def _resize(pixels: Pixels, tables: FloatImage, unmix: FloatImage, scale: float) -> Three:
    """Any scale, in bands of rows, which stay in the processor's cache."""
    bands = _cut_bands(pixels, scale)
    rows = np.cumsum([0, *(round(len(band) * scale) for band in bands)])
    shape = int(rows[-1]), round(pixels.shape[1] * scale)
    h, d, r = (np.empty(shape, np.float32) for _ in range(3))
    for band, top, bottom in zip(bands, rows[:-1], rows[1:], strict=True):
        parts = zip(cv2.split(band), tables, strict=True)
        channels = [_resize_channel(np.asarray(part, np.uint8), table, scale) for part, table in parts]
        for image, shares in zip((h, d, r), unmix.T, strict=True):
            part = image[top:bottom]
            np.multiply(channels[0], shares[0], out=part)
            for channel, share in zip(channels[1:], shares[1:], strict=True):
                part += channel * share
    return h, d, r


def _cut_bands(pixels: Pixels, scale: float) -> list[Pixels]:
    """Bands of rows that can be shrunk one by one: all in one, unless the scale is 1 / n."""
    if not np.isclose(round(1 / scale) * scale, 1.0, rtol=1e-9):
        return [pixels]
    high = _BAND_ROWS * round(1 / scale)
    tops = range(0, max(len(pixels) - high // 2, 1), high)
    return [pixels[top:end] for top, end in zip(tops, [*tops[1:], None], strict=True)]


def _resize_channel(channel: Pixels, table: FloatImage, scale: float) -> FloatImage:
    density = cv2.LUT(channel, table)
    if np.isclose(scale, 1.0, rtol=1e-6):
        return np.asarray(density, np.float32)
    # fx and fy, not a size: the scale stays exact where the size does not divide.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(density, None, fx=scale, fy=scale, interpolation=how), np.float32)


@Compiled
def _halve(
    pixels: Pixels,
    quarters: FloatImage,
    pairs: FloatImage,
    unmix: FloatImage,
    total: FloatImage,
    h: FloatImage,
    d: FloatImage,
    r: FloatImage,
) -> None:
    """A scale of 1/2 and even sides, given a quarter of each density, and of those of two pixels together."""
    columns = h.shape[1]
    for y in range(len(h)):
        top, low = pixels[2 * y], pixels[2 * y + 1]
        for x in range(columns):
            for c in range(3):
                upper = pairs[c, top[2 * x, c], top[2 * x + 1, c]]
                total[c, x] = upper + pairs[c, low[2 * x, c], low[2 * x + 1, c]]
        # As cv2.resize sums, which takes four columns at once and what is left one by one.
        for x in range(columns - columns % 4, columns):
            for c in range(3):
                upper = pairs[c, top[2 * x, c], top[2 * x + 1, c]]
                total[c, x] = upper + quarters[c, low[2 * x, c]] + quarters[c, low[2 * x + 1, c]]
        _unmix_row(total, unmix, h[y], d[y], r[y])


@Compiled
def _average(
    pixels: Pixels,
    tables: FloatImage,
    unmix: FloatImage,
    from_rows: Places,
    row_shares: FloatImage,
    from_columns: Places,
    shares: FloatImage,
    density: FloatImage,
    along: FloatImage,
    total: FloatImage,
    h: FloatImage,
    d: FloatImage,
    r: FloatImage,
) -> None:
    """Averages by the shares of `_list_shares`, first along rows, then over them."""
    done = -1
    for y in range(len(h)):
        for k in range(len(from_rows)):
            if row_shares[k, y] == 0:
                continue
            if from_rows[k, y] != done:
                done = from_rows[k, y]
                _average_row(pixels[done], tables, from_columns, shares, density, along)
            for c in range(3):
                _add_row(total[c], along[c], row_shares[k, y])
        _unmix_row(total, unmix, h[y], d[y], r[y])


@Compiled
def _average_row(
    row: Pixels,
    tables: FloatImage,
    from_columns: Places,
    shares: FloatImage,
    density: FloatImage,
    along: FloatImage,
) -> None:
    for x in range(len(row)):
        for c in range(3):
            density[c, x] = tables[c, row[x, c]]
    for c in range(3):
        for x in range(along.shape[1]):
            along[c, x] = 0
        for k in range(len(shares)):
            for x in range(along.shape[1]):
                along[c, x] += density[c, np.uint64(from_columns[k, x])] * shares[k, x]


@Compiled
def _add_row(total: FloatImage, along: FloatImage, share: np.float32) -> None:
    for x in range(len(total)):
        total[x] += along[x] * share


@Compiled
def _unmix_row(total: FloatImage, unmix: FloatImage, h: FloatImage, d: FloatImage, r: FloatImage) -> None:
    """Put sums in their places, and begin anew."""
    for x in range(len(h)):
        red, green, blue = total[0, x], total[1, x], total[2, x]
        h[x] = red * unmix[0, 0] + green * unmix[1, 0] + blue * unmix[2, 0]
        d[x] = red * unmix[0, 1] + green * unmix[1, 1] + blue * unmix[2, 1]
        r[x] = red * unmix[0, 2] + green * unmix[1, 2] + blue * unmix[2, 2]
        total[0, x] = total[1, x] = total[2, x] = 0


def _list_shares(size: int, number: int, step: float) -> tuple[Places, FloatImage]:
    """The pixels of which each mean is made, in order, and their shares; 0 for one that has no part.

    As in OpenCV, what a mean has of a pixel at its end is left out if it is below a thousandth of it.
    """
    low = np.arange(number) * step
    high = low + step
    last = np.minimum(np.floor(high), size - 1)
    first = np.minimum(np.ceil(low), last)
    whole = np.minimum(step, size - low)
    places = first - 1 + np.arange(int((last - first).max(initial=0)) + 2)[:, None]
    parts = ((places >= first) & (places < last)).astype(float)
    parts = np.where(places < first, first - low, parts)
    parts = np.where(places == last, np.minimum(np.minimum(high - last, 1.0), whole), parts)
    shares = np.where(parts > 1e-3, parts / whole, 0).astype(np.float32)
    return np.clip(places, 0, size - 1).astype(np.int64), shares
