"""Tiles: a random view of a scene, its staining changed, and what the network shall say of it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import label

from histoquant.network import INPUT_MPP, STEPS, Steps, prepare_input
from histoquant.stains import DEFAULT_VECTORS, Stains
from training.scenes import Labels, Scene

Floats = npt.NDArray[np.float32]
WHITE = (243.0, 241.0, 239.0)
OFFSET_UM = 32.0
BOUNDARY_UM = 1.5


class Tile(NamedTuple):
    """Input (16, n, n), targets (5, n, n) and weight (n, n) at 1 um/px."""

    image: Floats
    target: Floats
    weight: Floats


def cut_tile(rng: np.random.Generator, scene: Scene, size: int) -> Tile:
    """Cut a tile of `size` um with random place, turn, size, bending and staining."""
    grid = _draw_grid(rng, scene, size)
    pixels = _look(scene.pixels, grid / scene.mpp - 0.5, cv2.INTER_LINEAR)
    coarse = cv2.resize(grid, (size, size), interpolation=cv2.INTER_AREA)
    labels = _look(scene.labels.astype(np.float32), coarse / scene.labels_mpp - 0.5, cv2.INTER_NEAREST)
    truth, known = _split_parts(labels.astype(np.int32))
    stains = _restain(rng, pixels.astype(np.uint8), truth)
    image = value_bytes(prepare_input(Stains(*stains, 0.0, 0.0, INPUT_MPP)))
    target, weight = make_targets(truth)
    return Tile(image, target, weight * known)


def value_bytes(image: npt.NDArray[np.uint8], steps: Steps = STEPS) -> Floats:
    """What the bytes of `prepare_input` stand for."""
    return (image.astype(np.float32) - steps.zero) * np.float32(steps.unit)


def _draw_grid(rng: np.random.Generator, scene: Scene, size: int) -> Floats:
    """Where in the scene, um, each pixel of 0.5 um looks; beyond its border it is mirrored."""
    n = round(size / INPUT_MPP)
    axis = (np.arange(n, dtype=np.float32) + 0.5) * INPUT_MPP - size / 2
    x, y = np.meshgrid(axis, axis)
    bend = rng.normal(0, rng.uniform(0, 3), (2, 6, 6)).astype(np.float32)
    x, y = (
        i + cv2.resize(b, (n, n), interpolation=cv2.INTER_CUBIC) for i, b in zip((x, y), bend, strict=True)
    )
    turn, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
    if rng.random() < 0.5:
        x = -x
    c, s = np.cos(turn) * scale, np.sin(turn) * scale
    rows, columns = scene.pixels.shape[:2]
    middle = rng.uniform(0, 1, 2) * (columns * scene.mpp, rows * scene.mpp)
    return np.stack([middle[0] + c * x - s * y, middle[1] + s * x + c * y], axis=-1).astype(np.float32)


def _look(image: npt.NDArray[np.generic], at: Floats, how: int) -> npt.NDArray[np.float32]:
    at = np.ascontiguousarray(at, np.float32)
    return np.asarray(cv2.remap(image, at, None, how, borderMode=cv2.BORDER_REFLECT))


def _split_parts(labels: Labels) -> tuple[Labels, Floats]:
    """Connected parts numbered anew, and 1 where the truth is known."""
    known = cv2.erode((labels >= 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    parts = label(np.maximum(labels, 0), connectivity=1, background=0)
    return parts.astype(np.int32), known.astype(np.float32)


def make_targets(labels: Labels) -> tuple[Floats, Floats]:
    """Foreground, boundary, normalised distance and offsets; and weights, higher at narrow gaps."""
    fiber = labels > 0
    edge = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[a] != labels[b]
        edge[a] |= differ
        edge[b] |= differ
    away = cv2.distanceTransform(1 - edge.astype(np.uint8), cv2.DIST_L2, 5)
    depth = np.where(fiber, away + 0.5, 0).astype(np.float32)
    number = int(labels.max()) + 1
    deepest, size = (
        np.full(number, 3.0, np.float32),
        np.maximum(np.bincount(labels.ravel(), minlength=number), 1),
    )
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    offsets = []
    for place in np.meshgrid(*(np.arange(n, dtype=np.float32) for n in labels.shape[::-1])):
        middle = np.bincount(labels.ravel(), place.ravel(), number) / size
        offsets.append(np.where(fiber, (middle[labels] - place) / OFFSET_UM, 0))
    target = np.stack([fiber, away < BOUNDARY_UM, depth / deepest[labels], *offsets]).astype(np.float32)
    return target, np.where(away < 4, 2.0, 1.0).astype(np.float32)


def _restain(rng: np.random.Generator, pixels: npt.NDArray[np.uint8], truth: Labels) -> list[Floats]:
    """Densities of haematoxylin, DAB and residual, with what staining, light and vectors may do to them."""
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    white = np.array(WHITE) * np.exp(rng.normal(0, 0.02, 3))
    od = np.log10(np.maximum(white, 1) / np.maximum(pixels, 1)).astype(np.float32)
    unmix = np.linalg.inv(_turn_vectors(rng)).astype(np.float32)
    stains = od @ unmix
    stains = stains * np.exp(rng.normal(-0.1, (0.4, 0.3, 0.2))).astype(np.float32)
    stains = stains + _shift_parts(rng, truth, stains.shape[:2])
    if rng.random() < 0.25:
        stains = _stitch(rng, stains)
    stains = stains + rng.normal(0, 0.008, 3).astype(np.float32)
    if rng.random() < 0.5:
        stains = cv2.GaussianBlur(stains, (0, 0), rng.uniform(0.2, 1.5) / INPUT_MPP)
    if rng.random() < 0.5:
        stains = stains + rng.standard_normal(stains.shape, np.float32) * np.float32(rng.uniform(0, 0.015))
    return [np.ascontiguousarray(stains[..., i], np.float32) for i in range(3)]


def _turn_vectors(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    first, second = (np.array(v) + rng.normal(0, 0.06, 3) for v in DEFAULT_VECTORS)
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    third = np.cross(first, second)
    return np.stack([first, second, third / np.linalg.norm(third)])


def _shift_parts(rng: np.random.Generator, truth: Labels, shape: tuple[int, int]) -> Floats:
    """Connective tissue darker or paler than it was, and every fiber by itself."""
    shift = np.zeros((*truth.shape, 3), np.float32)
    if rng.random() < 0.5:
        gap = rng.normal(0, (0.04, 0.03, 0.01)).astype(np.float32)
        shift += (truth == 0)[..., None] * gap
    if rng.random() < 0.5:
        own = rng.normal(0, rng.uniform(0, 0.03), (int(truth.max()) + 1, 3)) * (1, 0.7, 0.2)
        own[0] = 0
        shift += own[truth].astype(np.float32)
    if rng.random() < 0.2:
        brown = rng.uniform(0.05, 0.4, int(truth.max()) + 1) * (rng.random(int(truth.max()) + 1) < 0.15)
        brown[0] = 0
        shift[..., 1] += brown[truth].astype(np.float32)
    soft = cv2.GaussianBlur(shift, (0, 0), 0.7)
    return np.asarray(cv2.resize(soft, shape[::-1], interpolation=cv2.INTER_LINEAR))


def _stitch(rng: np.random.Generator, stains: Floats) -> Floats:
    """A step of density along a row and a column, as between badly matched tiles of a scanner."""
    steps = np.zeros_like(stains)
    row, column = (int(rng.integers(side)) for side in stains.shape[:2])
    steps[row:] += rng.normal(0, (0.01, 0.03, 0.01)).astype(np.float32)
    steps[:, column:] += rng.normal(0, (0.01, 0.03, 0.01)).astype(np.float32)
    return stains + steps
