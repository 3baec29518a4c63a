"""Synthetic sections of muscle with exact truth, and studies made of them."""

from histoquant.synthetic.section import Section, render_section
from histoquant.synthetic.settings import CellsSettings, LayoutSettings, RenderSettings, StainingSettings
from histoquant.synthetic.slide import write_section
from histoquant.synthetic.study import MarkerPlan, StudyPlan, plan_study, vary_section, write_study
from histoquant.synthetic.truth import (
    Count,
    Truth,
    find_uncertain,
    read_truth,
    tell_truth,
    true_ratio,
    truth_in_field,
    write_truth,
)

__all__ = [
    "CellsSettings",
    "Count",
    "LayoutSettings",
    "MarkerPlan",
    "RenderSettings",
    "Section",
    "StainingSettings",
    "StudyPlan",
    "Truth",
    "find_uncertain",
    "plan_study",
    "read_truth",
    "render_section",
    "tell_truth",
    "true_ratio",
    "truth_in_field",
    "vary_section",
    "write_section",
    "write_study",
    "write_truth",
]
