"""A histogram with a line at the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QWidget

_BINS = 60


class Histogram(QWidget):
    """Bars of values from 0 to `highest`, those beyond the threshold in another colour.

    Parameters
    ----------
    highest : float
        Right end of the axis; larger values lie in the last bar.
    """

    def __init__(self, highest: float) -> None:
        super().__init__()
        self.highest, self.threshold = highest, 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.setMinimumHeight(100)
        self.setToolTip(
            "The line is the threshold, cells beyond it are orange. Heights are square roots of numbers."
        )

    def show_values(self, values: npt.NDArray[np.float64]) -> None:
        """Show other values."""
        inside = np.clip(values[np.isfinite(values)], 0, self.highest)
        self.counts = np.histogram(inside, _BINS, (0, self.highest))[0]
        self.update()

    def show_threshold(self, threshold: float) -> None:
        """Move the line."""
        self.threshold = threshold
        self.update()

    def paintEvent(self, event: Any) -> None:
        """Draw; called by Qt."""
        painter = QPainter(self)
        foot = self.fontMetrics().height()
        width, height = self.width() / _BINS, self.height() - foot
        tallest = max(int(self.counts.max()), 1)
        line = self.threshold / self.highest * self.width()
        for index, count in enumerate(self.counts.tolist()):
            color = QColor(213, 94, 0) if (index + 0.5) * width > line else QColor(130, 130, 130)
            tall = height * (count / tallest) ** 0.5
            painter.fillRect(QRectF(index * width, height - tall, width - 1, tall), color)
        ink = self.palette().text().color()
        painter.fillRect(QRectF(line - 1, 0, 2, height), ink)
        painter.setPen(ink)
        below = QRectF(0, height, self.width(), foot)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, "0")
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "DAB of the cells that count")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"{self.highest:g} OD")
        painter.end()
