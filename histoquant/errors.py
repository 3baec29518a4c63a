"""One error tree: every message says what is wrong, where, and what to do next."""

from __future__ import annotations


class HistoquantError(Exception):
    """Base of every error that histoquant raises on purpose.

    Parameters
    ----------
    what : str
        What is wrong, in words a pathologist understands.
    where : str, optional
        File, row or key at fault.
    fix : str, optional
        What to do next.

    Examples
    --------
    >>> str(HistoquantError("no pixel size", where="a.tif", fix="give --mpp"))
    'a.tif: no pixel size; give --mpp'
    """

    def __init__(self, what: str, where: object = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, str(where), fix
        # Exception.args rebuilds the error when a worker process sends it back.
        super().__init__(what, self.where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.what}{advice}"


class SlideError(HistoquantError):
    """A slide or field image cannot be opened or read."""


class ScaleError(SlideError):
    """The pixel size is absent or implausible."""


class StudyError(HistoquantError):
    """The study table is wrong; nothing was begun."""


class ProtocolError(HistoquantError):
    """The settings of the measurement are wrong."""


class AnnotationError(HistoquantError):
    """A GeoJSON file cannot be used."""


class FieldsError(HistoquantError):
    """No field can be drawn: no tissue, or no room."""


class ResultsError(HistoquantError):
    """The run's folder cannot be used: not writable, locked, or holding reviewed work."""


class EditError(HistoquantError):
    """An edit does not fit what it edits, or a trail of edits is damaged."""


class WorkerError(HistoquantError):
    """A worker process died; finished sections stay."""


class StorageError(HistoquantError):
    """Disk full or folder lost in the middle of a run; finished sections stay."""


class HistoryError(HistoquantError):
    """The history of controls cannot be used: not ours, newer, or not writable."""


class RegistrationError(HistoquantError):
    """Sections of a block cannot be registered, or what is stored of it is damaged."""
