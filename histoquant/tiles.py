# This module touches files: it reads tiles of TIFF files.
"""Tiles of a TIFF decoded straight into the wanted region, checked against the reader of record.

OpenSlide composes a region on a canvas, which costs five times the decoding of JPEG. Here only the tiles that
a region touches are read, and each is decoded once into it. What is unusual is declined.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg

Rgb = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""x, y, width and height within a level, pixels."""
Decode = Callable[[bytes, Rgb], Rgb]
"""Pixels of a tile from its bytes; a buffer of the tile's size is lent to it."""

_JPEG, _JPEG_2000_RGB = 7, 33005
_RGB, _YCBCR = 2, 6
_MAX_TILE_PX = 1 << 26


@dataclass(frozen=True)
class _Grid:
    """The tiles, or strips, of one level."""

    width_px: int
    tile_px: tuple[int, int]
    shorter_px: int
    """Rows of the last strip; a tile is always whole."""
    offsets: Sequence[int]
    counts: Sequence[int]
    decode: Decode

    def list_tiles(self, box: Box) -> Iterator[tuple[int, int, int]]:
        """Number, left and top of every tile that a box touches."""
        left, top, width, height = box
        across, down = self.tile_px
        columns = -(-self.width_px // across)
        for row in range(top // down, -(-(top + height) // down)):
            for column in range(left // across, -(-(left + width) // across)):
                yield row * columns + column, column * across, row * down


class TileReader:
    """Reads regions of levels that lie in a file as tiles.

    Parameters
    ----------
    path : Path
        A TIFF file.
    pages : sequence of tifffile.TiffPage or None
        One for each level; None where it is not known.
    """

    def __init__(self, path: Path, pages: Sequence[Any]) -> None:
        self._grids = [None if page is None else _find_grid(page) for page in pages]
        about = path.stat()
        self._trusted = _recall_trust(path, about.st_size, about.st_mtime_ns)
        self._lock = threading.Lock()
        self._file = path.open("rb", buffering=0)
        self._size_bytes = about.st_size

    def read(self, level: int, box: Box, read_record: Callable[[Box], Rgb]) -> Rgb | None:
        """Read a region, or decline.

        Parameters
        ----------
        level : int
            Number of the level.
        box : tuple of int
            Region inside the level.
        read_record : callable
            The reader of record: on a process's first read of a level, one tile must come out as it says.

        Returns
        -------
        ndarray of uint8, shape (rows, columns, 3), or None
            None if this is for the reader of record.

        Raises
        ------
        Exception
            Of any kind: a tile is damaged, or the file cannot be read.
        """
        grid = self._grids[level]
        if grid is None or not self._trusted.get(level, True):
            return None
        tiles = list(grid.list_tiles(box))
        if not all(self._is_sane(grid, number) for number, _, _ in tiles):
            return None
        if level not in self._trusted:
            part = _choose_sample(grid, box, tiles, level == 0)
            self._trusted[level] = np.array_equal(self._decode_box(grid, part), read_record(part))
        return self._decode_box(grid, box) if self._trusted[level] else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_sane(self, grid: _Grid, number: int) -> bool:
        """Whether a tile is there, lies in the file, and is not far larger than its pixels."""
        offset, count = grid.offsets[number], grid.counts[number]
        most = 4 * grid.tile_px[0] * grid.tile_px[1] + 65_536
        return 0 < count <= most and offset + count <= self._size_bytes

    def _decode_box(self, grid: _Grid, box: Box) -> Rgb:
        x, y, width, height = box
        region = np.empty((height, width, 3), np.uint8)
        across, down = grid.tile_px
        buffer = make_buffer((down, across, 3))
        last_top = (len(grid.offsets) - 1) // -(-grid.width_px // across) * down
        for number, left, top in grid.list_tiles(box):
            pixels = grid.decode(self._fetch(grid, number), buffer)
            rows = grid.shorter_px if top == last_top else down
            if pixels.shape != (rows, across, 3):
                raise ValueError(f"tile {number} holds {pixels.shape[1]} x {pixels.shape[0]} px")
            x0, y0, wide, high = _clip(box, grid, left, top)
            part = pixels[y0 - top : y0 - top + high, x0 - left : x0 - left + wide]
            region[y0 - y : y0 - y + high, x0 - x : x0 - x + wide] = part
        return region

    def _fetch(self, grid: _Grid, number: int) -> bytes:
        with self._lock:
            self._file.seek(grid.offsets[number])
            return self._file.read(grid.counts[number])


@lru_cache(maxsize=256)
def _recall_trust(path: Path, size_bytes: int, modified_ns: int) -> dict[int, bool]:
    """Which levels come out as by the reader of record: a file is opened for each of its fields."""
    return {}


def make_buffer(shape: tuple[int, ...]) -> Rgb:
    """Make a buffer for one decoded tile after the other.

    libjpeg-turbo writes a line past the cache if it begins at a multiple of 32 bytes, which can double the
    time of decoding. No line of this buffer does, as those of JPEG tiles are multiples of 16 bytes.

    Parameters
    ----------
    shape : tuple of int
        Rows, columns, channels.

    Returns
    -------
    ndarray of uint8, of that shape

    Examples
    --------
    >>> make_buffer((240, 240, 3)).ctypes.data % 16
    8
    """
    size = int(np.prod(shape))
    room = np.empty(size + 16, np.uint8)
    first = (8 - room.ctypes.data) % 16
    return room[first : first + size].reshape(shape)


def _choose_sample(grid: _Grid, box: Box, tiles: list[tuple[int, int, int]], anywhere: bool) -> Box:
    """A small part of a box with its tile of most bytes, where a wrong decoder shows best.

    If not `anywhere`, the part begins where the box does, since OpenSlide places only that exactly.
    """
    first_row = [tile for tile in tiles if tile[2] == tiles[0][2]]
    _, left, top = max(tiles if anywhere else first_row, key=lambda tile: grid.counts[tile[0]])
    x, y, width, height = _clip(box, grid, left, top)
    return (x, y, width, height) if anywhere else (box[0], y, x + width - box[0], height)


def _clip(box: Box, grid: _Grid, left: int, top: int) -> Box:
    """The part of a box that lies in a tile."""
    x, y, width, height = box
    x0, x1 = max(left, x), min(left + grid.tile_px[0], x + width)
    y0, y1 = max(top, y), min(top + grid.tile_px[1], y + height)
    return x0, y0, x1 - x0, y1 - y0


def _find_grid(page: Any) -> _Grid | None:
    """The tiles of a page, None where they are not JPEG or JPEG 2000 of three channels."""
    if page.dtype != np.uint8 or page.samplesperpixel != 3 or page.planarconfig != 1 or page.fillorder != 1:
        return None
    decode = _choose_decoder(page)
    down, across = (int(size) for size in page.chunks[:2])
    width, height = int(page.imagewidth), int(page.imagelength)
    rows, columns = -(-height // down), -(-width // across)
    if decode is None or across * down > _MAX_TILE_PX or page.imagedepth != 1:
        return None
    if not len(page.dataoffsets) == len(page.databytecounts) == rows * columns:
        return None
    shorter = down if page.is_tiled else height - (rows - 1) * down
    return _Grid(width, (across, down), shorter, page.dataoffsets, page.databytecounts, decode)


def _choose_decoder(page: Any) -> Decode | None:
    if page.compression == _JPEG_2000_RGB and page.photometric == _RGB:
        return _decode_jpeg_2000
    if page.compression == _JPEG and page.photometric in (_RGB, _YCBCR):
        return _make_jpeg_decoder(page.jpegtables, page.photometric == _RGB)
    return None


def _decode_jpeg_2000(data: bytes, buffer: Rgb) -> Rgb:
    return np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1, out=buffer))


def _make_jpeg_decoder(tables: bytes | None, is_rgb: bool) -> Decode:
    """Decoder of JPEG tiles whose tables, and whose colours, are told by the TIFF.

    By simplejpeg, since imagecodecs takes what libjpeg calls corrupt for good: a damaged tile would come
    out as grey tissue.
    """
    # An Adobe marker tells libjpeg the colours, which it would guess otherwise.
    colours = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + (b"\x00" if is_rgb else b"\x01")
    start = b"\xff\xd8" + colours + (tables or b"")[2:-2]

    def decode(data: bytes, buffer: Rgb) -> Rgb:
        if data[:2] != b"\xff\xd8":
            raise ValueError("a tile is no JPEG")
        return np.asarray(simplejpeg.decode_jpeg(start + data[2:], "RGB", buffer=buffer, strict=True))

    return decode
