# This module touches files: it reads the network.
"""Fibers by the shipped network: stains to network, watershed, merging of neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from histoquant.clumps import find_wholes, part_clumps
from histoquant.compiled import Compiled
from histoquant.errors import ProtocolError
from histoquant.spans import Spans, list_spans
from histoquant.stains import Stains

FloatImage = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

INPUT_MPP = 0.5
"""Pixel size of the stains that enter, um/px; the network works at twice this."""
CHANNELS = 16
"""Four images, each pixel's four quarters."""
MODEL = "models/fibers.onnx"
OUTPUTS = 3
"""Logits of fiber and of boundary, normalised distance from the boundary; more maps are left aside."""
STRIDE = 16
"""The network's deepest pixel; sides are padded to its multiple."""


class Steps(NamedTuple):
    """What the bytes that enter a network stand for: a step, and which byte stands for 0."""

    unit: float = 8 / 255
    zero: int = 128


STEPS = Steps()
"""Those of the shipped network."""

FIBER_SHARE = 0.5
PEAK_UM = 9
LEAST_PEAK = 0.25
BORDER = 0.5
_SURE = -0.1

_SOFT_OD = np.float32(0.05)
_LEAST_CONTRAST_OD = 0.005


def segment_with_network(stains: Stains, min_area_um2: float = 100.0, model: Path | None = None) -> Labels:
    """Segment muscle fibers by the network.

    Parameters
    ----------
    stains : Stains
        Stain densities; the network sees them at 0.5 um/px.
    min_area_um2 : float
        Smaller profiles are left out.
    model : Path, optional
        Another ONNX file of the same inputs and outputs.

    Returns
    -------
    ndarray of int32, shape of `stains.dab`
        Sequential labels, each one 4-connected piece without holes; fibers cut by the border stay.

    Raises
    ------
    ProtocolError
        The model cannot be read.
    """
    shape = stains.dab.shape
    if min(shape) == 0:
        return np.zeros(shape, np.int32)
    maps = run_network(prepare_input(stains, find_steps(model)), model)
    rows, columns = (int(np.ceil(side * stains.mpp / (2 * INPUT_MPP))) for side in shape)
    labels = split_fibers(maps[:, :rows, :columns], min_area_um2)
    return _enlarge(labels, shape, stains.mpp / (2 * INPUT_MPP))


def run_network(image: Bytes, model: Path | None = None) -> FloatImage:
    """Maps of the network.

    Parameters
    ----------
    image : ndarray of uint8, shape (16, rows, columns)
        From `prepare_input`.
    model : Path, optional
        Another ONNX file.

    Returns
    -------
    ndarray of float32, shape (3, rows, columns)
        Probability of fiber and of boundary, normalised distance from the boundary.

    Raises
    ------
    ProtocolError
        The model cannot be read.
    """
    with _blame_on(model):
        net = _load_network(_read_model(model))
        (maps,) = net.run(None, {net.get_inputs()[0].name: image[None]})
        maps = maps[0, :OUTPUTS]
        maps[:2] = 1 / (1 + np.exp(-maps[:2]))
    return np.asarray(maps, np.float32)


def find_steps(model: Path | None = None) -> Steps:
    """Find what the bytes that enter a network stand for.

    Parameters
    ----------
    model : Path, optional
        Another ONNX file.

    Returns
    -------
    Steps
        From the file's metadata.

    Raises
    ------
    ProtocolError
        The model cannot be read, or does not say it.
    """
    with _blame_on(model):
        told = _load_network(_read_model(model)).get_modelmeta().custom_metadata_map
        return Steps(float(told["unit"]), int(told["zero"]))


@contextmanager
def _blame_on(model: Path | None) -> Iterator[None]:
    try:
        yield
    except (MemoryError, ProtocolError):
        raise
    except Exception as error:  # of many kinds, which onnxruntime does not join under one
        if "alloc" in str(error).lower():
            raise MemoryError("not enough memory for the fiber network") from error
        raise ProtocolError("is no fiber network", model or MODEL, "give an ONNX file of its form") from error


