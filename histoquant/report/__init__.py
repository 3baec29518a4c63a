# This package touches files: it reads its own page template and style sheet.
"""The report: one self-contained HTML page from the tables of a run."""

from histoquant.report.build import RunTables, build_report

__all__ = ["RunTables", "build_report"]
