# This module touches files: it opens slides and a run's folder.
"""The reader: slides, field images, a run's folder or one of its sections, dragged into napari."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from histoquant.slide import open_slide
from napari_histoquant.messages import show_info, show_warning, tell_errors
from napari_histoquant.slides import LayerData, show_slide

Reader = Callable[[str], list[LayerData] | list[tuple[None]]]
NOTHING: list[tuple[None]] = [(None,)]
"""What tells napari that the file was ours and gave no layer."""
SUFFIXES = frozenset(
    {
        *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm"),
        *(".tif", ".tiff", ".png", ".jpg", ".jpeg"),
    }
)


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Choose the reader of a path; None if it is not ours.

    Parameters
    ----------
    path : str or sequence of str
        A file or folder; stacks of files are left to others.

    Returns
    -------
    callable or None
        Takes the path, gives layer tuples.
    """
    if not isinstance(path, str):
        return None
    place = Path(path)
    if place.is_dir():
        from napari_histoquant.sections import is_run, is_section

        return read if is_section(place) or is_run(place) else None
    return read if place.suffix.lower() in SUFFIXES else None


def read(path: str) -> list[LayerData] | list[tuple[None]]:
    """Read a slide, a run or a section; what goes wrong is shown as a message.

    Returns
    -------
    list of tuple
        Layer tuples, or napari's sign that there is none.
    """
    with tell_errors():
        layers = read_layers(Path(path))
        _show_scale_bar()
        return layers
    return NOTHING


def read_layers(place: Path, mpp: float | None = None) -> list[LayerData]:
    """Read a slide, a run or a section.

    Parameters
    ----------
    place : Path
        A file, the folder of a run (its first measured section is opened) or of one of its sections.
    mpp : float, optional
        Pixel size of a slide that does not tell it, um/px.

    Returns
    -------
    list of tuple
        Layer tuples; at least one.

    Raises
    ------
    HistoquantError
        It cannot be opened.
    """
    if not place.is_dir():
        slide = open_slide(place, mpp)
        for problem in slide.problems:
            show_warning(f"{place.name}: {problem}")
        return [show_slide(slide, place.name)]
    # Loads the library's tables, which takes longer than a slide's first picture.
    from napari_histoquant.sections import is_run, list_measured, open_section

    if is_run(place):
        measured = list_measured(place)
        name, place = next(iter(measured.items()))
        if len(measured) > 1:
            show_info(
                f"Section {name}, the first of {len(measured)}. The others are folders in {place.parent}, or "
                "choose one in Plugins > histoquant > Open."
            )
    opened = open_section(place)
    for note in opened.notes:
        show_warning(note)
    return opened.layers


def _show_scale_bar() -> None:
    """Show the scale bar of the viewer into which we are read, if there is one."""
    from napari import current_viewer

    viewer = current_viewer()
    if viewer is not None:
        viewer.canvas.overlays.scale_bar.visible = True