@lru_cache(maxsize=1)
def _load_network(data: bytes) -> onnxruntime.InferenceSession:
    """A network ready to run: one thread, as workers share the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A plan of memory for an image's shape is a block of its own: 110 MB more, and no quicker.
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def hash_model(model: Path | None = None) -> str:
    """SHA-256 of a model, the shipped one if none is given.

    Raises
    ------
    ProtocolError
        The model cannot be read.
    """
    return hashlib.sha256(_read_model(model)).hexdigest()


def _read_model(model: Path | None) -> bytes:
    try:
        return model.read_bytes() if model else (resources.files("histoquant") / MODEL).read_bytes()
    except OSError as error:
        fix = "check fibers.model in the protocol" if model else "reinstall histoquant"
        raise ProtocolError("the fiber network cannot be read", model or MODEL, fix) from error


def split_fibers(maps: FloatImage, min_area_um2: float = 100.0) -> Labels:
    """Fibers from the network's maps at 1 um/px: watershed of the distance, then merging.

    Parameters
    ----------
    maps : ndarray of float32, shape (3, rows, columns)
        From `run_network`.
    min_area_um2 : float
        Smaller profiles are left out.

    Returns
    -------
    ndarray of int32, shape (rows, columns)
    """
    fiber, border, distance = maps
    inside = fiber > FIBER_SHARE
    height = cv2.GaussianBlur(cv2.subtract(border, distance), (0, 0), 1.0)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (PEAK_UM, PEAK_UM))
    lowest = (height <= cv2.erode(height, disc)) & (distance > LEAST_PEAK) & inside
    # This algorithm numbers them as they come, row by row.
    _, seeds = cv2.connectedComponentsWithAlgorithm(lowest.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_WU)
    pieces = list_spans(part_clumps(height, np.asarray(seeds, np.int32), inside, _SURE))
    wholes = find_wholes(merge_weak(pieces, border))
    return _paint(wholes.index, wholes.rows, wholes.first, wholes.last, inside.shape, min_area_um2)


def merge_weak(pieces: Spans, border: FloatImage, least: float = BORDER) -> Spans:
    """Merge neighbours, the weakest border first, until every border's mean reaches `least`.

    Parameters
    ----------
    pieces : Spans
        Of a label map.
    border : ndarray of float32
        Probability of a border.
    least : float
        Mean probability that keeps two pieces apart.

    Returns
    -------
    Spans
        Of what is merged, under the lowest label of it.

    Examples
    --------
    >>> merged = merge_weak(list_spans(np.array([[1, 1, 2, 3]])), np.array([[0, 0, 0, 1]], np.float32))
    >>> merged.labels.tolist(), merged.first.tolist(), merged.last.tolist()
    ([1, 3], [0, 3], [2, 3])
    """
    size = len(pieces.labels)
    pairs, lengths, sums = _measure_borders(pieces, border)
    owner = np.arange(size)
    while len(pairs):
        mean = sums / lengths
        # A piece merges with one neighbour a round, so that means are those of whole borders.
        best = np.full(size, np.inf)
        for column in (0, 1):
            np.minimum.at(best, pairs[:, column], mean)
        chosen = (mean < least) & (mean <= best[pairs[:, 0]]) & (mean <= best[pairs[:, 1]])
        if not chosen.any():
            break
        step = np.arange(size)
        for one, other in pairs[chosen]:
            if step[one] == one and step[other] == other:
                step[other] = one
        owner = step[owner]
        pairs, lengths, sums = _join_borders(step[pairs], lengths, sums, size)
    return pieces.join(owner)


def _measure_borders(
    pieces: Spans, border: FloatImage
) -> tuple[Longs, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pairs of neighbours, the length of each border and the sum of probabilities along it."""
    spans = pieces.index, pieces.rows, pieces.first, pieces.last
    pairs, strengths = _list_edges(*spans, np.ascontiguousarray(border))
    return _join_borders(pairs, np.ones(len(pairs)), strengths, len(pieces.labels))


