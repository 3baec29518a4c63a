"""napari plugin of histoquant."""
