"""Clumps of touching objects: parted where there is something to part, made whole one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.compiled import Compiled
from histoquant.spans import Spans, list_spans

FloatImage = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_ONE = np.uint64(1)
# To a compiler a plain 0 is a type of its own: what is called with it would be compiled twice.
_ZERO = cast(int, np.int64(0))
_FAR = 2**62
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
# A word with one bit set, times this, has the bit's place in its highest six (de Bruijn).
_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACES = np.zeros(64, np.int64)
_PLACES[[(int(_BRUIJN) << place) % 2**64 >> 58 for place in range(64)]] = np.arange(64)


def part_clumps(height: FloatImage, seeds: Labels, mask: Mask, low: float = -np.inf) -> Labels:
    """Part a mask by watershed, which is run only where it decides something.

    A clump of pixels below `low` with one seed is that seed's: it is flooded before anything higher is. The
    result is that of the watershed of the whole mask, but for heights that are alike and for places between
    two low clumps of which one has a sill inside.

    Parameters
    ----------
    height : ndarray of float32, shape (rows, columns)
        Flooded from below; no NaN.
    seeds : ndarray of int32, same shape
        Positive where flooding starts, 0 elsewhere.
    mask : ndarray of bool, same shape
        What is flooded; neighbours are those at a side.
    low : float, optional
        A height below which most basins are apart; the more is below it, the less is flooded.

    Returns
    -------
    ndarray of int32, same shape
        The seed's label; 0 outside the mask and in clumps without a seed.

    References
    ----------
    Barnes R, Lehman C, Mulla D. Priority-flood: an optimal depression-filling and watershed-labeling
    algorithm for digital elevation models. Computers & Geosciences 2014, 62:117-127.

    Examples
    --------
    >>> mask = np.array([[1, 1, 0, 1, 1, 1, 0, 1]], bool)
    >>> part_clumps(np.zeros(mask.shape, np.float32), np.array([[0, 5, 0, 7, 0, 8, 0, 0]], np.int32), mask)
    array([[5, 5, 0, 7, 7, 8, 0, 0]], dtype=int32)
    """
    columns = mask.shape[1]
    # A rim, of which one column serves both sides, saves asking for the image's border. The state is negative
    # where something is to be flooded, 0 where not, and a label where there is one.
    rim, at_seed = ((1, 1), (0, 1)), np.flatnonzero(mask & (seeds > 0))
    state = np.pad(np.negative(mask, dtype=np.int32), rim)
    state.ravel()[_space_rows(at_seed, columns) + columns + 1] = seeds.ravel()[at_seed]
    spans = list_spans((mask & (height < low)).astype(np.int32))
    parent, owner = np.arange(len(spans.rows)), np.zeros(len(spans.rows), np.int32)
    _join_touching(parent, spans.index, spans.rows, spans.first, spans.last)
    _give(state, owner, parent, spans.rows + 1, spans.first, spans.last)
    # What has no label, and what lies beside that.
    near = cv2.dilate((state < 0).view(np.uint8), _CROSS).view(bool) & (state != 0)
    places = np.flatnonzero(near)
    _flood_places(state.ravel(), places, np.pad(height, rim).ravel()[places], columns + 1)
    return np.asarray(np.maximum(state[1:-1, :-1], 0), np.int32)


def part_places(at: Longs, shape: tuple[int, ...], heights: FloatImage, seeds: Ints) -> Ints:
    """Part clumps as `part_clumps` does, given where there are any: quick if they are few.

    A clump with one seed is that seed's: clumps do not touch.

    Parameters
    ----------
    at : ndarray of int64, shape (places,)
        Where the mask is true: places of the flattened image, ascending.
    shape : tuple of int
        Rows and columns of the image.
    heights : ndarray of float32, shape (places,)
        Flooded from below; no NaN.
    seeds : ndarray of int32, shape (places,)
        Positive where flooding starts, 0 elsewhere.

    Returns
    -------
    ndarray of int32, shape (places,)
        The seed's label; 0 in clumps without a seed.

    Examples
    --------
    >>> part_places(np.array([0, 1, 3]), (1, 4), np.zeros(3, np.float32), np.array([5, 0, 0], np.int32))
    array([5, 5, 0], dtype=int32)
    """
    pitch = shape[1] + 1
    state, places = np.zeros((shape[0] + 2) * pitch, np.int32), _space_rows(at, shape[1]) + pitch
    _claim(state, places, seeds, pitch)
    _flood_places(state, places, heights, pitch)
    return np.asarray(np.maximum(state[places], 0), np.int32)


def name_pieces(at: Longs, columns: int, sides: Literal[4, 8] = 4) -> Ints:
    """Number the pieces of a mask as `cv2.connectedComponents` does, given where it is true.

    Parameters
    ----------
    at : ndarray of int64, shape (places,)
        Places of the flattened image, ascending.
    columns : int
        Of the image.
    sides : int, optional
        Whether neighbours are the 4 at a side or all 8.

    Returns
    -------
    ndarray of int32, shape (places,)
        1 and up: by the first place of each piece or, with 8 sides, the first square of 2 x 2 pixels.

    Examples
    --------
    >>> name_pieces(np.array([1, 3, 4, 5]), 3), name_pieces(np.array([1, 3, 4, 5]), 3, 8)
    (array([1, 1, 1, 1], dtype=int32), array([1, 1, 1, 1], dtype=int32))
    """
    places, parent = _space_rows(at, columns), np.arange(len(at))
    _join_beside(parent, places, columns + 1, sides // 8)
    if sides == 4:
        return np.cumsum(parent == np.arange(len(at)), dtype=np.int32)[parent]
    square = places // (columns + 1) // 2 * columns + places % (columns + 1) // 2
    first = square[parent]
    np.minimum.at(first, parent, square)
    return np.asarray(np.unique(first[parent], return_inverse=True)[1] + 1, np.int32)


def _space_rows(at: Longs, columns: int) -> Longs:
    """The same places with a column between the end of a row and the next."""
    return at + at // columns


@Compiled
def _join_beside(parent: Longs, places: Longs, pitch: int, reach: int) -> None:
    """Join each place to those left of it and above it; what is joined has the first of them in common."""
    above = _ZERO
    for index in range(len(places)):
        place = places[index]
        if index > 0 and places[index - 1] == place - 1:
            _join(parent, index - 1, index)
        while places[above] < place - pitch - reach:
            above += 1
        other = above
        while places[other] <= place - pitch + reach:
            _join(parent, other, index)
            other += 1
    for index in range(len(places)):
        parent[index] = parent[parent[index]]


def _flood_places(state: Ints, places: Longs, heights: FloatImage, pitch: int) -> None:
    entries = _list_entries(state, places, heights.view(np.int32), pitch)
    entries.sort()
    _flood(state, entries, (entries & np.uint64(0xFFFFFFFF)).astype(np.int32), pitch)


@Compiled
def _give(state: Ints, owner: Ints, parent: Longs, rows: Longs, first: Longs, last: Longs) -> None:
    """Give each clump of spans to its seed, if it has but one."""
    for span in range(len(parent)):
        line, root, begin, end = state[rows[span]], parent[span], first[span], last[span] + 1
        most = np.int32(0)
        for column in range(begin, end):
            most = max(most, line[np.uint64(column)])
        for column in range(begin, end if most > 0 else begin):
            owner[root] = _agree(owner[root], max(line[column], 0))
    for span in range(len(parent)):
        line, label = state[rows[span]], owner[parent[span]]
        for column in range(first[span], last[span] + 1 if label > 0 else 0):
            line[np.uint64(column)] = label


@Compiled
def _claim(state: Ints, places: Longs, seeds: Ints, pitch: int) -> None:
    """Give each clump to its seed, if it has but one."""
    parent, owner = np.zeros(len(places) + 1, np.int32), np.zeros(len(places) + 1, np.int32)
    count = 0
    for index in range(len(places)):
        place = places[index]
        left, up = state[place - 1], state[place - pitch]
        name = max(left, up)
        if name == 0:
            count += 1
            name = parent[count] = count
        elif left != up and min(left, up) > 0:
            name = _join(parent, left, up)
        state[place] = name
        if seeds[index] != 0:
            owner[name] = _agree(owner[name], seeds[index])
    for name in range(1, count + 1):
        parent[name] = parent[parent[name]]
        owner[parent[name]] = _agree(owner[parent[name]], owner[name])
    for name in range(1, count + 1):
        owner[name] = owner[parent[name]]
    for index in range(len(places)):
        seed = max(owner[state[places[index]]], seeds[index])
        state[places[index]] = seed if seed > 0 else -1


@Compiled
def _agree(one: int, other: int) -> int:
    """The only seed of two, 0 if there is none, -1 if there are several."""
    if one == 0 or one == other:
        return other
    return one if other == 0 else -1


@Compiled
def _join(parent: npt.NDArray[Any], one: int, other: int) -> int:
    """Join two trees; the lower root stays one, and is told."""
    while parent[one] != one:
        one = parent[one]
    while parent[other] != other:
        other = parent[other]
    parent[max(one, other)] = min(one, other)
    return min(one, other)


@Compiled
def _list_entries(state: Ints, places: Longs, bits: Ints, pitch: int) -> Words:
    """List what is to be flooded and what it is flooded from: height, as a number that sorts, and place."""
    entries, count = np.empty(len(places), np.uint64), 0
    for index in range(len(places)):
        place = places[index]
        if state[place] < 0 or _has_open(state, place, pitch):
            # Bits of positive floats sort as whole numbers do, those of negative ones backwards; -0 is 0.
            bit = np.int64(bits[index])
            key = ~bit if -0x80000000 < bit < 0 else bit & 0x7FFFFFFF | 0x80000000
            entries[count] = key << 32 | place
            count += 1
    return entries[:count]


@Compiled
def _has_open(state: Ints, place: int, pitch: int) -> bool:
    beside = (state[place - pitch], state[place - 1], state[place + 1], state[place + pitch])
    return bool(min(beside) < 0)


@Compiled
def _flood(state: Ints, entries: Words, places: Ints, pitch: int) -> None:
    """Flood from the lowest place on, of those alike from where water came first.

    A place waits at its rank, one bit, so that the first bit set is the next place. Those of one height share
    the lowest rank of them, odd in the state, and stand behind each other. Here memory is what costs.
    """
    waiting = np.zeros(len(places), np.int32)
    bits = np.zeros((len(places) >> 6) + 1, np.uint64)
    words = np.zeros((len(bits) >> 6) + 1, np.uint64)
    pages = np.zeros((len(words) >> 6) + 1, np.uint64)
    rank = word = _ZERO
    for index in range(len(places)):
        place = places[index]
        if not _is_alike(entries, rank, index):
            rank = index
        if state[place] < 0:
            alike = rank < index or (index + 1 < len(entries) and _is_alike(entries, rank, index + 1))
            state[place] = -((rank + 1) << 1 | alike)
        else:
            _mark(bits, words, pages, _stand_behind(waiting, places, rank, place))
    while word >= 0:
        if bits[word] == 0:
            word = _find_next(words, pages, word)
            continue
        place = places[word << 6 | _find_lowest(bits[word])]
        bits[word] &= bits[word] - _ONE
        label = state[place]
        for step in (-pitch, -1, 1, pitch):
            # Signed, it would be asked each time whether it counts from the end.
            beside = np.uint64(place + step)
            turn = -state[beside]
            if turn > 0:
                slot = (turn >> 1) - 1
                if turn & 1:
                    slot = _stand_behind(waiting, places, slot, place + step)
                state[beside] = label
                _mark(bits, words, pages, slot)
                word = min(word, slot >> 6)


@Compiled
def _is_alike(entries: Words, one: int, other: int) -> bool:
    return bool((entries[one] ^ entries[other]) >> np.uint64(32) == 0)


@Compiled
def _stand_behind(waiting: Ints, places: Ints, rank: int, place: int) -> int:
    """Slot of a place behind those of its rank which came before."""
    slot = rank + waiting[rank]
    waiting[rank] += 1
    places[slot] = place
    return int(slot)


@Compiled
def _mark(bits: Words, words: Words, pages: Words, slot: int) -> None:
    """Set the bit of a slot, that of its word, and that of its word's word."""
    bits[slot >> 6] |= _ONE << np.uint64(slot & 63)
    words[slot >> 12] |= _ONE << np.uint64(slot >> 6 & 63)
    pages[slot >> 18] |= _ONE << np.uint64(slot >> 12 & 63)


