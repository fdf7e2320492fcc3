"""The eight stages of the finance pipeline, in the order in which they run."""
