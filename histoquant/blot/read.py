# This module touches files: it reads images of blots and the table of their lanes.
"""What is read: images, and the table that says what is in which lane."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.blot.measure import Lane
from histoquant.blot.wedge import Wedge, fit_wedge
from histoquant.errors import SlideError, StudyError
from histoquant.sheets import read_rows

COLUMNS = ("image", "protein", "lane", "sample", "group")
STEPS = ("value", "od")
PLACES = ("left_px", "right_px", "top_px", "bottom_px")


class Loaded(NamedTuple):
    """A lane of the table: what it holds, and where it is if the table says."""

    lane: int
    protein: str
    sample: str
    group: str
    place: Lane | None


def read_blot(path: Path) -> npt.NDArray[Any]:
    """Read a grey image of 8 or 16 bits; colours are averaged.

    Raises
    ------
    SlideError
        The file is missing, no image, or of another type.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SlideError(f"cannot be read ({error.strerror})", path, "check the path") from error
    image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE) if data.size else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise SlideError("is no image of 8 or 16 bits", path, "save it as TIFF or PNG")
    return np.asarray(image)


def read_lanes(path: Path) -> dict[str, list[Loaded]]:
    """Read what is in which lane, by the image's file name, in order of the lanes.

    Raises
    ------
    StudyError
        A column is missing, a number is none, a lane is there twice, or only part of a place is given.
    """
    found: dict[str, list[Loaded]] = {}
    for line, cells in read_rows(path, "table of lanes", COLUMNS, PLACES)[2]:
        where = f"{path}, row {line}"
        lane = _read_number(cells["lane"], "lane", where)
        places = [cells.get(name, "") for name in PLACES]
        lanes = found.setdefault(cells["image"], [])
        if any(other.lane == lane for other in lanes):
            raise StudyError(f"has lane {lane} of {cells['image']} twice", where, "number them from the left")
        if not cells["protein"]:
            raise StudyError("has no protein", where, "name what the antibody is against")
        if lanes and lanes[0].protein != cells["protein"]:
            raise StudyError("has another protein in the same image", where, "give a strip of its own")
        place = _read_place(places, where)
        lanes.append(Loaded(lane, cells["protein"], cells["sample"], cells["group"], place))
    return {image: sorted(lanes) for image, lanes in found.items()}


def read_wedge(path: Path) -> Wedge:
    """Read the pixel value and density of the steps of a wedge, and fit its curve.

    Raises
    ------
    StudyError
        A column is missing, a number is none, or the steps make no curve.
    """
    steps = []
    for line, cells in read_rows(path, "step wedge", STEPS, ())[2]:
        where = f"{path}, row {line}"
        value, od = (_read_measure(cells[name], name, where) for name in STEPS)
        if not 0 < value <= 65_535:
            raise StudyError(
                f"has {value:g} as value", where, "give the mean pixel value of the step, above 0"
            )
        steps.append((value, od))
    return fit_wedge([value for value, _ in steps], [od for _, od in steps], path)


def _read_measure(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise StudyError(f"has {text!r} as {column}", where, "give a number")
    return number


def _read_place(places: list[str], where: str) -> Lane | None:
    """None if nothing is given; columns alone, or columns and rows."""
    if not any(places):
        return None
    if not all(places[:2]) or bool(places[2]) != bool(places[3]):
        raise StudyError(
            "has part of a place",
            where,
            "give left_px and right_px, and both or none of top_px and bottom_px",
        )
    numbers = [_read_number(text, name, where) for text, name in zip(places, PLACES, strict=True) if text]
    lane = Lane(*numbers)
    if lane.left >= lane.right or (len(numbers) == 4 and lane.top >= lane.bottom):
        raise StudyError("has a place without extent", where, "left before right, top before bottom")
    return lane


def _read_number(text: str, column: str, where: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise StudyError(f"has {text!r} as {column}", where, "give a whole number from 0")
    return number