@Compiled
def _find_next(words: Words, pages: Words, word: int) -> int:
    """The first word with a bit set, where `word` has none any more nor has any before it; -1 if none has."""
    above, page = word >> 6, word >> 12
    words[above] &= ~(_ONE << np.uint64(word & 63))
    if words[above] == 0:
        pages[page] &= ~(_ONE << np.uint64(above & 63))
    while page < len(pages) and pages[page] == 0:
        page += 1
    if page == len(pages):
        return -1
    above = page << 6 | _find_lowest(pages[page])
    return above << 6 | _find_lowest(words[above])


@Compiled
def _find_lowest(word: np.uint64) -> int:
    """Place of the lowest bit that is set."""
    return int(_PLACES[(word & (~word + _ONE)) * _BRUIJN >> np.uint64(58)])


def find_wholes(spans: Spans) -> Spans:
    """Find objects made whole: the largest 4-connected piece of each, its holes filled.

    Parameters
    ----------
    spans : Spans
        Of a label map.

    Returns
    -------
    Spans
        Object by object, each row by row; what lies in a hole of another object is in both.

    Examples
    --------
    >>> wholes = find_wholes(list_spans(np.array([[2, 2, 2, 0, 2], [2, 0, 2, 0, 0], [2, 2, 2, 0, 0]])))
    >>> wholes.rows.tolist(), wholes.first.tolist(), wholes.last.tolist()
    ([0, 1, 2], [0, 0, 0], [2, 2, 2])
    """
    alone = np.arange(len(spans.rows))
    kept = np.flatnonzero(_find_largest(alone, spans.index, spans.rows, spans.first, spans.last))
    kept = kept[np.argsort(spans.index[kept], kind="stable")]
    index, rows, first, last = (part[kept] for part in (spans.index, spans.rows, spans.first, spans.last))
    holes = _find_holes(np.arange(len(rows) + 1), index, rows, first, last)
    begins, ends = np.flatnonzero(~holes[:-1]), np.flatnonzero(~holes[1:])
    return Spans(spans.labels, index[begins], rows[begins], first[begins], last[ends])


