# This module touches files: it reads and writes protocol TOML.
"""The protocol: every setting of a measurement, with its unit, bounds and meaning."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from histoquant.errors import ProtocolError

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(gt=0, le=3)]
Intensity = Annotated[float, Field(gt=0, le=255)]
_LEAST_SINE = 0.1  # about 6 degrees
_PRESETS = Path(__file__).parent / "presets"
_TAKEN_NAMES = frozenset({"patient", "group"})
Vector = tuple[float, float, float]


class Settings(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class MarkerSettings(Settings):
    """What makes a cell positive for one marker."""

    compartment: Literal["nucleus", "membrane", "cytoplasm", "cell"] = "membrane"
    """Part of the cell in which DAB is measured."""
    threshold_od: Density = 0.07
    """DAB (OD) in the compartment, above the surroundings (`qupath`: as it is), of a positive cell."""
    fiber_threshold_od: Density = 0.1
    """DAB optical density, above the median fiber of the region, beyond which a fiber is positive."""
    count_without_nucleus: bool = False
    """Count closed rings of cell size whose nucleus lies outside the plane of the section."""


class FieldSettings(Settings):
    """How fields are drawn and what counts in them."""

    count: Annotated[int, Field(ge=1, le=1000)] = 10
    """Fields drawn per section."""
    shape: Literal["circle", "square"] = "circle"
    """Shape of a field."""
    width_um: Annotated[float, Field(ge=50, le=5000)] = 550.0
    """Width of a field: field number 22 through a 40x objective is 550 um."""
    margin_um: Annotated[float, Field(ge=0, le=1000)] = 150.0
    """Margin segmented around a field, at least the largest fiber's width."""
    min_tissue_fraction: Share = 0.7
    """Least share of the field that is tissue."""
    inset_um: Annotated[float, Field(ge=0, le=1000)] = 60.0
    """Inset of the counting frame in a camera image that has no surroundings."""
    max_inset_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Most that the inset may take of the camera image's short side."""
    max_sequences: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Sequences of draws tried before a section is called incomplete."""


class TissueSettings(Settings):
    """What is tissue on the overview."""

    mpp: Annotated[float, Field(ge=1, le=64)] = 8.0
    """Pixel size of the overview on which tissue is found, um/px."""
    min_od: Density = 0.03
    """Least mean optical density over the three channels that can be tissue."""
    gap_um: Annotated[float, Field(ge=0, le=500)] = 30.0
    """Gaps between fibers up to about this width belong to the tissue."""
    min_area_um2: Annotated[float, Field(ge=0)] = 20_000.0
    """Smaller pieces are debris."""
    max_hole_um2: Annotated[float, Field(ge=0)] = 10_000.0
    """Smaller holes are filled."""


class StainSettings(Settings):
    """White point and stain vectors."""

    white: tuple[Intensity, Intensity, Intensity] | Literal["auto"] = "auto"
    """Intensity of empty glass per channel (red, green, blue), or `auto`: estimated per slide."""
    vectors: Literal["default", "auto"] | tuple[Vector, Vector] = "default"
    """Optical density of haematoxylin and of DAB, `default`, or `auto`: estimated per slide."""

    @field_validator("vectors")
    @classmethod
    def _refuse_one_direction(cls, value: Any) -> Any:
        """Two stains can be told apart only if their vectors point apart."""
        if isinstance(value, str):
            return value
        (a, b, c), (d, e, f) = value
        cross = math.hypot(b * f - c * e, c * d - a * f, a * e - b * d)
        if cross <= _LEAST_SINE * math.hypot(a, b, c) * math.hypot(d, e, f):
            raise ValueError("are zero or nearly parallel: give the densities of two different stains")
        return value


class FiberSettings(Settings):
    """Segmentation of muscle fibers."""

    method: str = "network"
    """Name of the segmenter: `network`, `classical`, or one that another package brings."""
    model: str = ""
    """ONNX file for the network, of the form of the shipped one; empty for the shipped one."""
    min_area_um2: Positive = 100.0
    """Smaller profiles are not fibers."""
    longitudinal_ratio: Annotated[float, Field(ge=1)] = 3.0
    """Length (maximal by minimal Feret diameter) above which a fiber is cut along, and not counted."""
    longitudinal_length_um: Positive = 150.0
    """Length that a fiber cut along must also exceed; small angular fibers are slim too."""
    longitudinal_share: Share = 0.1
    """Share of longitudinal fibers in a field's fiber area above which the field is flagged."""
    cross_check: Share = 0.33
    """Difference to the classical method's number of fibers, as a share, that flags a field; 0: no check."""


