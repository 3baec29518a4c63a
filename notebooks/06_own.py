# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. A marker, a stain and a model of your own
#
# A nuclear marker (Ki67) on a slide whose dyes are not the usual ones, and fibers found by a function of
# yours.

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib_inline.backend_inline import set_matplotlib_formats
from scipy import ndimage
from skimage.segmentation import watershed

from histoquant.cells import find_cells
from histoquant.counts import count_field
from histoquant.fibers import Segmenter, get_segmenter
from histoquant.geometry import Field, Patch, rasterize_field
from histoquant.objects import list_objects
from histoquant.protocol import FiberSettings, validate_protocol
from histoquant.stains import (
    DEFAULT_VECTORS,
    Stains,
    angle_between,
    estimate_vectors,
    estimate_white,
    separate_stains,
)
from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    render_section,
    tell_truth,
    truth_in_field,
)

set_matplotlib_formats("jpeg")  # small files
plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## A marker
#
# Markers are keys of the protocol; this is what a TOML file with `[markers.Ki67]` says. A marker's
# compartment says where its DAB lies; the threshold is yours to validate.

# %%
protocol = validate_protocol({"markers": {"Ki67": {"compartment": "nucleus", "threshold_od": 0.1}}})
marker = protocol.markers["Ki67"]
marker

# %% [markdown]
# ## A stain
#
# A laboratory's dyes and scanner turn colours a little. Here both vectors are turned on purpose.

# %%
true_vectors = ((0.58, 0.74, 0.34), (0.33, 0.60, 0.73))
settings = RenderSettings(
    size_um=(700, 700),
    layout=LayoutSettings(rim_um=60),
    cells=CellsSettings(compartment="nucleus", positive_cells_per_fiber=0.5),
    staining=StainingSettings(haematoxylin_vector=true_vectors[0], dab_vector=true_vectors[1]),
)
section = render_section(np.random.default_rng(6), settings)
patch = Patch(section.pixels, 0.0, 0.0, section.mpp)
white, _ = estimate_white(patch.pixels)
vectors = estimate_vectors(patch.pixels, white)
for number, name in enumerate(("haematoxylin", "DAB")):
    off = angle_between(DEFAULT_VECTORS[number], true_vectors[number])
    left = angle_between(vectors[number], true_vectors[number])
    print(f"{name}: default {off:.1f} degrees off, estimated {left:.1f}")

# %% [markdown]
# In a protocol, `stain.vectors = "auto"` estimates them per slide, or give the two vectors. The default is
# fixed, since an estimate needs enough of both dyes: here haematoxylin is found, and DAB, of which there is
# little, is not.
#
# ## A model
#
# A segmenter is a function from stains to labels. This one smooths haematoxylin and floods it from the
# middle of the fibers; it stands for whatever you have, Cellpose or your own network.


# %%
def make_segmenter(settings: FiberSettings) -> Segmenter:
    return partial(segment, min_area_um2=settings.min_area_um2)


def segment(stains: Stains, min_area_um2: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(stains.haematoxylin, 1.0 / stains.mpp)
    inside = ndimage.binary_opening(smooth > 0.85 * np.median(smooth), iterations=2)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 3.0 / stains.mpp)
    peaks = (ndimage.maximum_filter(depth, round(25 / stains.mpp)) == depth) & (depth > 5 / stains.mpp)
    labels = watershed(-depth, ndimage.label(peaks)[0], mask=inside)
    keep = np.bincount(labels.ravel()) >= min_area_um2 / stains.mpp**2
    keep[0] = False
    return np.where(keep[labels], labels, 0).astype(np.int32)


stains = separate_stains(patch, white, vectors)
segmenters = {"yours": make_segmenter(protocol.fibers), "network": get_segmenter(protocol.fibers)}
fibers = {name: segmenter(stains) for name, segmenter in segmenters.items()}

figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
corner = np.s_[300:900, 300:900]
for axis, (name, labels) in zip(axes, fibers.items(), strict=True):
    axis.imshow(patch.pixels[corner])
    edge = labels != ndimage.grey_erosion(labels, 3)
    axis.imshow(np.ma.masked_equal(edge[corner], False), cmap="autumn")
    axis.set_title(f"{name}: {len(np.unique(labels)) - 1} fibers")
    axis.axis("off")

# %% [markdown]
# ## The count with either

# %%
field = Field(1, "circle", 350, 350, 300, 300)
inside = rasterize_field(field, stains.dab.shape, stains.x_um, stains.y_um, stains.mpp)
cells = find_cells(stains, protocol.cells, marker.compartment)
for name, labels in fibers.items():
    counted = count_field(list_objects(1, labels, cells, stains, inside, marker, protocol.cells))
    print(f"{name + ':':9}{counted['positive_cells']} positive cells / {counted['fibers']} fibers")
true = truth_in_field(tell_truth(section), field)
print(f"true:    {true.positive_cells} positive cells / {true.fibers} fibers")

# %% [markdown]
# To use it by name (`fibers.method = "yours"`), put `make_segmenter` into a package with an entry point, as
# [Other fiber segmenters](../docs/segmenters.md) shows; `python benchmarks/fiber_accuracy.py --method
# yours` then judges it as the shipped network is judged.
