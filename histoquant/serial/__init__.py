"""Serial sections of one biopsy: registered, drawn in the same places, and compared cell by cell."""
