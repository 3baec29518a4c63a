# This module touches files: it opens the section on the screen and has the trail written.
"""The widget Review: what matters most first, one object edited at a time, counts beside the machine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
)

from histoquant.edits import Action, Change, Edit, Kind, make_change, split_id
from histoquant.errors import EditError, HistoquantError
from napari_histoquant.background import start
from napari_histoquant.describing import describe_counts, describe_last, describe_object, list_queue
from napari_histoquant.docked import HoldingDock
from napari_histoquant.layers import EDGE_UM, FIELDS
from napari_histoquant.marking import DRAWING, show_drawing, show_meant, show_review
from napari_histoquant.messages import guard, show_info, show_warning
from napari_histoquant.refreshing import refresh_layer
from napari_histoquant.reviewing import Review, require_object
from napari_histoquant.scene import find_layer, get_kind
from napari_histoquant.sections import list_measured
from napari_histoquant.slides import KEY

Place = tuple[float, float]
_CELL_RADIUS_UM = 4.5
_QUEUE = 200
_VIEW_UM = 160.0
_FINE_UM = 0.7
_HOW = {
    "add_polygon": "Click the corners of the outline, double-click at the end.",
    "add_line": "Drag a line across the object.",
}
_TARGET = Qt.ItemDataRole.UserRole
_ACTIONS = (
    ("next", "Next", "N", "The next of the queue."),
    ("back", "Back", "B", "The one before."),
    ("accept", "Accept", "A", "The object is what it is said to be."),
    ("reject", "Reject", "X", "The object is no such thing; it leaves the counts. Accept brings it back."),
    ("positive", "Positive", "P", "The cell is positive."),
    ("negative", "Negative", "O", "The cell is not positive."),
    (
        "add_cell",
        "Add cell",
        "C",
        "A positive cell where the pointer is, or where you click next.",
    ),
    ("add_fiber", "Add fiber", "F", "Draw its outline: click the corners, double-click at the end."),
    ("split", "Split", "S", "Drag a line across the object."),
    (
        "merge",
        "Merge",
        "M",
        "What is under the pointer, or what you click next, becomes part of it.",
    ),
    ("redraw", "Redraw", "R", "Draw the object's outline anew: click the corners, double-click at the end."),
    ("exclude", "Exclude field", "E", "The field is not used, for the reason given; again: it is used."),
    ("undo", "Undo", "Control-Z", "Undo the last edit, of an earlier sitting too."),
    ("redo", "Redo", "Control-Y", "Do it again."),
)


class ReviewWidget(HoldingDock):
    """Review a measured section.

    Parameters
    ----------
    napari_viewer : Viewer
        With a section of a run.
    """

    actions = _ACTIONS

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "Start review")
        self.review: Review | None = None
        self.field = 0
        self.object: str | None = None
        self.wanted: Callable[[Place], object] | None = None
        self.reviewer = QLineEdit(placeholderText="your name")
        self.sign = QPushButton("Sign")
        self.sign.setToolTip("You stand for these counts. An edit after it voids the signature.")
        self.counts, self.about, self.last = QLabel(), QLabel(), QLabel()
        self.queue = QListWidget()
        self.reason = QLineEdit(placeholderText="reason, kept with the next edit")
        self._arrange()
        self.sign.clicked.connect(lambda: guard(self._sign)())
        self.queue.itemClicked.connect(guard(self._choose))
        self._enable(False)

    def _arrange(self) -> None:
        head, grid, column = QHBoxLayout(), QGridLayout(), QVBoxLayout()
        for one in (self.reviewer, self.begin, self.sign):
            head.addWidget(one)
        for index, one in enumerate(self.buttons.values()):
            grid.addWidget(one, index // 3, index % 3)
        column.addLayout(head)
        for one in (self.counts, self.queue, self.about):
            column.addWidget(one)
        column.addLayout(grid)
        for one in (self.reason, self.last):
            column.addWidget(one)
        for one in (self.counts, self.about, self.last):
            one.setWordWrap(True)
        self.queue.setMinimumHeight(90)
        self.queue.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)
        self.setLayout(column)

    @property
    def under_way(self) -> bool:
        """Whether a trail is open."""
        return self.review is not None

    def begin_sitting(self) -> None:
        """Open the trail of the section on the screen, and count earlier edits in a thread."""
        run, section = find_section(self.viewer)
        review = Review(run, section, self.reviewer.text().strip())
        self.begin.setEnabled(False)
        self.about.setText("counting earlier edits …")
        start(lambda: _prepare(review), self._accept, lambda: self._conclude(review))

    def _accept(self, review: Review) -> None:
        self.review = review
        self._draw_edges(_FINE_UM)
        for note in review.history.notes:
            show_warning(note)
        self.begin.setText("End review")
        self._enable(True)
        self._fill_queue()
        fields, _ = review.rank()
        first = fields["field"].iloc[0] if len(fields) else min(review.section.list_fields(), default=0)
        if first:
            self._show_field(int(first), look=True)
        self._mean(None)

    def _conclude(self, review: Review) -> None:
        self.begin.setEnabled(True)
        if self.review is not review:
            review.close()
            self.about.setText("")

    def stop(self) -> None:
        """End the review; everything is kept already."""
        if self.review is not None:
            self._draw_edges(EDGE_UM)
        self.let_go()
        self.object, self.wanted = None, None
        self.begin.setText("Start review")
        self._enable(False)
        self.queue.clear()
        self.about.setText("")

    def _draw_edges(self, width_um: float) -> None:
        """Draw the fields' edges so wide: what they cut must be seen."""
        layer = find_layer(self.viewer, FIELDS)
        if layer is not None:
            layer.edge_width = [width_um] * layer.nshapes
            layer.refresh()  # the setter draws nothing

    def let_go(self) -> None:
        """Let another window have the trail."""
        if self.review is not None:
            self.review.close()
        self.review = None

    def tell_end(self) -> str:
        """Whether the section has left the screen: edits are of what is seen."""
        layer, section = find_layer(self.viewer, FIELDS), self._sitting.section
        if layer is not None and layer.metadata[KEY].get("section") == str(section.folder):
            return ""
        return f"The review of {section.id} ends: the section was closed. All is kept."

    def _enable(self, on: bool) -> None:
        self.listen(on)
        for one in (self.sign, self.queue, self.reason):
            one.setEnabled(on)
        self.reviewer.setEnabled(not on)

    # what is looked at

    def _fill_queue(self) -> None:
        fields, objects = self._sitting.rank()
        self.queue.clear()
        for text, target in list_queue(fields, objects.head(_QUEUE)):
            item = QListWidgetItem(text)
            item.setData(_TARGET, target)
            self.queue.addItem(item)

    def _choose(self, item: Any) -> None:
        target = item.data(_TARGET)
        if isinstance(target, int):
            self._show_field(target, look=True)
            self._mean(None)
        else:
            self._show_field(split_id(target)[0])
            self._mean(target, look=True)

    def _step(self, step: int) -> None:
        row = self.queue.currentRow() + step
        if not 0 <= row < self.queue.count():
            show_info("The queue ends here.")
            return
        self.queue.setCurrentRow(row)
        self._choose(self.queue.item(row))

    def _show_field(self, number: int, look: bool = False) -> None:
        self.field = number
        stored, now = self._sitting.show(number)
        offset = self._offset()
        for data in show_review(stored, now, self._sitting.list_rejected(number), offset):
            self.bind(refresh_layer(self.viewer, data))
        if look:
            row = self._sitting.find_row(number)
            self._look((row["center_y_um"], row["center_x_um"] + offset), 1.1 * row["width_um"])

    def _mean(self, name: str | None, look: bool = False) -> None:
        """Let an object be the one that is edited."""
        rings = [] if name is None else self._sitting.outline(name)
        self.object = name if rings else None
        layer = refresh_layer(self.viewer, show_meant(rings, self._offset()))
        self.bind(layer)
        self.viewer.layers.selection.active = layer
        if look and rings:
            low, high = rings[0].min(axis=0), rings[0].max(axis=0)
            y, x = (low + high) / 2
            self._look((y, x + self._offset()), max(_VIEW_UM, 2.5 * float((high - low).max())))
        self._tell()

    def _look(self, center: Place, width_um: float) -> None:
        self.viewer.scene.camera.center = (0.0, *center)
        self.viewer.scene.camera.zoom = min(self.viewer.canvas.size) / width_um

    def _tell(self) -> None:
        review = self._sitting
        rows = [review.find_row(self.field, machine) for machine in (True, False)] if self.field else []
        self.counts.setText(describe_counts(self.field, rows, review.summarise(True), review.summarise()))
        self.about.setText(describe_object(review.describe(self.object) if self.object else None))
        self.last.setText(describe_last(review.history, review.signed))

    def _click(self, viewer: Any, event: Any) -> Any:
        """A click that is no drag chooses what is under it."""
        yield
        if event.type == "mouse_move":
            return
        active = viewer.layers.selection.active
        if active is not None and get_kind(active) == DRAWING:
            return
        place = (float(event.position[-2]), float(event.position[-1]))
        wanted, self.wanted = self.wanted, None
        guard(lambda: self._mean(self._find(place)) if wanted is None else wanted(place))()

    def _find(self, place: Place, kind: Kind | None = None) -> str | None:
        return self._sitting.find_object(self.field, place[1] - self._offset(), place[0], kind)

    def _at_pointer(self, take: Callable[[Place], object]) -> None:
        """Do something where the pointer is, or where the next click will be if it is not on the picture."""
        if self.viewer.mouse_over_canvas:
            y, x = self.viewer.cursor.position[-2:]
            take((float(y), float(x)))
        else:
            self.wanted = take
            self.about.setText("Click the place in the picture.")

    def _offset(self) -> float:
        return find_offset(self.viewer, self._sitting.find_row(self.field)) if self.field else 0.0

    # what is edited

    def _apply(self, change: Change, go_on: bool = False) -> None:
        """Write an edit, show what came of it, and for a verdict go on to the next of the queue."""
        edit = self._sitting.apply(change)
        self.reason.clear()
        self._show_edited(edit, go_on)

    def _show_edited(self, edit: Edit, go_on: bool = False) -> None:
        row = self.queue.currentRow()
        self._fill_queue()
        if edit.field is not None:
            self._show_field(edit.field)
        if go_on and 0 <= row < self.queue.count():
            # What was judged has left the queue: the next one has its place.
            self.queue.setCurrentRow(row)
            self._choose(self.queue.item(row))
        else:
            self._mean(edit.object or self.object)

    def _judge(self, action: Action, **after: Any) -> None:
        name = require_object(self.object)
        item = self.queue.currentItem()
        queued = item is not None and item.data(_TARGET) == name
        self._apply(make_change(action, name, self.reason.text(), **after), go_on=queued)

    def _draw(self, mode: str, take: Callable[[list[Place]], object]) -> None:
        """Let something be drawn, take its corners (x, y), and go back to looking."""
        layer = refresh_layer(self.viewer, show_drawing())
        self.bind(layer)
        self.viewer.layers.selection.active = layer
        layer.mode = mode
        self.about.setText(_HOW[mode])

        def finish() -> None:
            corners = [np.asarray(layer.data[-1])] if len(layer.data) else []
            offset = self._offset()
            layer.events.data.disconnect(watch)
            layer.mode = "pan_zoom"
            refresh_layer(self.viewer, show_drawing())
            self._mean(self.object)
            if corners:
                guard(take)([(float(x) - offset, float(y)) for y, x in corners[0]])

        def watch(event: Any) -> None:
            # napari is in the midst of its own work with the layer.
            if str(event.action.value) == "added":
                QTimer.singleShot(0, finish)

        layer.events.data.connect(watch)

    def _do_next(self) -> None:
        self._step(1)

    def _do_back(self) -> None:
        self._step(-1)

    def _do_accept(self) -> None:
        self._judge("accept")

    def _do_reject(self) -> None:
        self._judge("reject")

    def _do_positive(self) -> None:
        self._judge("call", positive=True)

    def _do_negative(self) -> None:
        self._judge("call", positive=False)

    def _do_add_cell(self) -> None:
        def add(place: Place) -> None:
            name = self._sitting.name_new(self.field, "cell")
            where = {"x_um": place[1] - self._offset(), "y_um": place[0], "radius_um": _CELL_RADIUS_UM}
            self._apply(make_change("add", name, self.reason.text(), **where, positive=True))

        self._at_pointer(add)

    def _do_merge(self) -> None:
        name = require_object(self.object)

        def merge(place: Place) -> None:
            other = self._find(place, split_id(name)[1])
            if other in (None, name):
                raise EditError("nothing to merge is there", "Review", f"point at what belongs to {name}")
            self._apply(make_change("merge", name, self.reason.text(), parts=[other]))

        self._at_pointer(merge)

    def _do_add_fiber(self) -> None:
        def add(corners: list[Place]) -> None:
            name = self._sitting.name_new(self.field, "fiber")
            self._apply(make_change("add", name, self.reason.text(), outline=corners))

        self._draw("add_polygon", add)

    def _do_redraw(self) -> None:
        name = require_object(self.object)
        self._draw(
            "add_polygon",
            lambda corners: self._apply(make_change("redraw", name, self.reason.text(), outline=corners)),
        )

    def _do_split(self) -> None:
        name = require_object(self.object)

        def split(corners: list[Place]) -> None:
            part = self._sitting.name_new(self.field, split_id(name)[1])
            self._apply(make_change("split", name, self.reason.text(), line=corners, part=part))

        self._draw("add_line", split)

    def _do_exclude(self) -> None:
        excluded = self._sitting.find_row(self.field)["status"] == "excluded"
        self._apply(make_change("include" if excluded else "exclude", self.field, self.reason.text()))

    def _do_undo(self) -> None:
        self._show_edited(self._sitting.undo())

    def _do_redo(self) -> None:
        self._show_edited(self._sitting.redo())

    def _sign(self) -> None:
        self._sitting.sign()
        self._tell()

    @property
    def _sitting(self) -> Review:
        if self.review is None:
            raise EditError("no review is under way", "Review", "give your name and start one")
        return self.review

    def bind(self, layer: Any) -> None:
        """Let the keys work while a layer is active, which goes with its section."""
        layer.metadata[KEY]["section"] = str(self._sitting.section.folder)
        super().bind(layer)


def find_section(viewer: Any) -> tuple[Path, str]:
    """Find the run and the ID of the measured section on the screen.

    Raises
    ------
    HistoquantError
        There is none.
    """
    layer = find_layer(viewer, FIELDS)
    folder = None if layer is None else layer.metadata[KEY].get("section")
    if folder is None:
        raise HistoquantError(
            "no measured section is open", "Review", "open one in Plugins > histoquant > Open"
        )
    run = Path(folder).parents[1]
    return run, next(name for name, place in list_measured(run).items() if place == Path(folder))


def find_offset(viewer: Any, row: Mapping[str, Any]) -> float:
    """Where a field's image begins in x, um; images of one section lie side by side."""
    layer = find_layer(viewer, FIELDS)
    if layer is None:
        return 0.0
    index = layer.features["field"].tolist().index(int(row["field"]))
    x = float((layer.data[index][:, 1].min() + layer.data[index][:, 1].max()) / 2)
    return round(x - float(row["center_x_um"]), 3)


def _prepare(review: Review) -> Review:
    review.prepare()
    return review
