"""A measured run, and a viewer in a window whose messages and crashes are seen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histoquant.cli.measure import run
from histoquant.synthetic import LayoutSettings, RenderSettings, render_section, write_section

with warnings.catch_warnings():
    # What napari's own imports deprecate is not ours to mend.
    warnings.simplefilter("ignore")
    import napari
    from napari.utils.notifications import Notification, notification_manager
    from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication


PROTOCOL = """
[fields]
count = 2
width_um = 200
margin_um = 60
[fibers]
method = "classical"
"""


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with STUDY.csv, one rendered slide of 0.7 mm, twice, and PROTOCOL.toml without a network."""
    folder = tmp_path_factory.mktemp("study µ 张三")
    layout = LayoutSettings(rim_um=50.0, foci_per_mm2=6.0)
    section = render_section(np.random.default_rng(1), RenderSettings(size_um=(700.0, 700.0), layout=layout))
    (folder / "slides").mkdir()
    lines = ["patient,group,marker,slide"]
    for marker in ("CD19", "BAFF-R"):
        write_section(section, folder / "slides" / f"P01-{marker}.svs", quality=85 + len(lines))
        lines.append(f"P01,refractory,{marker},slides/P01-{marker}.svs")
    (folder / "STUDY.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "PROTOCOL.toml").write_text(PROTOCOL, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def measured_run(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run in which P01-CD19 is measured, two fields of 0.2 mm."""
    out = tmp_path_factory.mktemp("run µ 李四") / "out"
    words = {"protocol": study / "PROTOCOL.toml", "only": ["P01-CD19"], "workers": 1, "quiet": True}
    assert run(study / "STUDY.csv", out=out, **words) == 0
    return out


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Texts of the messages shown."""
    shown: list[str] = []

    def keep(notification: Notification) -> None:
        shown.append(str(notification.message))

    notification_manager.notification_ready.connect(keep)
    yield shown
    notification_manager.notification_ready.disconnect(keep)


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> Iterator[Any]:
    """A viewer in a real window; anything that its slots raise fails the test."""
    raised: list[BaseException] = []

    def keep(kind: type[BaseException], error: BaseException, trace: object) -> None:
        raised.append(error)

    monkeypatch.setattr(sys, "excepthook", keep)
    made = napari.Viewer(show=True)
    assert sys.excepthook is keep, "napari has put its own in place"
    made.window._qt_window.resize(1200, 800)
    yield made
    made.close()
    QApplication.processEvents()
    assert [repr(error) for error in raised] == []


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let the window work until something is so."""
    from time import monotonic

    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it did not happen in time"
        QTest.qWait(10)


def move(canvas: Any, place: QPoint, buttons: Any = Qt.MouseButton.NoButton) -> None:
    """Move the mouse, at once: `QTest.mouseMove` asks the display, whose answer may come after the click."""
    local, shown = QPointF(place), QPointF(canvas.mapToGlobal(place))
    nothing = (Qt.MouseButton.NoButton, buttons, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(canvas, QMouseEvent(QEvent.Type.MouseMove, local, shown, *nothing))
