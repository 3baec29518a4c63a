"""Positive cells per muscle fiber in random 400x fields of stained sections."""

__version__ = "0.1.0"
