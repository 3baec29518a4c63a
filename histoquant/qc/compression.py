"""Compression: how coarsely JPEG has rounded an image, from its pixels or from the file's own tables."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

Floats = npt.NDArray[np.float32]

# Luminance, quality 50: T.81, Table K.1, at the nine frequencies that are looked at, and as a whole.
_STEPS = {
    (0, 1): 11, (1, 0): 12, (1, 1): 12, (0, 2): 10, (2, 0): 14,
    (1, 2): 14, (2, 1): 13, (0, 3): 16, (3, 0): 14,
}  # fmt: skip
# The 24 smallest steps of the whole table: larger ones end at 255 in poor qualities.
_SMALL_STEPS, _SMALL_SUM = 24, 485
_BLOCKS = 2000
_SIDE_PX = 640
_STEP_GRID = np.geomspace(3.0, 90.0, 86)
_LEAST_BLOCKS = 40
_LEAST_PERIODICITY = 0.5
_LEAST_FREQUENCIES = 5


def estimate_jpeg_quality(pixels: npt.NDArray[np.uint8]) -> float:
    """Estimate the JPEG quality that an image has gone through at its present pixel size.

    JPEG rounds the cosine coefficients of blocks of 8 x 8 pixels to multiples of a step. Found are the grid
    of the blocks, by the differences across its lines, and the step of nine low frequencies, by how well
    the coefficients lie on multiples of it. The worst of several compressions shows, unless the image
    was resized or blurred in between.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB as read, not resized; of a large image the middle 640 px are looked at.

    Returns
    -------
    float
        1 to 100 on the scale of libjpeg; NaN where no rounding is seen, as above about 92.

    References
    ----------
    Fan Z, de Queiroz RL. Identification of bitmap compression history: JPEG detection and quantizer
    estimation. IEEE Trans Image Process 2003;12:230-235. Tables: ITU-T T.81, Annex K.
    """
    top, left = (max(0, (length - _SIDE_PX) // 2) for length in pixels.shape[:2])
    middle = pixels[top : top + _SIDE_PX, left : left + _SIDE_PX].astype(np.float32)
    luma = np.asarray(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), np.float32)
    if min(luma.shape) < 32:
        return float("nan")
    top, left = _find_phase(luma), _find_phase(luma.T)
    rows, columns = (luma.shape[0] - top) // 8, (luma.shape[1] - left) // 8
    grid = luma[top : top + 8 * rows, left : left + 8 * columns].reshape(rows, 8, columns, 8)
    blocks = grid.transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    coefficients = np.abs(dctn(blocks[:: max(1, len(blocks) // _BLOCKS)], axes=(1, 2), norm="ortho"))
    known: list[float] = []
    for looked_at, ((u, v), usual) in enumerate(_STEPS.items()):
        if len(known) + len(_STEPS) - looked_at < _LEAST_FREQUENCIES:
            return float("nan")
        step = _find_step(coefficients[:, u, v])
        known += [step / usual] if np.isfinite(step) else []
    return scale_to_quality(float(np.median(known))) if len(known) >= _LEAST_FREQUENCIES else float("nan")


def scale_to_quality(scale: float) -> float:
    """JPEG quality whose quantisation steps are `scale` times those of quality 50, as libjpeg has it.

    Examples
    --------
    >>> [scale_to_quality(scale) for scale in (0.5, 1.0, 2.0)]
    [75.0, 50.0, 25.0]
    """
    return 50.0 / scale if scale >= 1 else 100.0 - 50.0 * scale


def read_jpeg_quality(table: Sequence[int]) -> float:
    """JPEG quality of the luminance quantisation table of a file.

    Parameters
    ----------
    table : sequence of int
        64 steps, in any order.

    Returns
    -------
    float
        On the scale of libjpeg; for other tables, that of the same mean step.
    """
    return scale_to_quality(sum(sorted(table)[:_SMALL_STEPS]) / _SMALL_SUM)


def _find_phase(luma: Floats) -> int:
    """First row of a block: the line across which differences exceed their neighbours most."""
    step = np.abs(np.diff(luma, axis=0))
    excess = (step[1:-1] - (step[:-2] + step[2:]) / 2).mean(axis=1)
    # excess[i] is across the line between rows i + 1 and i + 2.
    return (int(np.argmax([excess[phase::8].mean() for phase in range(8)])) + 2) % 8


def _find_step(sizes: Floats) -> float:
    """Largest step of which the coefficients are multiples; NaN if there is none.

    Coefficients below half a step are rounded to 0 and tell nothing: those beyond must lie near multiples.
    """
    ordered = np.sort(sizes)
    first = np.searchsorted(ordered, _STEP_GRID / 2)
    for step, start in zip(_STEP_GRID[::-1].tolist(), first[::-1].tolist(), strict=True):
        beyond = ordered[start:]
        if len(beyond) >= _LEAST_BLOCKS and np.cos(2 * np.pi / step * beyond).mean() > _LEAST_PERIODICITY:
            return float(step)
    return float("nan")
