"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

from histoquant.cli import measure, publish, validate
from histoquant.cli.app import main

__all__ = ["main", "measure", "publish", "validate"]