class QupathSettings(Settings):
    """Cell detection after QuPath, with its parameters and defaults; only with `cells.method = "qupath"`."""

    background_um: Annotated[float, Field(ge=0, le=50)] = 8.0
    """Radius of the background that is taken off; 0: nothing is."""
    max_background_od: Positive = 2.0
    """Where the background is darker than this there are no nuclei; only with a background radius."""
    median_um: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Radius of a median filter; 0: no filter."""
    sigma_um: Annotated[float, Field(gt=0, le=20)] = 1.5
    """Sigma of the Gaussian filter."""
    threshold_od: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Optical density, summed over red, green and blue, above which a nucleus is one."""
    min_area_um2: Annotated[float, Field(ge=0)] = 10.0
    """Smaller nuclei are left out."""
    max_area_um2: Positive = 400.0
    """Larger nuclei are left out."""
    split_by_shape: bool = True
    """Split nuclei at their waists."""


class CellSettings(Settings):
    """Segmentation of nuclei and cells."""

    method: Literal["histoquant", "qupath"] = "histoquant"
    """How cells are found and measured: `histoquant`, or `qupath`, to compare with such studies."""
    qupath: QupathSettings = QupathSettings()
    """Cell detection after QuPath."""
    min_nucleus_um2: Positive = 8.0
    """Smaller nuclei are debris."""
    max_nucleus_um2: Positive = 250.0
    """Larger dark objects are not single nuclei."""
    nucleus_od: Density = 0.15
    """Haematoxylin above the local background that makes a nucleus."""
    growth_um: Annotated[float, Field(ge=0, le=50)] = 1.5
    """Width of cell body around a nucleus."""
    background_um: Annotated[float, Field(ge=2, le=50)] = 8.0
    """Radius of the local background of both stains; what is wider than twice this is not a cell."""
    ring_od: Density = 0.1
    """DAB above the local background of the faintest closed ring that makes a cell."""
    inside_share: Share = 0.65
    """Part of a nucleus that must lie inside a fiber for the cell to sit in it."""
    invading_depth_um: Positive = 3.0
    """A nucleus whose center lies deeper in a fiber is not one of its rim."""
    invading_nuclei: Annotated[int, Field(ge=2)] = 3
    """So many nuclei deep in one fiber are invading cells; fewer are its own, unless positive."""
    touching_um: Positive = 3.0
    """A cell whose center is nearer to a fiber is endomysial, however wide the space."""
    perimysium_um: Positive = 20.0
    """Narrowest space between fibers that is perimysium."""
    perimysium_length_um: Positive = 150.0
    """Shortest one; a shorter wide space is a hole in the endomysium."""
    min_lumen_um: Positive = 6.0
    """Diameter of the smallest lumen of a vessel; capillaries have smaller ones."""
    max_lumen_um: Positive = 300.0
    """Diameter of the largest lumen of a vessel."""
    perivascular_um: Positive = 27.0
    """Distance from a lumen, its wall included, up to which a cell outside of fascicles is perivascular."""


class StatisticsSettings(Settings):
    """Intervals and permutation tests."""

    draws: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """Bootstrap draws and permutations."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of intervals."""
    positive_patient_cells: Annotated[int, Field(ge=1)] = 1
    """Least number of positive cells over all fields of a marker for a patient to be called positive."""


class ArtefactSettings(Settings):
    """Artefacts on the overview, which the draw of fields avoids; parts out of focus by `qc.max_blur_um`."""

    avoid: bool = True
    """Draw no field on folds, pen marks, bubbles, brown edges or parts out of focus."""
    max_fold_ratio: Annotated[float, Field(gt=1)] = 2.2
    """Density of a fold, by that of the usual tissue."""
    min_pen_od: Density = 0.1
    """Density of colour that neither stain has, of a pen mark; black ones have six times as much."""
    min_rim_od: Density = 0.12
    """Density of a bubble's rim, above what lies on both sides."""
    max_edge_od: Density = 0.08
    """DAB of the tissue's edge above that of the rest."""
    max_share: Share = 0.3
    """Share of the tissue that such artefacts cover, beyond which a slide is to be repeated."""


