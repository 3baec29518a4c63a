"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

from histoquant.cli import blot, cohort, measure, mri, plan, publish, qc, serial, validate, vectors
from histoquant.cli.app import main

__all__ = [
    "blot",
    "cohort",
    "main",
    "measure",
    "mri",
    "plan",
    "publish",
    "qc",
    "serial",
    "validate",
    "vectors",
]