@Compiled
def _list_edges(
    index: Longs, rows: Longs, first: Longs, last: Longs, border: FloatImage
) -> tuple[Longs, npt.NDArray[np.float64]]:
    """Pairs of pixels of two pieces, beside each other, then below each other, and the stronger border."""
    pairs, strengths = np.empty((2 * border.size, 2), np.int64), np.empty(2 * border.size, np.float64)
    count = above = 0
    for span in range(1, len(rows)):
        row, one, other = rows[span], last[span - 1], first[span]
        if rows[span - 1] == row and other == one + 1:
            pairs[count, 0], pairs[count, 1] = index[span - 1], index[span]
            strengths[count] = max(border[row, one], border[row, other])
            count += 1
    for span in range(len(rows)):
        row = rows[span]
        while rows[above] < row and (rows[above] < row - 1 or last[above] < first[span]):
            above += 1
        upper = above
        while rows[upper] < row and first[upper] <= last[span]:
            if index[upper] != index[span]:
                for column in range(max(first[upper], first[span]), min(last[upper], last[span]) + 1):
                    pairs[count, 0], pairs[count, 1] = index[upper], index[span]
                    strengths[count] = max(border[row - 1, column], border[row, column])
                    count += 1
            upper += 1
    return pairs[:count], strengths[:count]


