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
# # 3. A study: correlation, groups, the report
#
# Six patients of two groups, two markers, measured as `histoquant run` measures a study of yours. Sections
# are small and two small fields are drawn on each, without quality control, so that the notebook is quick:
# its P values tell how the tables are read, not more.

# %%
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib_inline.backend_inline import set_matplotlib_formats

from histoquant.synthetic import LayoutSettings, MarkerPlan, RenderSettings, StudyPlan, write_study

set_matplotlib_formats("jpeg")  # small files
plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## The study table
#
# A row per section. Rendered studies have the truth beside it, in `truth.csv`.

# %%
PROTOCOL = """
[fields]
width_um = 220
margin_um = 70
count = 2
[fibers]
cross_check = 0.0
[qc]
check = false
[qc.artefacts]
avoid = false
"""
folder = Path(mkdtemp())
plan = StudyPlan(
    patients=(3, 3),
    markers={
        "BAFF-R": MarkerPlan(mean=(0.27, 0.42), sd=(0.14, 0.23)),
        "CD19": MarkerPlan(mean=(0.18, 0.36), sd=(0.08, 0.21)),
    },
    render=RenderSettings(size_um=(660, 660), layout=LayoutSettings(rim_um=60)),
)
write_study(folder, plan, seed=3)
(folder / "PROTOCOL.toml").write_text(PROTOCOL)
pd.read_csv(folder / "STUDY.csv").head(4)

# %% [markdown]
# ## The run

# %%
words = ["run", "STUDY.csv", "--out", "results", "--protocol", "PROTOCOL.toml", "--workers", "1", "--quiet"]
done = subprocess.run([sys.executable, "-m", "histoquant", *words], cwd=folder)
print("exit code", done.returncode)
sorted(path.name for path in (folder / "results").iterdir() if not path.name.startswith("."))

# %% [markdown]
# ## Sections
#
# Each section's value is the mean of its fields' ratios; the interval is over its fields, so that it is
# wide with two.

# %%
sections = pd.read_csv(folder / "results" / "sections.csv")
columns = ["section", "group", "fields", "fibers", "positive_cells", "cells_per_fiber", "ci_low", "ci_high"]
sections[columns].round(3)

# %% [markdown]
# ## Patients, and what is tested
#
# The patient is the unit: n counts patients, never fields or cells.

# %%
patients = pd.read_csv(folder / "results" / "patients.csv")
patients.round(3)

# %%
statistics = pd.read_csv(folder / "results" / "statistics.csv")
columns = ["analysis", "marker", "marker_2", "n", "n_2", "estimate_name", "estimate", "p", "p_exact", "note"]
statistics[columns].round(3)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (group, own), color in zip(patients.groupby("group"), ("#0072b2", "#d55e00"), strict=True):
    axes[0].scatter(own["BAFF-R"], own["CD19"], color=color, label=group)
    axes[1].scatter([group] * len(own), own["CD19"], color=color)
axes[0].set(xlabel="BAFF-R positive cells per fiber", ylabel="CD19 positive cells per fiber")
axes[0].legend()
axes[1].set_ylabel("CD19 positive cells per fiber")

# %% [markdown]
# With six patients no P value of a rank test over groups can be below 0.1, whatever the sections show;
# `note` says that the intervals are unreliable. `histoquant plan` says from a pilot run how many patients a
# study needs.
#
# ## Beside the truth

# %%
truth = pd.read_csv(folder / "truth.csv").set_index("section")
beside = sections.set_index("section")[["cells_per_fiber"]]
beside = beside.assign(true_of_the_whole=truth["cells_per_fiber"])
beside.round(3)

# %% [markdown]
# What differs here is for the most part sampling error: two small fields cannot stand for a section. How
# the two errors are told apart is in [Trust](05_trust.ipynb). `results/report.html` holds all of this on
# one page, with a picture of every field. Next: [staining quality](04_quality.ipynb).
