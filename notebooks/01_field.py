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
# # 1. A field, from pixels to a ratio
#
# One field of one section, every stage shown. The section is rendered by the package itself, so that the
# truth is known and the notebook needs no file from you.

# %%
from pathlib import Path
from tempfile import mkdtemp

import cv2
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
from matplotlib_inline.backend_inline import set_matplotlib_formats

from histoquant.cells import find_cells
from histoquant.counts import count_field
from histoquant.fibers import get_segmenter
from histoquant.geometry import Field, rasterize_field
from histoquant.objects import list_objects
from histoquant.pictures import draw_overlay, encode_jpeg
from histoquant.protocol import Protocol
from histoquant.slide import open_slide
from histoquant.stains import correct_spill, estimate_white, separate_stains
from histoquant.synthetic import (
    LayoutSettings,
    RenderSettings,
    render_section,
    tell_truth,
    truth_in_field,
    write_section,
)

protocol = Protocol()
marker = protocol.markers["CD19"]
set_matplotlib_formats("jpeg")  # small files
plt.rcParams.update({"figure.dpi": 60, "image.cmap": "gray_r"})

# %% [markdown]
# ## The slide
#
# A slide knows its pixel size; positions are micrometres from its upper left corner.

# %%
folder = Path(mkdtemp())
settings = RenderSettings(size_um=(1000, 1000), layout=LayoutSettings(rim_um=60))
section = render_section(np.random.default_rng(1), settings)
write_section(section, folder / "P01 CD19.svs")
field = Field(1, "circle", center_x_um=500, center_y_um=500, width_um=550, height_um=550)
margin_um = protocol.fields.margin_um

with open_slide(folder / "P01 CD19.svs") as slide:
    overview = slide.overview(protocol.tissue.mpp)
    side_um = field.width_um + 2 * margin_um
    patch = slide.read(field.left_um - margin_um, field.top_um - margin_um, side_um, side_um)
print(patch.pixels.shape, "pixels of", patch.mpp, "um, from", (patch.x_um, patch.y_um))

# %% [markdown]
# The field is a circle of 0.55 mm. A margin of 150 um is read around it: what the edge cuts has to be seen
# whole, or nobody could tell whether more than half of it lies inside.
#
# ## The stains
#
# Light is absorbed by both dyes. In optical density, log10(white / intensity), absorption adds up, so that
# haematoxylin and DAB are found by solving a small linear system per pixel (Ruifrok and Johnston 2001).
# White is what bare glass shows on this slide.

# %%
white, how = estimate_white(overview.pixels)
print("white", np.round(white, 1), "from", how)
stains = correct_spill(separate_stains(patch, white))

figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
corner = np.s_[600:1000, 600:1000]
axes[0].imshow(patch.pixels[corner])
densities = {"haematoxylin": stains.haematoxylin, "DAB": stains.dab}
for axis, (name, image) in zip(axes[1:], densities.items(), strict=True):
    shown = axis.imshow(image[corner], vmin=-0.05, vmax=0.8)
    axis.set_title(f"{name} (OD)")
figure.colorbar(shown, ax=axes, shrink=0.8)
axes[0].set_title(f"part of the field, {400 * patch.mpp:g} um wide")
for axis in axes:
    axis.axis("off")

# %% [markdown]
# ## Fibers and cells
#
# Fibers are found by the network of the package, cells by their nuclei and by closed rings of DAB.

# %%
fibers = get_segmenter(protocol.fibers)(stains)
cells = find_cells(stains, protocol.cells, marker.compartment)
print(fibers.max(), "fibers and", cells.max(), "cells in the field and its margin")

# %% [markdown]
# ## What counts
#
# Every object is measured, counted or not. It counts if more than half of its area lies in the field.

# %%
inside = rasterize_field(field, fibers.shape, stains.x_um, stains.y_um, stains.mpp)
objects = list_objects(1, fibers, cells, stains, inside, marker, protocol.cells)
columns = ["kind", "x_um", "y_um", "area_um2", "fraction_in_field", "counted", "positive", "dab_od"]
objects.loc[objects["straddling"], columns].round(2).head(8)

# %%
picture = draw_overlay(patch, fibers, cells, objects, field)
Image(encode_jpeg(cv2.resize(picture, None, fx=0.45, fy=0.45, interpolation=cv2.INTER_AREA), 75))

# %% [markdown]
# Green: fibers that count. Thick blue: cut by the edge, more than half inside, counted. Dashed purple: cut,
# not counted. A dot marks a positive cell.
#
# ## The ratio, and the truth

# %%
counted = count_field(objects)
true = truth_in_field(tell_truth(section), field)
print(f"measured: {counted['positive_cells']} positive cells / {counted['fibers']} fibers")
print(f"true:     {true.positive_cells} positive cells / {true.fibers} fibers")
print(f"ratio:    {counted['cells_per_fiber']:.3f}, true {true.positive_cells / true.fibers:.3f}")

# %% [markdown]
# One field is no accuracy: how near the counts come over many fields, real photographs among them, is in
# [Accuracy](../docs/accuracy.md). Next: [a section and its ten fields](02_section.ipynb).