class PeerSettings(Settings):
    """A slide against the others of its batch, in `histoquant qc`; beyond a limit it is to be looked at."""

    least: Annotated[int, Field(ge=2)] = 4
    """Fewest other slides that it is compared with."""
    max_haematoxylin_ratio: Annotated[float, Field(gt=1)] = 1.5
    """Haematoxylin of nuclei by that of the others, or theirs by its own; up to 1.3 counts do not move."""
    max_background_od: Density = 0.06
    """Brown background above that of the others of its marker."""


class QcSettings(Settings):
    """Limits of quality, beyond which a field is flagged with what is wrong and what to do."""

    check: bool = True
    """Measure the quality of every field of a run."""
    exclude: bool = False
    """Leave flagged fields out of the section's value, instead of only flagging them."""
    exclude_repeat: bool = False
    """Leave sections whose slide is judged `repeat` out of patients and statistics; the report names them."""
    fields: Annotated[int, Field(ge=1, le=1000)] = 5
    """Fields that `histoquant qc` looks at."""
    repeat_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of them that must fail by a fault of scan or stain for a slide to be repeated."""
    baseline: Annotated[int, Field(ge=5, le=1000)] = 20
    """Controls from which mean and SD of a chart are taken."""
    artefacts: ArtefactSettings = ArtefactSettings()
    """Artefacts that no field is drawn on."""
    peers: PeerSettings = PeerSettings()
    """Limits against the other slides of a batch."""
    max_hole_share: Share = 0.03
    """Share of the tissue that is small round holes, as ice crystals leave them."""
    max_blur_um: Positive = 1.25
    """Blur of the sharpest edges (standard deviation of the point spread); a sharp field has 0.6 to 0.9."""
    max_blurred_share: Share = 0.5
    """Share of the field that is blurred more than that."""
    min_jpeg_quality: Annotated[float, Field(ge=0, le=100)] = 42.0
    """Least JPEG quality that the pixels have gone through."""
    max_clipped_share: Share = 0.02
    """Share of pixels that are black or full in a channel."""
    max_unevenness: Share = 0.22
    """Loss of light from the brightest to the darkest part of the field."""
    min_haematoxylin_od: Annotated[float, Field(ge=0, le=3)] = 0.2
    """Least haematoxylin of the darkest 1 % of the tissue."""
    max_haematoxylin_od: Density = 1.2
    """Most haematoxylin of the darkest 1 % of the tissue."""
    max_dab_background_od: Density = 0.12
    """Most DAB of the median pixel of tissue."""
    max_haematoxylin_angle_deg: Annotated[float, Field(gt=0, le=90)] = 6.0
    """Angle between the haematoxylin of nuclei and the vector used."""
    max_dab_angle_deg: Annotated[float, Field(gt=0, le=90)] = 90.0
    """Angle between the DAB of brown structures and the vector used; 90: not judged, since JPEG moves it."""
    max_negative_share: Share = 0.1
    """Share of the field in which a stain is below -0.05."""


SHIPPED_MARKERS = {
    # Rings read about 0.75 times what their peak stands above the ground, less 0.03: 0.05 is a peak of 0.1.
    # Rendered bodies lie above 0.3 OD, some false ones just above 0.07 (docs/accuracy.md).
    "BAFF": MarkerSettings(compartment="cell", threshold_od=0.12),
    "BAFF-R": MarkerSettings(compartment="membrane", threshold_od=0.05),
    "CD19": MarkerSettings(compartment="membrane", threshold_od=0.05),
}


class Protocol(Settings):
    """The settings of a measurement; what is not given takes the default."""

    version: Literal[1] = 1
    """Version of this format."""
    working_mpp: Annotated[float, Field(ge=0.2, le=1.0)] = 0.5
    """Pixel size of stain and label images, um/px; stains are separated before down-sampling."""
    geojson_from_bounds: bool = False
    """GeoJSON positions, read and written, count from the slide's bounds, not from its upper left corner."""
    markers: dict[str, MarkerSettings] = SHIPPED_MARKERS
    """Markers by name; BAFF, BAFF-R and CD19 are shipped, others are added."""
    fields: FieldSettings = FieldSettings()
    """How fields are drawn and what counts in them."""
    tissue: TissueSettings = TissueSettings()
    """What is tissue on the overview."""
    stain: StainSettings = StainSettings()
    """White point and stain vectors."""
    fibers: FiberSettings = FiberSettings()
    """Segmentation of muscle fibers."""
    cells: CellSettings = CellSettings()
    """Segmentation of nuclei and cells."""
    qc: QcSettings = QcSettings()
    """Limits of quality."""
    statistics: StatisticsSettings = StatisticsSettings()
    """Intervals and permutation tests."""

    @model_validator(mode="before")
    @classmethod
    def _keep_shipped_markers(cls, data: Any) -> Any:
        """Markers of a protocol are added to the shipped ones, key by key."""
        given = data.get("markers") if isinstance(data, dict) else None
        if not isinstance(given, dict):
            return data
        if taken := _TAKEN_NAMES & given.keys():
            raise ValueError(f"a marker cannot be called {min(taken)}, which is a column of patients.csv")
        shipped = {name: marker.model_dump() for name, marker in SHIPPED_MARKERS.items()}
        merged = {
            name: {**shipped.get(name, {}), **marker} if isinstance(marker, dict) else marker
            for name, marker in given.items()
        }
        return {**data, "markers": {**shipped, **merged}}