@Compiled
def _join_touching(parent: Longs, index: Longs, rows: Longs, first: Longs, last: Longs) -> None:
    """Join spans of one object that touch; what is joined has the first of them in common."""
    above = _ZERO
    for span in range(len(rows)):
        while rows[above] < rows[span] and (rows[above] < rows[span] - 1 or last[above] < first[span]):
            above += 1
        other = above
        while rows[other] < rows[span] and first[other] <= last[span]:
            if index[other] == index[span]:
                _join(parent, other, span)
            other += 1
    for span in range(len(rows)):
        parent[span] = parent[parent[span]]


@Compiled
def _find_largest(parent: Longs, index: Longs, rows: Longs, first: Longs, last: Longs) -> Mask:
    """Which spans are of their object's largest piece, of the first if several are alike."""
    _join_touching(parent, index, rows, first, last)
    count = len(rows)
    sizes, most = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for span in range(count):
        sizes[parent[span]] += last[span] - first[span] + 1
    for span in range(count):
        most[index[span]] = max(most[index[span]], sizes[span])
    largest = np.zeros(count, np.bool_)
    for span in range(count):
        if sizes[span] == most[index[span]]:
            largest[span], most[index[span]] = True, -1
        largest[span] |= largest[parent[span]]
    return largest


@Compiled
def _find_holes(parent: Longs, index: Longs, rows: Longs, first: Longs, last: Longs) -> Mask:
    """Whether what is left of each span is a hole; at the end, as at the beginning, none."""
    # Whatever lies between two spans of a row is joined to what it touches in the next row; 0 is outside.
    count, above, begin = len(rows), _ZERO, _ZERO
    while begin < count:
        end = begin + 1
        while end < count and index[end] == index[begin] and rows[end] == rows[begin]:
            end += 1
        is_top = above == begin or index[above] != index[begin]
        if is_top or end == count or index[end] != index[begin]:
            for span in range(begin + 1, end):
                _join(parent, _ZERO, span)
        if not is_top and end - above > 2:
            _join_gaps(parent, first, last, above, begin, end)
        above, begin = begin, end
    holes = np.zeros(count + 1, np.bool_)
    for span in range(1, count):
        while parent[parent[span]] != parent[span]:
            parent[span] = parent[parent[span]]
        holes[span] = parent[span] != 0 and index[span] == index[span - 1] and rows[span] == rows[span - 1]
    return holes


