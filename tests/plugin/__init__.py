"""Tests of the napari plugin; they need a display: xvfb-run -a."""
