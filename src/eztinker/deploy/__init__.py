"""Models leave the house: merging, exporting, comparing, pushing. Commands only; the server does without."""