@Compiled
def _join_gaps(parent: Longs, first: Longs, last: Longs, above: int, begin: int, end: int) -> None:
    """Join gaps of a row, from span `begin` to `end`, to those they touch in the row above it."""
    upper, lower = above, begin  # the spans to the right of two gaps
    while upper < begin or lower < end:
        up = last[upper - 1] + 1 if upper > above else -1
        low = last[lower - 1] + 1 if lower > begin else -1
        up_end = first[upper] if upper < begin else _FAR
        low_end = first[lower] if lower < end else _FAR
        if max(up, low) < min(up_end, low_end):
            one = upper if above < upper < begin else _ZERO
            _join(parent, one, lower if begin < lower < end else _ZERO)
        if up_end < low_end:
            upper += 1
        else:
            lower += 1


def list_wholes(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice], Mask]]:
    """List objects made whole, as `find_wholes` does, one by one.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        0 is background.

    Yields
    ------
    int, tuple of slice, ndarray of bool
        Label, ascending; box around all its pieces; the object in that box.

    Examples
    --------
    >>> [(number, whole.astype(int).tolist()) for number, _, whole in list_wholes(
    ...     np.array([[2, 2, 2, 0, 2], [2, 0, 2, 0, 0], [2, 2, 2, 0, 0]], np.int32))]
    [(2, [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])]
    """
    spans = list_spans(labels)
    boxes, wholes = spans.frame(), find_wholes(spans)
    ends = np.searchsorted(wholes.index, np.arange(len(boxes) + 1))
    for number, box, begin, end in zip(wholes.labels.tolist(), boxes, ends[:-1], ends[1:], strict=True):
        shape = [part.stop - part.start for part in box]
        rows = wholes.rows[begin:end] - box[0].start
        edges = np.zeros((shape[0], shape[1] + 1), np.int8)
        edges[rows, wholes.first[begin:end] - box[1].start] = 1
        edges[rows, wholes.last[begin:end] + 1 - box[1].start] = -1
        yield number, box, edges.cumsum(axis=1)[:, :-1] > 0
