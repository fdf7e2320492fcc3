"""Settings of the finance pipeline."""
