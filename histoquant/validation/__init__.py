"""Validation: a run against a person's counts, points or outlines, in the run's own fields."""

from histoquant.validation.validate import Validation, validate_run

__all__ = ["Validation", "validate_run"]
