"""Images that are read where they are looked at: larger than memory, indexed as any other."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Read = Callable[[int, int, int, int], npt.NDArray[Any]]
_TILE_PX = 1024


class LazyArray:
    """An image whose pixels are read tile by tile, when they are asked for.

    Integers, slices and an ellipsis give what they give of a numpy array, as another lazy array that has read
    nothing yet; only a single value is read at once. `numpy.asarray` reads.

    Parameters
    ----------
    shape : tuple of int
        Rows, columns, and channels where there are any.
    dtype : dtype
        Of the pixels.
    read : callable
        Takes x, y, width and height of a box inside the image, px, and gives its pixels, all channels. It is
        called from several threads at once.

    Attributes
    ----------
    dtype : dtype
        Of the pixels.

    Examples
    --------
    >>> whole = np.arange(12).reshape(3, 4)
    >>> lazy = LazyArray((3, 4), int, lambda x, y, width, height: whole[y : y + height, x : x + width])
    >>> lazy[1:, ::-2]
    LazyArray(shape=(2, 2), dtype=int64)
    >>> np.asarray(lazy[1:, ::-2])
    array([[ 7,  5],
           [11,  9]])
    """

    def __init__(self, shape: Iterable[int], dtype: npt.DTypeLike, read: Read) -> None:
        self.dtype = np.dtype(dtype)
        self._read = read
        # Of every axis of the image: its pixels shown, or the one at which it is cut.
        self._picks: tuple[int | range, ...] = tuple(range(length) for length in shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return tuple(len(pick) for pick in self._picks if isinstance(pick, range))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Length of a tile along every axis: what is best read together."""
        return tuple(min(len(pick), _TILE_PX) or 1 for pick in self._picks if isinstance(pick, range))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single value has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray(shape={self.shape}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it never changes, and what it reads from cannot be copied

    def __getitem__(self, key: Any) -> Any:
        """Part of the image.

        Parameters
        ----------
        key : int, slice, ellipsis or tuple of them
            As for a numpy array.

        Returns
        -------
        LazyArray or scalar

        Raises
        ------
        IndexError
            An integer is out of range, there are more indices than axes, or one is an array, a bool or None.
        """
        view = LazyArray((), self.dtype, self._read)
        keys = iter(_spread_keys(key if isinstance(key, tuple) else (key,), self.ndim))
        view._picks = tuple(_pick(one, next(keys)) if isinstance(one, range) else one for one in self._picks)
        return view if view.shape else view.__array__()[()]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read all of it."""
        if copy is False:
            raise ValueError("pixels are read from a file, which makes a copy; leave out copy=False")
        pixels = self._read_tiles()
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Read all of it, as another type."""
        return self.__array__(dtype)

    def reshape(self, *shape: Any) -> npt.NDArray[Any]:
        """Read all of it, in another shape."""
        return self.__array__().reshape(*shape)

    def _read_tiles(self) -> npt.NDArray[Any]:
        """Read forwards, tile by tile in several threads; then turn and drop axes."""
        rows, columns, *rest = ranges = [_go_forwards(pick) for pick in self._picks]
        channels = tuple(slice(one.start, one.stop, one.step) for one in rest)
        pixels = np.empty([len(one) for one in ranges], self.dtype)

        def paste(parts: tuple[tuple[slice, range], tuple[slice, range]]) -> None:
            (down, y), (across, x) = parts
            box = self._read(x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)
            pixels[down, across] = box[(slice(None, None, y.step), slice(None, None, x.step), *channels)]

        tiles = list(product(_split_by_tile(rows), _split_by_tile(columns)))
        if len(tiles) > 1:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(paste, tiles))  # raises what the first of them raised
        elif tiles:
            paste(tiles[0])
        return pixels[tuple(_turn(pick) for pick in self._picks)]


def _spread_keys(keys: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """One index for every axis, in the place of an ellipsis or of what is left out."""
    ellipses = [place for place, key in enumerate(keys) if key is Ellipsis]
    given = len(keys) - len(ellipses)
    if len(ellipses) > 1 or given > ndim:
        raise IndexError(f"{given} indices and {len(ellipses)} ellipses for an image of {ndim} axes")
    place = ellipses[0] if ellipses else given
    return (*keys[:place], *(slice(None),) * (ndim - given), *keys[place + 1 :])


def _pick(pixels: range, key: Any) -> int | range:
    """Python's ranges are sliced by the rules of numpy's arrays."""
    if isinstance(key, slice):
        return pixels[key]
    if isinstance(key, bool | np.bool) or not hasattr(key, "__index__") or np.ndim(key):
        raise IndexError(
            f"an image read on demand takes no index of type {type(key).__name__}; use integers, slices and "
            "an ellipsis, or read it first with numpy.asarray"
        )
    index = operator.index(key)
    if not -len(pixels) <= index < len(pixels):
        raise IndexError(f"index {index} is out of range for an axis of length {len(pixels)}")
    return pixels[index]


def _go_forwards(pick: int | range) -> range:
    if isinstance(pick, int):
        return range(pick, pick + 1)
    return pick if pick.step > 0 else pick[::-1]


def _turn(pick: int | range) -> int | slice:
    if isinstance(pick, int):
        return 0
    return slice(None, None, 1 if pick.step > 0 else -1)


def _split_by_tile(pixels: range) -> list[tuple[slice, range]]:
    """The places and pixels of every tile's part of an axis that runs forwards."""
    parts, first = [], 0
    while first < len(pixels):
        edge = (pixels[first] // _TILE_PX + 1) * _TILE_PX
        last = min(first - (pixels[first] - edge) // pixels.step, len(pixels))
        parts.append((slice(first, last), pixels[first:last]))
        first = last
    return parts
