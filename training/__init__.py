"""Training of the shipped fiber network: `python -m training --help`."""
