"""Agreement of two label maps: matching by IoU, panoptic quality, counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """How well predicted objects agree with true ones.

    Attributes
    ----------
    threshold : float
        Least IoU of a match.
    truth, predicted, matched : int
        Objects counted; those that lie mostly in ignored areas are in none of the three.
    iou_sum : float
        Sum of the IoU of the matches.
    """

    threshold: float
    truth: int
    predicted: int
    matched: int
    iou_sum: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nothing to find and nothing found is 1."""
        total = self.truth + self.predicted
        return 2 * self.matched / total if total else 1.0

    @property
    def panoptic_quality(self) -> float:
        """F1 times the mean IoU of the matches (Kirillov et al., CVPR 2019)."""
        return self.f1 * (self.iou_sum / self.matched) if self.matched else self.f1

    @property
    def count_error(self) -> float:
        """(predicted - truth) / truth; NaN without truth."""
        return (self.predicted - self.truth) / self.truth if self.truth else float("nan")


def drop_ignored(labels: Labels, ignore: Mask | None, min_area_px: int = 0) -> Labels:
    """Labels without ignored pixels, objects mostly ignored, and small ones.

    Parameters
    ----------
    labels : ndarray of int32
    ignore : ndarray of bool or None
        Areas that count neither way.
    min_area_px : int
        Objects of fewer pixels in all (before ignored pixels are taken away) are left out.

    Returns
    -------
    ndarray of int32
        A new map; labels keep their number.

    Examples
    --------
    >>> drop_ignored(np.array([[1, 1, 2, 2, 2]], np.int32), np.array([[1, 1, 1, 0, 0]], bool))
    array([[0, 0, 0, 2, 2]], dtype=int32)
    """
    area = np.bincount(labels.ravel())
    keep = area >= min_area_px
    if ignore is not None:
        keep &= 2 * np.bincount(labels[ignore], minlength=len(area)) <= area
    keep[0] = False
    kept = np.where(keep[labels], labels, 0).astype(np.int32)
    if ignore is not None:
        kept[ignore] = 0
    return kept


def overlap_labels(truth: Labels, predicted: Labels) -> tuple[Labels, Labels, npt.NDArray[np.float64]]:
    """Every overlapping pair and its IoU.

    Parameters
    ----------
    truth, predicted : ndarray of int32
        Label maps of one shape, 0 = background.

    Returns
    -------
    tuple of ndarray
        Truth label, predicted label and IoU, one entry per pair.

    Examples
    --------
    >>> overlap_labels(np.array([[1, 1, 0]], np.int32), np.array([[0, 5, 5]], np.int32))[2].round(3)
    array([0.333])
    """
    area_truth, area_predicted = np.bincount(truth.ravel()), np.bincount(predicted.ravel())
    both = (truth > 0) & (predicted > 0)
    code, shared = np.unique(
        truth[both].astype(np.int64) * len(area_predicted) + predicted[both], return_counts=True
    )
    i, j = np.divmod(code, len(area_predicted))
    iou = shared / (area_truth[i] + area_predicted[j] - shared)
    return i.astype(np.int32), j.astype(np.int32), iou


def find_matched(truth: Labels, predicted: Labels, threshold: float = 0.5) -> tuple[set[int], set[int]]:
    """Labels of both maps that overlap one of the other by more than `threshold`.

    Examples
    --------
    >>> find_matched(np.array([[1, 1, 1, 0, 2]], np.int32), np.array([[7, 7, 0, 0, 0]], np.int32))
    ({1}, {7})
    """
    i, j, iou = overlap_labels(truth, predicted)
    return set(i[iou > threshold].tolist()), set(j[iou > threshold].tolist())


def match_labels(
    truth: Labels,
    predicted: Labels,
    threshold: float = 0.5,
    ignore: Mask | None = None,
    min_area_px: int = 0,
) -> Agreement:
    """Match objects whose IoU exceeds a threshold of at least one half, so that matches are unique.

    Parameters
    ----------
    truth, predicted : ndarray of int32
        Label maps of one shape.
    threshold : float
        Between 0.5 and 1.
    ignore : ndarray of bool, optional
        Pixels that count neither way; an object more than half ignored counts neither way.
    min_area_px : int
        Smaller objects (slivers at the border) count neither way.

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        The threshold is below 0.5: a match would not be unique.

    Examples
    --------
    >>> a = np.array([[1, 1, 1, 0, 2]], np.int32)
    >>> match_labels(a, np.array([[7, 7, 0, 0, 0]], np.int32)).f1
    0.6666666666666666
    """
    if not 0.5 <= threshold <= 1:
        raise ValueError("threshold must lie between 0.5 and 1")
    if ignore is None:
        ignore = np.zeros(truth.shape, bool)
    # A sliver of truth is not to be found, but a prediction on it is no error either.
    small = np.bincount(truth.ravel()) < min_area_px
    small[0] = False
    ignore = ignore | small[truth]
    true, found = drop_ignored(truth, ignore, min_area_px), drop_ignored(predicted, ignore, min_area_px)
    _, _, iou = overlap_labels(true, found)
    good = iou[iou > threshold]
    return Agreement(threshold, _count(true), _count(found), len(good), float(good.sum()))


def _count(labels: Labels) -> int:
    return int(np.count_nonzero(np.bincount(labels.ravel())[1:]))