def _join_borders(
    pairs: Longs,
    lengths: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
    size: int,
) -> tuple[Longs, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Add up what belongs to the same pair."""
    low, high = pairs.min(axis=1, initial=size), pairs.max(axis=1, initial=0)
    apart = low != high
    codes, index = np.unique((low * size + high)[apart], return_inverse=True)
    joined = np.stack(np.divmod(codes, size), axis=1)
    weights = (np.asarray(np.bincount(index, part[apart]), np.float64) for part in (lengths, sums))
    return np.asarray(joined, np.int64), next(weights), next(weights)


@Compiled
def _paint(
    index: Longs, rows: Longs, first: Longs, last: Longs, shape: tuple[int, int], least: float
) -> Labels:
    """Label map of objects, numbered in order, span by span; what an earlier one covers is not another's."""
    result, number, begin = np.zeros(shape, np.int32), np.int32(1), 0
    for end in range(1, len(index) + 1):
        if end < len(index) and index[end] == index[begin]:
            continue
        area = 0
        for span in range(begin, end):
            line = result[rows[span]]
            for column in range(first[span], last[span] + 1):
                area += line[np.uint64(column)] == 0
        if area >= least:
            for span in range(begin, end):
                line = result[rows[span]]
                for column in range(first[span], last[span] + 1):
                    before = line[np.uint64(column)]
                    line[np.uint64(column)] = number if before == 0 else before
            number += 1
        begin = end
    return result


def _enlarge(labels: Labels, shape: tuple[int, ...], scale: float) -> Labels:
    """Nearest neighbour by pixel centers, so that pieces stay pieces."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * scale).astype(int), old - 1)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    # Columns first, while there are few rows.
    return np.asarray(labels.take(columns, axis=1).take(rows, axis=0), np.int32)


def prepare_input(stains: Stains, steps: Steps = STEPS) -> Bytes:
    """Make the network's input: stains at 0.5 um/px and a locally normalised sum, folded to 1 um/px.

    Parameters
    ----------
    stains : Stains
        At any pixel size.
    steps : Steps, optional
        Of the network, by `find_steps`.

    Returns
    -------
    ndarray of uint8, shape (16, rows, columns)
        As `steps` say. Sides are multiples of 16, padded by reflection at the right and the
        lower border.
    """
    scale = stains.mpp / INPUT_MPP
    h, d, r = (_resize(image, scale) for image in (stains.haematoxylin, stains.dab, stains.residual))
    down, across = (_reflect(side, -(-side // (2 * STRIDE)) * 2 * STRIDE) for side in h.shape)
    folded = np.empty((CHANNELS // 4, 2, 2, len(down) // 2, len(across) // 2), np.uint8)
    density = np.empty(folded.shape[1:], np.float32)
    blocks = np.zeros((len(down) // 4, len(across) // 4), np.float32)
    lines = np.empty((4, len(across)), np.float32)
    unit, zero = map(np.float32, steps)
    _fold(h, d, r, down, across, unit, zero, lines, folded, density, blocks)
    _normalise(density, *_measure_surroundings(blocks / np.float32(16)), unit, zero, lines, folded[-1])
    return folded.reshape(CHANNELS, *folded.shape[3:])


def _reflect(side: int, padded: int) -> Longs:
    """Pixels of a side that is padded by reflection at its end."""
    return np.pad(np.arange(side), (0, padded - side), "symmetric")


@Compiled
def _fold(
    h: FloatImage,
    d: FloatImage,
    r: FloatImage,
    down: Longs,
    across: Longs,
    unit: np.float32,
    zero: np.float32,
    lines: FloatImage,
    folded: Bytes,
    density: FloatImage,
    blocks: FloatImage,
) -> None:
    """Give softened stains and the sum of two, line by line, to four images each: pixels of blocks of 2 x 2.

    The sum is added up in blocks of 4 x 4 too, in the order of `cv2.resize`.
    """
    for row in range(len(down)):
        source, width = down[row], h.shape[1]
        for at in range(width):
            lines[0, at] = _soften(h[source, at])
            lines[1, at] = _soften(d[source, at])
            lines[2, at] = _soften(r[source, at])
            lines[3, at] = h[source, at] + d[source, at]
        for image in range(4):
            for at in range(width, len(across)):
                lines[image, at] = lines[image, across[at]]
        for column in (0, 1):
            for image in range(3):
                part = folded[image, row % 2, column, row // 2]
                for at in range(len(part)):
                    part[at] = _make_byte(lines[image, 2 * at + column], unit, zero)
            whole = density[row % 2, column, row // 2]
            for at in range(len(whole)):
                whole[at] = lines[3, 2 * at + column]
        sums, block = lines[3], blocks[row // 4]
        for at in range(len(block)):
            block[at] += sums[4 * at] + sums[4 * at + 1] + sums[4 * at + 2] + sums[4 * at + 3]


@Compiled
def _soften(density: np.float32) -> np.float32:
    """Linear for weak stain, and never beyond 4."""
    return density / (abs(density) / np.float32(4) + _SOFT_OD)


@Compiled
def _make_byte(value: np.float32, unit: np.float32, zero: np.float32) -> np.uint8:
    """As onnxruntime rounds; what a byte cannot hold is its least or greatest."""
    steps = np.rint(value / unit) + zero
    return np.uint8(min(max(steps, np.float32(0)), np.float32(255)))


@Compiled
def _normalise(
    density: FloatImage,
    mean: FloatImage,
    spread: FloatImage,
    unit: np.float32,
    zero: np.float32,
    lines: FloatImage,
    folded: Bytes,
) -> None:
    """Make folded density relative to its surroundings in units of their contrast, -4 to 4.

    Each fourth row is given of mean and contrast, which are interpolated on `lines`.
    """
    most = np.float32(4)
    for row in range(2 * density.shape[2]):
        above, share = (row - 2) // 4, ((row - 2) % 4 + 0.5) / 4
        one, other = max(above, 0), min(above + 1, len(mean) - 1)
        for at in range(lines.shape[1]):
            lines[0, at] = _interpolate(mean[one, at], mean[other, at], share)
            lines[1, at] = _interpolate(spread[one, at], spread[other, at], share)
        for column in (0, 1):
            part, own = density[row % 2, column, row // 2], folded[row % 2, column, row // 2]
            for at in range(len(part)):
                place = 2 * at + column
                normal = (part[at] - lines[0, place]) / lines[1, place]
                own[at] = _make_byte(min(max(normal, -most), most), unit, zero)


@Compiled
def _interpolate(one: np.float32, other: np.float32, share: float) -> np.float32:
    """Rounded once, as OpenCV does it."""
    return np.float32(one + share * (other - one))


def _resize(image: FloatImage, scale: float) -> FloatImage:
    if not np.isclose(scale, 1.0, rtol=1e-6):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=how), np.float32)
    return np.ascontiguousarray(image)


def _measure_surroundings(density: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Mean and contrast around each pixel, nuclei left out of both, at four times the width."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    ground = cv2.morphologyEx(density, cv2.MORPH_OPEN, disc)
    mean = cv2.blur(ground, (65, 65), borderType=cv2.BORDER_REFLECT)
    # Running sums may end a rounding error below 0.
    square = cv2.blur(np.square(ground - mean), (65, 65), borderType=cv2.BORDER_REFLECT)
    spread = 2 * (np.sqrt(np.maximum(square, 0)) + _LEAST_CONTRAST_OD)
    size = 4 * density.shape[1], len(density)
    mean, spread = (cv2.resize(i, size, interpolation=cv2.INTER_LINEAR) for i in (mean, spread))
    return np.asarray(mean, np.float32), np.asarray(spread, np.float32)
