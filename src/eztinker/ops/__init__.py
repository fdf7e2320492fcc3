"""Pure tensor functions with their formulas in the docstrings."""
