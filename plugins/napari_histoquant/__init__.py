"""histoquant in napari: slides and results as layers, and widgets from annotation to review.

Every number comes from the library; nothing is computed here that a script would not compute alike.
"""
