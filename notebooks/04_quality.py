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
# # 4. Is a slide fit to count? Quality and control charts
#
# A blurred or badly stained slide gives a count like any other. `histoquant qc` looks at every slide
# before, and at the controls of every batch.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
from IPython.display import SVG

from histoquant.control.charts import judge_history, plot_series
from histoquant.control.history import Observation, add_observations, read_history
from histoquant.control.survey import check_section
from histoquant.protocol import validate_protocol
from histoquant.study import Section, Source
from histoquant.synthetic import (
    LayoutSettings,
    RenderSettings,
    StainingSettings,
    render_section,
    write_section,
)

folder = Path(mkdtemp())
# Small fields on small sections, so that the notebook is quick.
protocol = validate_protocol({"fields": {"width_um": 200, "count": 3}, "qc": {"fields": 3, "baseline": 12}})


def render(name: str, seed: int, size_um: float = 800, quality: int = 85, **staining: float) -> Section:
    settings = RenderSettings(
        size_um=(size_um, size_um),
        layout=LayoutSettings(rim_um=40),
        staining=StainingSettings(**staining),
    )
    path = folder / f"{name}.svs"
    write_section(render_section(np.random.default_rng(seed), settings), path, quality)
    return Section(name, "P01", "", "CD19", "", "", "", (Source(path, 0),))


# %% [markdown]
# ## One good slide and three faults
#
# The same tissue each time; only one thing differs from the first.

# %%
slides = [
    render("good", 1),
    render("blurred", 1, defocus_um=2.0, blur_um=1.4),
    render("pale", 1, nucleus_od=0.12, fiber_od=0.02),
    render("brown", 1, background_od=0.2),
]
checks = [check_section(slide, protocol, seed=0) for slide in slides]
said = {check.section.id: {"verdict": check.verdict, "reasons": "; ".join(check.reasons)} for check in checks}
pd.DataFrame(said).T.style.set_properties(**{"white-space": "normal", "text-align": "left"})

# %% [markdown]
# `repeat`: scan or stain again. `look`: something passed a limit; look before you count. Every reason says
# what to do. The measures behind them are medians over the fields looked at:

# %%
columns = ["blur_um", "haematoxylin_strong_od", "dab_background_od", "unevenness", "jpeg_quality"]
pd.DataFrame([check.values for check in checks], index=[slide.id for slide in slides])[columns].round(2)

# %% [markdown]
# ## Control charts
#
# A stain that fades from batch to batch is not seen on one slide. Put a control on every batch and keep a
# history (`histoquant qc STUDY.csv --out DIR --history LAB.sqlite`): the first controls set mean and SD,
# later ones are judged by Westgard's rules. Twelve batches as usual, then six of a haematoxylin that loses
# strength:

# %%
rng = np.random.default_rng(4)
strength = np.r_[rng.normal(0.65, 0.03, 12), 0.65 - 0.04 * np.arange(1, 7)]
history = folder / "lab.sqlite"
for batch, nucleus_od in enumerate(strength, start=1):
    control = render(f"control {batch}", 100 + batch, size_um=400, nucleus_od=nucleus_od)
    check = check_section(control, protocol, seed=0)
    about = (control.id, str(batch), "CD19", "positive")
    measures = {name: value for name, value in check.values.items() if np.isfinite(value)}
    new = [
        Observation(f"2026-01-{batch:02d}", *about, name, value, control.id)
        for name, value in measures.items()
    ]
    add_observations(history, new)
series = judge_history(read_history(history), protocol.qc.baseline)
own = series[series["measure"].eq("haematoxylin_strong_od")]
SVG(plot_series(own, "haematoxylin (OD)"))

# %%
own.loc[own["rules"].ne(""), ["batch", "value", "score", "rules"]].round(2)

# %% [markdown]
# 1-2s only warns; each of the others rejects (red diamonds), and `histoquant qc` then ends with exit code
# 1. Rules and limits, and which faults were planted to test them, are in [Is a slide fit to
# count?](../docs/qc.md). Next: [trust](05_trust.ipynb).
