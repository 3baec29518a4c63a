"""Images read on demand: equal to numpy's arrays, and read no further than asked."""

import copy
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant import lazy
from histoquant.lazy import LazyArray

WHOLE = np.arange(7 * 11 * 3, dtype=np.uint8).reshape(7, 11, 3)


def make_lazy(whole: Any, boxes: list[tuple[int, int, int, int]] | None = None) -> LazyArray:
    """A lazy array of an image, that notes which boxes are read."""

    def read(x: int, y: int, width: int, height: int) -> Any:
        assert x >= 0 and y >= 0 and y + height <= whole.shape[0] and x + width <= whole.shape[1]
        assert width > 0 and height > 0
        if boxes is not None:
            boxes.append((x, y, width, height))
        return whole[y : y + height, x : x + width]

    return LazyArray(whole.shape, whole.dtype, read)


def list_keys(length: int) -> st.SearchStrategy[Any]:
    edges = st.none() | st.integers(-length - 3, length + 3)
    steps = st.none() | st.integers(-length - 3, length + 3).filter(bool)
    integers = st.integers(-length, length - 1)
    return integers | integers.map(np.int64) | st.builds(slice, edges, edges, steps)


@st.composite
def draw_keys(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Some indices, with or without an ellipsis somewhere."""
    given_axes = draw(st.integers(0, len(shape)))
    if draw(st.booleans()):
        before = draw(st.integers(0, given_axes))
        after = range(len(shape) - given_axes + before, len(shape))
        head = [draw(list_keys(shape[axis])) for axis in range(before)]
        return (*head, ..., *(draw(list_keys(shape[axis])) for axis in after))
    return tuple(draw(list_keys(shape[axis])) for axis in range(given_axes))


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "_TILE_PX", 4)
        yield


@given(key=draw_keys(WHOLE.shape), data=st.data())
def test_any_index_gives_what_numpy_gives(key: tuple[Any, ...], data: st.DataObject) -> None:
    part, expected = make_lazy(WHOLE)[key], WHOLE[key]
    assert np.shape(part) == expected.shape
    np.testing.assert_array_equal(np.asarray(part), expected)
    if expected.ndim and all(expected.shape):
        again = data.draw(draw_keys(expected.shape))
        np.testing.assert_array_equal(np.asarray(part[again]), expected[again])


def test_it_tells_what_it_is_without_reading() -> None:
    boxes: list[tuple[int, int, int, int]] = []
    array = make_lazy(WHOLE, boxes)
    assert (array.shape, array.ndim, array.size, len(array)) == ((7, 11, 3), 3, 231, 7)
    assert (array.dtype, array.chunks) == (np.uint8, (4, 4, 3))
    assert array[2, ..., ::2].shape == (11, 2)
    assert array[2, ..., ::2].chunks == (4, 2)
    assert array[:0].shape == (0, 11, 3)
    assert repr(array[1:]) == "LazyArray(shape=(6, 11, 3), dtype=uint8)"
    assert copy.deepcopy([array])[0] is array
    assert np.asarray(array[:0]).shape == (0, 11, 3)
    assert boxes == []


def test_it_reads_tile_by_tile_and_no_further_than_asked() -> None:
    boxes: list[tuple[int, int, int, int]] = []
    array = make_lazy(WHOLE, boxes)
    np.testing.assert_array_equal(np.asarray(array[1:6, 3:5]), WHOLE[1:6, 3:5])
    assert sorted(boxes) == [(3, 1, 1, 3), (3, 4, 1, 2), (4, 1, 1, 3), (4, 4, 1, 2)]
    boxes.clear()
    assert array[-1, 2, 1] == WHOLE[-1, 2, 1]
    assert boxes == [(2, 6, 1, 1)]
    boxes.clear()
    np.testing.assert_array_equal(np.asarray(array[::-5, 0]), WHOLE[::-5, 0])
    assert sorted(boxes) == [(0, 1, 1, 1), (0, 6, 1, 1)]


def test_numpy_and_loops_take_it_as_an_array() -> None:
    array = make_lazy(WHOLE)
    assert np.asarray(array, np.float32).dtype == np.float32
    assert array.astype(np.int32).dtype == np.int32
    assert array.reshape(77, 3).shape == array.reshape((77, 3)).shape == (77, 3)
    assert np.max(array) == WHOLE.max()
    np.testing.assert_array_equal(np.stack(list(array)), WHOLE)  # type: ignore[call-overload]
    read = np.asarray(array)
    read[:] = 0
    np.testing.assert_array_equal(np.asarray(array), WHOLE)
    flat = make_lazy(WHOLE[..., 0])
    assert isinstance(flat[1, 2], np.uint8)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (7, "index 7 is out of range for an axis of length 7"),
        ((0, -12), "index -12 is out of range for an axis of length 11"),
        ((0, 0, 0, 0), "4 indices and 0 ellipses for an image of 3 axes"),
        ((..., 0, ...), "1 indices and 2 ellipses"),
        (None, "no index of type NoneType; use integers, slices and an ellipsis, or read it first"),
        (True, "no index of type bool"),
        (1.0, "no index of type float"),
        ([0, 1], "no index of type list"),
        (np.ones((7, 11), bool), "no index of type ndarray"),
    ],
)
def test_what_it_cannot_do_is_refused_clearly(key: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        make_lazy(WHOLE)[key]


def test_a_view_without_a_copy_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out copy=False"):
        np.asarray(make_lazy(WHOLE), copy=False)
    with pytest.raises(TypeError, match="has no length"):
        len(LazyArray((), np.uint8, lambda *_: WHOLE))


def test_what_a_reader_raises_in_a_thread_reaches_the_caller() -> None:
    def read(x: int, y: int, width: int, height: int) -> Any:
        raise OSError(f"damaged at {x // 4}" if x else "damaged")

    with pytest.raises(OSError, match=r"^damaged$"):
        np.asarray(LazyArray((2, 9), np.uint8, read))


def test_tiles_are_read_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy.os, "cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=20)

    def read(x: int, y: int, width: int, height: int) -> Any:
        both.wait()  # passes only if another tile is read at the same time
        return np.full((height, width), x, np.uint8)

    np.testing.assert_array_equal(np.asarray(LazyArray((1, 8), np.uint8, read)), [[0] * 4 + [4] * 4])
