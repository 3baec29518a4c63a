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
# # 5. Trust: measurement error, sampling error, the threshold
#
# Three questions to ask of a number: are the counts right in the fields that were looked at; do the fields
# stand for the section; does the answer hang on a threshold?

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib_inline.backend_inline import set_matplotlib_formats

from histoquant.pipeline import measure_field, prepare_section
from histoquant.protocol import validate_protocol
from histoquant.study import Section, Source
from histoquant.synthetic import (
    CellsSettings,
    LayoutSettings,
    RenderSettings,
    render_section,
    tell_truth,
    true_ratio,
    truth_in_field,
    write_section,
)

set_matplotlib_formats("jpeg")  # small files
plt.rcParams["figure.dpi"] = 70
# Small fields, no second opinion and no search for artefacts, so that the notebook is quick.
quick = {"qc": {"check": False, "artefacts": {"avoid": False}}, "fibers": {"cross_check": 0}}
protocol = validate_protocol({"fields": {"width_um": 300, "margin_um": 80}, **quick})
marker = protocol.markers["CD19"]
folder = Path(mkdtemp())


def render(name: str, seed: int, cells: CellsSettings, size_um: float) -> tuple[Section, object]:
    settings = RenderSettings(size_um=(size_um, size_um), layout=LayoutSettings(rim_um=60), cells=cells)
    rendered = render_section(np.random.default_rng(seed), settings)
    write_section(rendered, folder / f"{name}.svs")
    section = Section(name, name, "", "CD19", "", "", "", (Source(folder / f"{name}.svs", 0),))
    return section, tell_truth(rendered)


# %% [markdown]
# ## Measurement error: counted against true, in the same fields
#
# Four sections of very different density, two fields each.

# %%
rows, objects = [], []
for seed, density in enumerate((0.1, 0.3, 0.6, 1.0), start=21):
    section, truth = render(f"P{seed}", seed, CellsSettings(positive_cells_per_fiber=density), 800)
    for task in prepare_section(section, protocol, seed=0).tasks[:2]:
        measured = measure_field(task, marker, protocol)
        true = truth_in_field(truth, task.field)
        row = {"section": section.id, "field": task.field.number}
        row |= {name: measured.row[name] for name in ("fibers", "positive_cells")}
        rows.append(row | {"true_fibers": true.fibers, "true_cells": true.positive_cells})
        objects.append(measured.objects)
table = pd.DataFrame(rows)
table

# %%
total = table.sum(numeric_only=True)
print(f"fibers:         {total['fibers']} counted, {total['true_fibers']} true")
print(f"positive cells: {total['positive_cells']} counted, {total['true_cells']} true")

# %% [markdown]
# Eight small fields from the package's own renderer are a demonstration, not a proof. What is known, on
# real texture and with a network that has not seen it, weak points included, is in
# [Accuracy](../docs/accuracy.md).
#
# ## Sampling error: ten random fields against the whole section
#
# Here nothing is measured: true counts only, so that what remains is what fields cannot tell. Ten fields
# are drawn with 40 seeds on a section of which the whole is known.

# %%
section, truth = render("P30", 30, CellsSettings(positive_cells_per_fiber=0.3), 1700)
draws = []
for seed in range(40):
    true = [truth_in_field(truth, task.field) for task in prepare_section(section, protocol, seed).tasks]
    draws.append([one.positive_cells / one.fibers for one in true if one.fibers])
whole = true_ratio(truth)
means = {number: np.array([np.mean(draw[:number]) for draw in draws]) for number in (2, 5, 10)}

figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.boxplot(means.values(), tick_labels=[f"{number} fields" for number in means], orientation="horizontal")
axis.axvline(whole, color="#d55e00", label="whole section")
axis.set_xlabel("true cells per fiber in the fields, 40 draws")
axis.legend()
for number, values in means.items():
    print(f"{number:2} fields: standard deviation {values.std(ddof=1) / whole:.0%} of the section's value")

# %% [markdown]
# Positive cells gather in infiltrates, so fields of one section differ much. This is why every section's
# value has an interval, and why more patients help more than sharper counts. It has nothing to do with the
# program: a person who counts the same fields has the same error.
#
# ## The threshold
#
# A cell is positive if its DAB exceeds the marker's threshold. Every cell is in `objects.parquet` with its
# DAB, so that another threshold needs no new run.

# %%
cells = pd.concat(objects)
cells = cells[cells["kind"].eq("cell") & cells["counted"]]
thresholds = np.linspace(0.02, 0.3, 57)
counts = [int((cells["dab_od"] > one).sum()) for one in thresholds]

figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.plot(thresholds, counts, color="#0072b2")
axis.axvline(marker.threshold_od, color="black", ls="--", label="protocol")
axis.axhline(total["true_cells"], color="#d55e00", label="true")
axis.set(xlabel="threshold (OD)", ylabel="positive cells", ylim=(0, None))
axis.legend()

# %% [markdown]
# A flat stretch around the threshold means that the answer does not hang on it. If yours is steep there,
# the stain is weak or the background high: look at [staining quality](04_quality.ipynb), and [validate in
# your laboratory](../docs/validation.md). Next: [a stain and a model of your own](06_own.ipynb).
