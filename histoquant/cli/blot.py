"""Command that measures Western blots: blot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from histoquant.cli.app import OK, PARTLY, Flag, app, complain


@app.command
def blot(
    *images: Path,
    out: Path,
    lanes: Path | None = None,
    wedge: Path | None = None,
    loading: str = "actin",
    control: str = "control",
    background: Literal["linear", "rolling"] = "linear",
    ball_px: float = 0.0,
    linear_od: float = 1.5,
    bright: Annotated[bool, Flag] = False,
    seed: int = 0,
) -> int:
    """Measure bands of Western blots, normalise to a loading control, compare groups.

    Writes blot.html, bands.csv, samples.csv, comparisons.csv, overlays/ and lanes.csv. Each image is one
    strip with one protein, grey, 8 or 16 bits, bands dark, linear in light (no gamma, no contrast
    changed). Exit code 1: a lane was not found, a band is saturated, or something could not be
    compared; it is said.

    LANES, a row per lane, numbered from the left:

        image,protein,lane,sample,group,left_px,right_px,top_px,bottom_px
        baff.tif,BAFF,1,P01,control,,,,
        baff.tif,BAFF,2,P02,refractory,,,,
        actin.tif,actin,1,P01,control,40,118,,
        actin.tif,actin,2,P02,refractory,118,205,60,110

    The places, in px, may be left out or empty: then lanes and bands are found. Without a table lanes are
    found and bands measured only. To correct by hand: look at overlays/, change lanes.csv of the results,
    give it as --lanes. Volumes are in OD x px, of bright bands in share of full scale x px. Several lanes of
    one sample are averaged.

    WEDGE, a row per step of a step tablet, or of a series of known amounts on the same film, scanned with
    the same settings; value is the step's mean pixel value, od its density:

        value,od
        61200,0.05
        30100,0.36
        16900,0.66
        10900,0.96
        8100,1.26

    Parameters
    ----------
    images
        One strip each (TIFF, PNG, JPEG).
    out
        Folder for the results.
    lanes
        CSV as above (comma, semicolon or tab; UTF-8 or GB18030).
    wedge
        CSV as above: densities come from its curve, and film and scanner need not be linear.
    loading
        Protein of the loading control.
    control
        Group whose mean fold is 1.
    background
        A line from above to below each band, or a rolling ball.
    ball_px
        Radius of the ball; 0: the distance of the lanes.
    linear_od
        Peak density beyond which your film is not linear; such bands are flagged.
    bright
        Bands are bright and values proportional to light (CCD).
    seed
        Of permutations.
    """
    from histoquant.blot.analyse import analyse_blots, write_blots
    from histoquant.blot.measure import BlotSettings
    from histoquant.blot.page import build_page
    from histoquant.blot.read import read_wedge
    from histoquant.errors import HistoquantError

    if not images:
        raise HistoquantError("no image was given", "blot", "name one or more")
    for name, value, least in (("--ball-px", ball_px, 0.0), ("--linear-od", linear_od, 0.01)):
        if not least <= value <= 10_000:
            raise HistoquantError(f"{value:g} is out of range", name, f"give {least:g} or more")
    if wedge is not None and bright:
        raise HistoquantError("is for dark bands", "--wedge", "leave out --wedge or --bright")
    steps = None if wedge is None else read_wedge(wedge)
    settings = BlotSettings(
        bright=bright, background=background, ball_px=ball_px, linear_od=min(linear_od, 5)
    )
    found = analyse_blots(images, lanes, loading, control, settings, seed, steps)
    page = write_blots(out, found, build_page(found, settings, loading, control, steps))
    for note in found.notes:
        complain(note)
    print(page)
    return PARTLY if found.notes else OK
