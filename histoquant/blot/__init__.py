"""Western blots: lanes found, bands measured, normalised to a loading control, compared between groups."""
