# This module touches files: it has a run's fields read and the reader's marks written.
"""The widget Read blinded: fields in shuffled order, marked by keys; whose they are is not told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from magicgui.widgets import FileEdit
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QGridLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
)

from histoquant.errors import EditError, HistoquantError
from histoquant.reading import BlindReading, Kind, Mark, open_reading
from napari_histoquant.blinding import (
    MARKS,
    PICTURE,
    add_mark,
    describe_marks,
    remove_mark,
    show_edge,
    show_marks,
    show_picture,
)
from napari_histoquant.choosing import require_path
from napari_histoquant.docked import HoldingDock
from napari_histoquant.messages import guard, show_info
from napari_histoquant.refreshing import refresh_layer
from napari_histoquant.scene import find_layer, put_layer
from napari_histoquant.slides import LayerData

_ACTIONS = (
    ("fiber", "Fiber", "F", "A fiber that lies more than half inside, where the pointer is."),
    ("positive", "Positive", "P", "A positive cell where the pointer is."),
    ("negative", "Negative", "O", "A negative cell where the pointer is; only if you mark all of them."),
    ("uncertain", "Uncertain", "U", "A cell of which nobody can tell; it counts neither way."),
    ("remove", "Remove", "X", "The mark nearest to the pointer."),
    ("undo", "Undo", "Control-Z", "The last mark of this field, or what was removed."),
    ("done", "Done, next", "N", "You are done with this field; the next one that is not done."),
    ("back", "Back", "B", "The field before; it can be changed."),
)


class BlindedWidget(HoldingDock):
    """Read fields of a run without knowing whose they are.

    Parameters
    ----------
    napari_viewer : Viewer
        An empty one.
    """

    actions = _ACTIONS

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "Start reading")
        self.reading: BlindReading | None = None
        self.number = 0
        self.kind: Kind = "positive"
        self._held = ExitStack()
        self._before: list[tuple[Mark, ...]] = []
        self.run = FileEdit(mode="d", nullable=True, tooltip="Folder of a finished run.")
        self.reader = QLineEdit(placeholderText="your name; for a second reading another, 'Li 2' say")
        self.seed = QSpinBox(maximum=2**31 - 1, toolTip="Of the order; it depends on your name too.")
        self.first = QSpinBox(maximum=1000, specialValueText="all", toolTip="The first so many as drawn.")
        self.fibers = QCheckBox("count fibers too", checked=True)
        self.where, self.counts, self.how = QLabel(), QLabel(), QLabel()
        self._arrange()
        self._enable(False)

    def _arrange(self) -> None:
        form, grid, column = QFormLayout(), QGridLayout(), QVBoxLayout()
        rows = {"run": self.run.native, "reader": self.reader, "seed": self.seed}
        rows |= {"fields per section": self.first, "": self.fibers}
        for name, one in rows.items():
            form.addRow(name, one)
        for index, one in enumerate(self.buttons.values()):
            grid.addWidget(one, index // 2, index % 2)
        column.addLayout(form)
        for one in (self.begin, self.where, self.counts):
            column.addWidget(one)
        column.addLayout(grid)
        column.addWidget(self.how)
        column.addStretch()
        for one in (self.where, self.counts, self.how):
            one.setWordWrap(True)
        self.setLayout(column)

    @property
    def under_way(self) -> bool:
        """Whether a reading is open."""
        return self.reading is not None

    def begin_sitting(self) -> None:
        """Open the reading and show its first field that is not done."""
        run = require_path(self.run, "run", "Read blinded")
        if len(self.viewer.layers):
            raise HistoquantError(
                "other layers are open, which may tell whose fields these are",
                "Read blinded",
                "save what you need and close them first",
            )
        how = (self.seed.value(), self.first.value(), self.fibers.isChecked())
        with ExitStack() as held:
            reading = held.enter_context(open_reading(run, self.reader.text().strip(), *how))
            number = reading.next_open() or 0
            layers = _make_layers(reading, number)
            self._held = held.pop_all()
        self.reading = reading
        self.begin.setText("End reading")
        self._enable(True)
        self._put(number, layers)
        self.viewer.canvas.overlays.scale_bar.visible = True

    def stop(self) -> None:
        """End the reading; every mark is kept already."""
        was_open = self.under_way
        self.let_go()
        if not was_open:
            return
        self._before = []
        self._enable(False)
        for one in (self.where, self.counts, self.how):
            one.setText("")
        self.begin.setText("Start reading")

    def let_go(self) -> None:
        """Let another window read."""
        self._held.close()
        self.reading = None

    def tell_end(self) -> str:
        """Whether the picture was closed."""
        if find_layer(self.viewer, PICTURE) is not None:
            return ""
        return "The reading ends: its picture was closed. All marks are kept."

    def _enable(self, on: bool) -> None:
        self.listen(on)
        for one in (self.run.native, self.reader, self.seed, self.first, self.fibers):
            one.setEnabled(not on)

    # what is looked at

    def _show(self, number: int) -> None:
        """Show a field by its place in the order."""
        self._put(number, _make_layers(self._sitting, number))

    def _put(self, number: int, layers: Sequence[LayerData]) -> None:
        watched, self.reading = self.reading, None  # the old picture goes, not the reading
        for data in layers:
            self.bind(put_layer(self.viewer, data))
        self.reading, self.number, self._before = watched, number, []
        self._show_marks()
        marks = self.viewer.layers.index(find_layer(self.viewer, MARKS))
        self.viewer.layers.move(marks, len(self.viewer.layers))
        self.viewer.reset_view()

    def _show_marks(self) -> None:
        reading = self._sitting
        layer = refresh_layer(self.viewer, show_marks(reading.get(self.number).marks))
        self.bind(layer)
        self.viewer.layers.selection.active = layer
        self.where.setText(f"field {self.number + 1} of {len(reading)}; {reading.done} done")
        self.counts.setText(describe_marks(reading.get(self.number), reading.fibers))
        self.how.setText(f"A click marks: {self.kind}. F, P, O and U mark at the pointer, and change that.")

    def _click(self, viewer: Any, event: Any) -> Any:
        """A click that is no drag marks what the last key marked."""
        yield
        if event.type != "mouse_move":
            y, x = event.position[-2:]
            guard(lambda: self._mark(self.kind, float(x), float(y)))()

    # what is marked

    def _mark(self, kind: Kind, x_um: float, y_um: float) -> None:
        reading = self._sitting
        marks = reading.get(self.number).marks
        self._keep(add_mark(marks, reading.outline(self.number), kind, x_um, y_um))

    def _keep(self, marks: Sequence[Mark]) -> None:
        reading = self._sitting
        before = reading.get(self.number)
        reading.save(self.number, marks, before.done)
        self._before.append(before.marks)
        self._show_marks()

    def _mark_pointed(self, kind: Kind) -> None:
        if kind == "fiber" and not self._sitting.fibers:
            raise EditError("fibers are not counted in this reading", "Read blinded", "mark cells only")
        self.kind = kind
        if self.viewer.mouse_over_canvas:
            y, x = self.viewer.cursor.position[-2:]
            self._mark(kind, float(x), float(y))
        else:
            self._show_marks()

    def _do_fiber(self) -> None:
        self._mark_pointed("fiber")

    def _do_positive(self) -> None:
        self._mark_pointed("positive")

    def _do_negative(self) -> None:
        self._mark_pointed("negative")

    def _do_uncertain(self) -> None:
        self._mark_pointed("uncertain")

    def _do_remove(self) -> None:
        y, x = self.viewer.cursor.position[-2:]
        self._keep(remove_mark(self._sitting.get(self.number).marks, float(x), float(y)))

    def _do_undo(self) -> None:
        reading = self._sitting
        if not self._before:
            raise EditError("there is nothing to undo in this field", "Read blinded", "remove marks with X")
        reading.save(self.number, self._before[-1], reading.get(self.number).done)
        self._before.pop()
        self._show_marks()

    def _do_done(self) -> None:
        reading = self._sitting
        reading.save(self.number, reading.get(self.number).marks, done=True)
        following = reading.next_open(self.number)
        if following is None:
            self._show_marks()
            show_info(
                "All fields are read. `histoquant validate` compares with the program, `histoquant agree "
                "--blinded` with another reader."
            )
        else:
            self._show(following)

    def _do_back(self) -> None:
        if self.number == 0:
            show_info("This is the first field.")
        else:
            self._show(self.number - 1)

    @property
    def _sitting(self) -> BlindReading:
        if self.reading is None:
            raise EditError("no reading is under way", "Read blinded", "give your name and start one")
        return self.reading


def _make_layers(reading: BlindReading, number: int) -> list[LayerData]:
    return [show_picture(reading.show(number)), show_edge(reading.outline(number))]