def load_protocol(path: Path | None) -> Protocol:
    """Read a protocol from TOML; without a path, the defaults.

    Parameters
    ----------
    path : Path or None
        TOML file with the keys of `Protocol`, or the name of a shipped preset (`qupath`) where no file
        is called so.

    Returns
    -------
    Protocol

    Raises
    ------
    ProtocolError
        The file is missing, not TOML, or a key or value is wrong; the message names the key.
    """
    if path is None:
        return Protocol()
    preset = _PRESETS / f"{path}.toml"
    if len(path.parts) == 1 and not path.exists() and preset.is_file():
        path = preset
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ProtocolError("cannot be read", path, f"check the path ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            f"is not TOML ({error})", path, "mend the line or start from an exported one"
        ) from error
    return validate_protocol(data, path)


def validate_protocol(data: dict[str, Any], where: object = "protocol") -> Protocol:
    """Make a protocol of plain values.

    Parameters
    ----------
    data : dict
        Keys of `Protocol`.
    where : object, optional
        Named in errors.

    Returns
    -------
    Protocol

    Raises
    ------
    ProtocolError
        An unknown key, a value out of bounds, or a version newer than this program's.

    Examples
    --------
    >>> validate_protocol({"fields": {"count": 3}}).fields.count
    3
    """
    version = data.get("version", 1)
    if isinstance(version, int) and version > 1:
        raise ProtocolError(f"has version {version}", where, "update histoquant: it knows version 1")
    try:
        return Protocol.model_validate(data)
    except ValidationError as error:
        key, message = _explain(error)
        raise ProtocolError(f"key {key}: {message}", where, "correct the key in the protocol") from error


def hash_protocol(protocol: Protocol) -> str:
    """SHA-256 of the settings, by value: equal settings, equal hash."""
    text = json.dumps(protocol.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_measurement(protocol: Protocol, marker: str) -> str:
    """SHA-256 of what bears on one marker's measurement: not other markers, statistics, sections left out."""
    markers = {name: settings for name, settings in protocol.markers.items() if name == marker}
    qc = protocol.qc.model_copy(update={"exclude_repeat": False})
    update = {"markers": markers, "statistics": StatisticsSettings(), "qc": qc}
    return hash_protocol(protocol.model_copy(update=update))


def _explain(error: ValidationError) -> tuple[str, str]:
    """The first key that is wrong, and what each form it may take misses."""
    messages: dict[str, list[str]] = {}
    for one in error.errors():
        # A part with a bracket is a type, where a key may have one of several.
        key = ".".join(str(part) for part in one["loc"] if "[" not in str(part))
        unknown = one["type"] == "extra_forbidden"
        messages.setdefault(key, []).append(_suggest(one["loc"]) if unknown else one["msg"])
    key = next(iter(messages))
    return key, ", or ".join(messages[key])


def _suggest(place: tuple[int | str, ...]) -> str:
    """Which keys there are beside an unknown one, the nearest first."""
    model: type[BaseModel] = Protocol
    if place[0] == "markers":
        model = MarkerSettings
    elif len(place) > 1:
        inner = Protocol.model_fields[str(place[0])].annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Protocol
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"is unknown; did you mean {near[0]}?" if near else f"is unknown; known are {', '.join(known)}"
